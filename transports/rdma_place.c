/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The source's side of direct placement: RAM goes to its place at the peer by RDMA WRITE.
 *
 * Own memory is registered as it is first placed, a chunk at a time, as far as the chunk exists:
 * registering a hole would allocate it.  Runs of data too small to be worth a registration are
 * copied into a registered stage and go from there.
 *
 * A registration holds the pages that were there when it was made.  A VMM that punches a hole (a
 * balloon does) and lets the guest write there again has other pages in the file, and the device
 * would send the old ones.  The regions are mapped once more for registering only: a punched page
 * loses its entry in that mapping, which nothing but a registration ever fills again.  So before
 * each write the page map tells whether the registration still is what the file holds.
 *
 * The peer's keys are asked for one unit at a time, some of them ahead, so that it registers while
 * we send.
 */
#include "transports/rdma_internal.h"

#include "common/bits.h"
#include "common/holes.h"

#include <endian.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* From this size on a run of data is registered. */
#define REGISTER_MIN (64ULL << 10)
/* One write: 256 pages. */
#define WRITE_MAX (1u << 20)
/* How far ahead keys are asked for. */
#define AHEAD_BYTES (16ULL << 20)
#define AHEAD_UNITS 16u

/* A registration of our own, [from, to) of a region. */
struct local {
    uint64_t from, to;
    struct ibv_mr *mr;
};

/* What is known of a region. */
struct target {
    struct local *locals; /* ascending, not overlapping */
    size_t count, room;
    uint64_t base, unit, units; /* at the peer */
    uint32_t *keys;             /* one for each unit */
    uint64_t *asked, *known;    /* bitmaps of units */
    uint64_t ahead;             /* units below were looked at when asking ahead */
};

struct rdma_placer {
    struct rdma_regions regions;
    struct target *targets;
    unsigned offered; /* regions that the peer has told of */
    bool shared;
    bool pin_all;
    uint64_t chunk;
    unsigned due; /* keys asked for and not told */
    int pagemap;  /* our own */
};

/* ---- what exists; file positions are the job's thread's ---- */

static bool next_data(const struct rdma_region *r, uint64_t at, uint64_t end, uint64_t *from,
                      uint64_t *to)
{
    if (!holes_next_data(r->fd, r->offset + at, r->offset + end, from, to)) {
        return false;
    }
    *from -= r->offset;
    *to -= r->offset;
    return true;
}

static bool has_data(const struct rdma_region *r, uint64_t from, uint64_t end)
{
    return holes_skip(r->fd, r->offset + from, r->offset + end) < r->offset + end;
}

/* The stretch of data in [*from, *to) that holds `at`; false when that is a hole. */
static bool extent_around(const struct rdma_region *r, uint64_t at, uint64_t *from, uint64_t *to)
{
    uint64_t end = *to, first, last;
    for (uint64_t next = *from; next_data(r, next, end, &first, &last) && first <= at;
         next = last) {
        if (last > at) {
            *from = first;
            *to = last;
            return true;
        }
    }
    return false;
}

/* ---- own registrations ---- */

/* How many of them begin at or before `at`. */
static size_t begun_at(const struct target *t, uint64_t at)
{
    size_t low = 0, high = t->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (t->locals[middle].from <= at) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void insert_local(struct target *t, size_t index, struct local local)
{
    if (t->count == t->room) {
        t->room = t->room ? 2 * t->room : 64;
        t->locals = realloc(t->locals, t->room * sizeof(*t->locals));
        if (!t->locals) {
            abort();
        }
    }
    memmove(&t->locals[index + 1], &t->locals[index], (t->count - index) * sizeof(*t->locals));
    t->locals[index] = local;
    t->count++;
}

static bool register_range(struct rdma_channel *c, unsigned region, uint64_t from, uint64_t to,
                           struct error **errp)
{
    struct rdma_placer *p = c->placer;
    struct target *t = &p->targets[region];
    /*
     * For writing, though the device only reads: registering for reading may be a read fault, which
     * maps neighbours as well, and a page that was punched and written anew would look current.
     */
    struct ibv_mr *mr =
        rdma_register(c, &p->regions, region, from, to - from, IBV_ACCESS_LOCAL_WRITE, errp);
    if (!mr) {
        return false;
    }
    insert_local(t, begun_at(t, from), (struct local){.from = from, .to = to, .mr = mr});
    return true;
}

static void drop_local(struct rdma_placer *p, struct target *t, size_t index)
{
    rdma_deregister(&p->regions, t->locals[index].mr);
    t->count--;
    memmove(&t->locals[index], &t->locals[index + 1], (t->count - index) * sizeof(*t->locals));
}

/* Whether the registration of these bytes (at most WRITE_MAX) holds what the file holds. */
static bool is_current(const struct rdma_placer *p, unsigned region, uint64_t offset,
                       uint64_t length)
{
    uint64_t entries[WRITE_MAX / RDMA_PAGE];
    size_t bytes = length / RDMA_PAGE * sizeof(entries[0]);
    uintptr_t at = (uintptr_t)p->regions.list[region].map + offset;
    if (pread(p->pagemap, entries, bytes, (off_t)(at / RDMA_PAGE * sizeof(entries[0]))) !=
        (ssize_t)bytes) {
        return false;
    }
    for (size_t i = 0; i < length / RDMA_PAGE; i++) {
        if (!(entries[i] >> 62)) { /* neither present nor on its way */
            return false;
        }
    }
    return true;
}

/*
 * Registers what exists around `offset`, within its chunk and between the registrations before and
 * behind it.  True without any when that is too little.
 */
static bool register_around(struct rdma_channel *c, unsigned region, uint64_t offset,
                            struct error **errp)
{
    const struct rdma_placer *p = c->placer;
    const struct rdma_region *r = &p->regions.list[region];
    const struct target *t = &p->targets[region];
    size_t next = begun_at(t, offset);
    uint64_t from = offset & ~(p->chunk - 1);
    uint64_t to = r->length - from < p->chunk ? r->length : from + p->chunk;
    if (next && t->locals[next - 1].to > from) {
        from = t->locals[next - 1].to;
    }
    if (next < t->count && t->locals[next].from < to) {
        to = t->locals[next].from;
    }
    if (!extent_around(r, offset, &from, &to) || to - from < REGISTER_MIN) {
        return true;
    }
    return register_range(c, region, from, to, errp);
}

static struct local *find_local(const struct target *t, uint64_t offset)
{
    size_t begun = begun_at(t, offset);
    return begun && offset < t->locals[begun - 1].to ? &t->locals[begun - 1] : NULL;
}

/*
 * The registration to place [offset, offset + *length) from, which is shortened to what it covers;
 * *found NULL: it is to be staged.
 */
static bool prepare(struct rdma_channel *c, unsigned region, uint64_t offset, uint64_t *length,
                    struct local **found, const struct wait *w, struct error **errp)
{
    struct rdma_placer *p = c->placer;
    struct target *t = &p->targets[region];
    struct local *l = find_local(t, offset);
    if (l) {
        uint64_t n = l->to - offset < *length ? l->to - offset : *length;
        if (is_current(p, region, offset, n)) {
            *found = l;
            *length = n;
            return true;
        }
        if (!rdma_await(c, rdma_is_idle, 0, w, errp)) {
            return false; /* it may be in use */
        }
        drop_local(p, t, (size_t)(l - t->locals));
    }
    if (!register_around(c, region, offset, errp)) {
        return false;
    }
    size_t next = begun_at(t, offset);
    uint64_t end = next < t->count ? t->locals[next].from : offset + *length;
    l = *found = find_local(t, offset);
    end = l ? l->to : end;
    *length = end - offset < *length ? end - offset : *length;
    return true;
}

/* rdma-pin-all: everything that exists, in pieces. */
static bool pin_region(struct rdma_channel *c, unsigned region, const struct wait *w,
                       struct error **errp)
{
    const struct rdma_region *r = &c->placer->regions.list[region];
    uint64_t at = 0, from, to;
    while (next_data(r, at, r->length, &from, &to)) {
        uint64_t piece_end = (from / RDMA_PIN_PIECE + 1) * RDMA_PIN_PIECE;
        at = to < piece_end ? to : piece_end;
        rdma_serve(c); /* the destination pins at the same time, and its keys come in */
        if (wait_cancelled(w, errp) ||
            (at - from >= REGISTER_MIN && !register_range(c, region, from, at, errp))) {
            return false;
        }
    }
    return true;
}

/* ---- the peer's keys ---- */

void rdma_on_region(struct rdma_channel *c, const void *body, size_t length)
{
    const struct rdma_region_offer *offer = body;
    struct rdma_placer *p = c->placer;
    if (!p || length != sizeof(*offer) || p->offered == p->regions.count ||
        le32toh(offer->region) != p->offered) {
        rdma_refuse(c, "%s: memory was offered out of turn", c->peer);
        return;
    }
    struct target *t = &p->targets[p->offered];
    uint64_t mine = p->regions.list[p->offered].length;
    t->unit = le64toh(offer->unit);
    t->base = le64toh(offer->base);
    if (le64toh(offer->length) != mine || t->unit < RDMA_CHUNK_MIN || t->unit > RDMA_CHUNK_MAX ||
        (t->unit & (t->unit - 1)) || t->base > UINT64_MAX - mine) {
        rdma_refuse(c, "%s: RAM block '%s' was offered with other sizes", c->peer,
                    p->regions.list[p->offered].name);
        return;
    }
    t->units = (mine + t->unit - 1) / t->unit;
    t->keys = calloc(t->units, sizeof(*t->keys));
    t->asked = calloc(bits_words(t->units), sizeof(uint64_t));
    t->known = calloc(bits_words(t->units), sizeof(uint64_t));
    if (!t->keys || !t->asked || !t->known) {
        abort();
    }
    if (p->pin_all) {
        bits_set_range(t->asked, 0, t->units);
    }
    p->offered++;
}

void rdma_on_shared(struct rdma_channel *c, const void *body, size_t length)
{
    struct rdma_placer *p = c->placer;
    (void)body;
    if (!p || length || p->shared || p->offered != p->regions.count) {
        rdma_refuse(c, "%s: memory was offered incompletely", c->peer);
        return;
    }
    p->shared = true;
}

static bool take_key(struct rdma_placer *p, const struct rdma_key *key)
{
    uint32_t region = le32toh(key->region);
    uint64_t unit = le64toh(key->unit);
    if (region >= p->offered) {
        return false;
    }
    struct target *t = &p->targets[region];
    if (unit >= t->units || !bits_test(t->asked, unit) || bits_test(t->known, unit)) {
        return false;
    }
    t->keys[unit] = le32toh(key->rkey);
    bits_set(t->known, unit);
    p->due -= !p->pin_all;
    return true;
}

void rdma_on_keys(struct rdma_channel *c, const void *body, size_t length)
{
    const struct rdma_key *keys = body;
    bool fits = c->placer && length % sizeof(*keys) == 0;
    for (size_t i = 0; fits && i < length / sizeof(*keys); i++) {
        fits = take_key(c->placer, &keys[i]);
    }
    if (!fits) {
        rdma_refuse(c, "%s: keys of memory that nobody asked for", c->peer);
    }
}

/* Asks for this unit's key, and ahead for those of units that hold data. */
static bool ask_keys(struct rdma_channel *c, unsigned region, uint64_t unit, const struct wait *w,
                     struct error **errp)
{
    struct rdma_placer *p = c->placer;
    struct target *t = &p->targets[region];
    const struct rdma_region *r = &p->regions.list[region];
    struct rdma_ask asks[AHEAD_UNITS];
    size_t count = 0;
    uint64_t ahead = AHEAD_BYTES / t->unit;
    ahead = ahead < 1 || p->due > RDMA_ASKS / 2 ? 1 : ahead > AHEAD_UNITS ? AHEAD_UNITS : ahead;
    uint64_t end = t->units - unit < ahead ? t->units : unit + ahead;
    for (uint64_t u = bits_test(t->asked, unit) ? t->ahead : unit; u < end; u++) {
        uint64_t stop = r->length - u * t->unit < t->unit ? r->length : (u + 1) * t->unit;
        if (!bits_test(t->asked, u) && (u == unit || has_data(r, u * t->unit, stop))) {
            asks[count++] = (struct rdma_ask){.region = htole32(region), .unit = htole64(u)};
            bits_set(t->asked, u);
        }
    }
    t->ahead = t->ahead > end ? t->ahead : end;
    p->due += (unsigned)count;
    return !count || rdma_send(c, RDMA_ASK, asks, count * sizeof(asks[0]), w, errp);
}

/* n: the region in the upper 16 bits, the unit below. */
static bool key_is_known(const struct rdma_channel *c, uint64_t n)
{
    return bits_test(c->placer->targets[n >> 48].known, n & ((1ULL << 48) - 1));
}

static bool await_key(struct rdma_channel *c, unsigned region, uint64_t unit, const struct wait *w,
                      struct error **errp)
{
    struct rdma_placer *p = c->placer;
    struct target *t = &p->targets[region];
    bool asked = bits_test(t->asked, unit);
    bool more = t->ahead < t->units && unit + AHEAD_UNITS / 2 >= t->ahead;
    if (!p->pin_all && (!asked || more) && !ask_keys(c, region, unit, w, errp)) {
        return false;
    }
    return bits_test(t->known, unit) ||
           rdma_await(c, key_is_known, (uint64_t)region << 48 | unit, w, errp);
}

/* ---- placing ---- */

static bool stage_has_room(const struct rdma_channel *c, uint64_t n)
{
    return rdma_can_write(c, n) && c->staged + n <= RDMA_STAGE;
}

/* With a system call: memory that has vanished is an error there, and holes stay holes. */
static bool copy_to_stage(struct rdma_channel *c, const struct rdma_region *r, uint64_t offset,
                          uint64_t length, struct error **errp)
{
    uint8_t *to = rdma_stage(c) + c->stage_next;
    for (uint64_t at = 0; at < length;) {
        ssize_t n = pread(r->fd, to + at, length - at, (off_t)(r->offset + offset + at));
        if (n <= 0) {
            error_set(errp, "ram-vanished", "RAM block '%s' was taken away while it was sent",
                      r->name);
            return false;
        }
        at += (uint64_t)n;
    }
    return true;
}

/* Where it goes. */
struct destination {
    uint64_t at;
    uint32_t rkey;
};

/* Each of these places the first part of [offset, offset + length); how much, or 0 with an error.
 */

static uint64_t place_staged(struct rdma_channel *c, unsigned region, uint64_t offset,
                             uint64_t length, const struct destination *to, const struct wait *w,
                             struct error **errp)
{
    uint64_t n = RDMA_STAGE - c->stage_next < length ? RDMA_STAGE - c->stage_next : length;
    if (!rdma_await(c, stage_has_room, n, w, errp) ||
        !copy_to_stage(c, &c->placer->regions.list[region], offset, n, errp)) {
        return 0;
    }
    rdma_write(c, RDMA_WORK_STAGED, rdma_stage(c) + c->stage_next, c->arena_mr->lkey, (uint32_t)n,
               to->at, to->rkey);
    c->stage_next = (uint32_t)((c->stage_next + n) % RDMA_STAGE);
    return n;
}

static uint64_t place_zeroes(struct rdma_channel *c, uint64_t length, const struct destination *to,
                             const struct wait *w, struct error **errp)
{
    uint64_t n = length < RDMA_ZEROES ? length : RDMA_ZEROES;
    if (!rdma_await(c, rdma_can_write, n, w, errp)) {
        return 0;
    }
    rdma_write(c, RDMA_WORK_WRITE, rdma_zeroes(c), c->arena_mr->lkey, (uint32_t)n, to->at,
               to->rkey);
    return n;
}

static uint64_t place_memory(struct rdma_channel *c, unsigned region, uint64_t offset,
                             uint64_t length, const struct destination *to, const struct wait *w,
                             struct error **errp)
{
    struct local *local;
    uint64_t n = length < WRITE_MAX ? length : WRITE_MAX;
    if (!prepare(c, region, offset, &n, &local, w, errp)) {
        return 0;
    }
    if (!local) {
        return place_staged(c, region, offset, n, to, w, errp);
    }
    uint32_t lkey = local->mr->lkey;
    if (!rdma_await(c, rdma_can_write, n, w, errp)) {
        return 0;
    }
    rdma_write(c, RDMA_WORK_WRITE, c->placer->regions.list[region].map + offset, lkey, (uint32_t)n,
               to->at, to->rkey);
    return n;
}

bool rdma_place(struct channel *channel, unsigned region, uint64_t offset, uint64_t length,
                bool zeroes, const struct wait *w, struct error **errp)
{
    struct rdma_channel *c = (struct rdma_channel *)channel;
    const struct target *t = &c->placer->targets[region];
    while (length) {
        uint64_t unit = offset / t->unit;
        uint64_t n = (unit + 1) * t->unit - offset;
        n = n < length ? n : length;
        if (!await_key(c, region, unit, w, errp)) {
            return false;
        }
        struct destination to = {.at = t->base + offset, .rkey = t->keys[unit]};
        n = zeroes ? place_zeroes(c, n, &to, w, errp)
                   : place_memory(c, region, offset, n, &to, w, errp);
        if (!n) {
            return false;
        }
        offset += n;
        length -= n;
    }
    return true;
}

/* ---- the beginning and the end ---- */

static bool is_shared(const struct rdma_channel *c, uint64_t unused)
{
    (void)unused;
    return c->placer->shared;
}

/* A peer that refuses says so in the stream, where whoever asked looks for it. */
static bool is_shared_or_told(const struct rdma_channel *c, uint64_t unused)
{
    return is_shared(c, unused) || c->received_count || c->ended;
}

static bool pin_all(struct rdma_channel *c, const struct wait *w, struct error **errp)
{
    bool ok = true;
    for (unsigned i = 0; ok && i < c->placer->regions.count; i++) {
        ok = pin_region(c, i, w, errp);
    }
    return ok;
}

bool rdma_placer_share(struct rdma_channel *c, const struct channel_sharing *sharing,
                       const struct wait *w, struct error **errp)
{
    struct rdma_placer *p = c->placer = calloc(1, sizeof(*p));
    if (!p || !(p->targets = calloc(sharing->count, sizeof(*p->targets)))) {
        abort();
    }
    p->chunk = sharing->chunk;
    p->pin_all = sharing->pin_all;
    p->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    struct rdma_share share = {.chunk = htole64(p->chunk),
                               .pin_all = htole32(p->pin_all),
                               .regions = htole32(sharing->count)};
    if (!rdma_regions_map(&p->regions, sharing, errp) ||
        !rdma_send(c, RDMA_SHARE, &share, sizeof(share), w, errp) ||
        (p->pin_all && !pin_all(c, w, errp)) || !rdma_await(c, is_shared_or_told, 0, w, errp)) {
        return false;
    }
    if (!p->shared) {
        error_set(errp, "channel-closed", "%s: the destination shares no memory", c->peer);
    }
    return p->shared;
}

void rdma_placer_free(struct rdma_channel *c)
{
    struct rdma_placer *p = c->placer;
    if (!p) {
        return;
    }
    for (unsigned i = 0; i < p->regions.count; i++) {
        struct target *t = &p->targets[i];
        for (size_t j = 0; j < t->count; j++) {
            rdma_deregister(&p->regions, t->locals[j].mr);
        }
        free(t->locals);
        free(t->keys);
        free(t->asked);
        free(t->known);
    }
    rdma_regions_unmap(&p->regions);
    if (p->pagemap >= 0) {
        close(p->pagemap);
    }
    free(p->targets);
    free(p);
    c->placer = NULL;
}
