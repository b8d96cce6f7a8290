/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A migration stream as a source might send it, through a whole incoming job: introduction, pages,
 * disks, device state, verification, handover.  The guest is small and its VMM agrees to
 * everything.
 *
 * The first byte says what is put right before the stream is read: checksums and counts, which no
 * input would get right by chance, so that what lies behind them is reached.  Bytes around the
 * guest's blocks must not change, whatever comes.
 */
#include "common/log.h"
#include "daemon/incoming.h"
#include "ram/fault.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FLAG_RAW_CHECKS 1u
#define FLAG_RAW_COUNTS 2u
#define FLAG_RAW_START  4u /* the preamble comes from the input, too */
#define FLAG_ONE_WAY    8u

#define INPUT_MAX       (4u << 20)
#define PAGES           12u
#define DISK_LENGTH     (PAGES * RAM_PAGE_SIZE + 512)
#define BASE_LENGTH     (3 * RAM_PAGE_SIZE + 100)
#define GUARD_PAGES     2u
#define GUARD_BYTE      0x5a

/* ---- a channel from the input ---- */

struct input {
    struct channel channel;
    const uint8_t *bytes;
    size_t length, at, piece;
};

static bool swallow(struct channel *c, struct iovec *iov, int iovcnt, const struct wait *w,
                    struct error **errp)
{
    (void)c;
    (void)iov;
    (void)iovcnt;
    (void)w;
    (void)errp;
    return true;
}

static ssize_t give(struct channel *c, void *buf, size_t room, const struct wait *w,
                    struct error **errp)
{
    struct input *in = (struct input *)c;
    size_t n = in->length - in->at;
    (void)w;
    (void)errp;
    n = n < room ? n : room;
    n = n < in->piece ? n : in->piece;
    memcpy(buf, in->bytes + in->at, n);
    in->at += n;
    return (ssize_t)n;
}

static bool always(struct channel *c)
{
    (void)c;
    return true;
}

static bool finish(struct channel *c, const struct wait *w, struct error **errp)
{
    (void)c;
    (void)w;
    (void)errp;
    return true;
}

static void nothing(struct channel *c)
{
    (void)c;
}

static const struct channel_ops input_ops = {
    .write = swallow,
    .read = give,
    .readable = always,
    .finish = finish,
    .end_writing = nothing,
    .close = nothing,
};

/* ---- who listens: one caller, and no more ---- */

static struct input the_input;
static bool accepted;

static struct channel *accept_once(struct listener *l, const struct wait *w, struct error **errp)
{
    (void)l;
    (void)w;
    if (accepted) {
        error_set(errp, "listen-failed", "nobody else calls");
        return NULL;
    }
    accepted = true;
    return &the_input.channel;
}

static bool is_ready(struct listener *l)
{
    (void)l;
    return !accepted;
}

static const char *address(struct listener *l)
{
    (void)l;
    return "fuzz:";
}

static void close_listener(struct listener *l)
{
    (void)l;
}

static struct listener *start_listening(struct endpoint *e, const struct wait *w,
                                        struct error **errp)
{
    static const struct listener_ops ops = {.accept = accept_once,
                                            .ready = is_ready,
                                            .address = address,
                                            .close = close_listener,
                                            .again = true};
    static struct listener listener = {.ops = &ops};
    (void)e;
    (void)w;
    (void)errp;
    return &listener;
}

static void free_endpoint(struct endpoint *e)
{
    (void)e;
}

static const struct endpoint_ops endpoint_ops = {
    .scheme = "fuzz", .listen = start_listening, .free = free_endpoint};
static struct endpoint the_endpoint = {.ops = &endpoint_ops};

/* ---- the guest ---- */

static bool load(struct guest *g, int fd, const struct wait *w, struct error **errp)
{
    (void)g;
    (void)fd;
    (void)w;
    (void)errp;
    return true;
}

static bool start(struct guest *g, bool paused, const struct guest_announce *announce,
                  const struct wait *w, struct error **errp)
{
    (void)g;
    (void)paused;
    (void)announce;
    (void)w;
    (void)errp;
    return true;
}

static void notify(struct guest *g, enum guest_migration status, bool outgoing)
{
    (void)g;
    (void)status;
    (void)outgoing;
}

static void free_guest(struct guest *g)
{
    (void)g;
}

static const struct guest_ops guest_ops = {
    .driver = "fuzz", .load_state = load, .start = start, .notify = notify, .free = free_guest};

/* An overlay, which ends in the middle of a piece of its file, over a base of zeroes. */
static void add_disk(struct guest *g)
{
    uint8_t guard[GUARD_PAGES * RAM_PAGE_SIZE];
    if (g->ndisks) {
        return;
    }
    struct guest_disk *d = &g->disks[g->ndisks++];
    *d = (struct guest_disk){.name = "disk",
                             .fd = memfd_create("fuzz", MFD_CLOEXEC),
                             .base_fd = memfd_create("fuzz", MFD_CLOEXEC),
                             .length = DISK_LENGTH};
    memset(guard, GUARD_BYTE, sizeof(guard));
    if (pwrite(d->fd, guard, sizeof(guard), DISK_LENGTH) < 0 ||
        ftruncate(d->base_fd, BASE_LENGTH) < 0) {
        abort();
    }
}

/* Two blocks in the middle of their files, "low" and "high". */
static struct guest *get_guest(void)
{
    static struct guest guest = {.ops = &guest_ops, .refs = 1, .name = "fuzz", .nblocks = 2};
    for (unsigned i = 0; !guest.ram && i < 2; i++) {
        struct guest_block *b = &guest.blocks[i];
        strcpy(b->name, i ? "high" : "low");
        b->fd = memfd_create("fuzz", MFD_CLOEXEC);
        b->offset = GUARD_PAGES * RAM_PAGE_SIZE;
        b->length = PAGES * RAM_PAGE_SIZE;
        b->gpa = i * b->length;
        uint8_t guard[GUARD_PAGES * RAM_PAGE_SIZE];
        memset(guard, GUARD_BYTE, sizeof(guard));
        if (pwrite(b->fd, guard, sizeof(guard), 0) < 0 ||
            pwrite(b->fd, guard, sizeof(guard), (off_t)(b->offset + b->length)) < 0) {
            abort();
        }
    }
    guest.ram = 2 * PAGES * RAM_PAGE_SIZE;
    add_disk(&guest);
    return &guest;
}

static void check_guard(int fd, off_t from)
{
    uint8_t guard[GUARD_PAGES * RAM_PAGE_SIZE + 1];
    ssize_t n = pread(fd, guard, sizeof(guard), from);
    if (n < (ssize_t)sizeof(guard) - 1 || (from && n == (ssize_t)sizeof(guard))) {
        abort(); /* the file's length has changed */
    }
    for (size_t i = 0; i < sizeof(guard) - 1; i++) {
        if (guard[i] != GUARD_BYTE) {
            abort();
        }
    }
}

/* ---- putting an input right ---- */

struct sums {
    uint64_t pages, zeroes, state, disk_data, disk_zeroes;
    XXH3_state_t *hash;
};

static bool is_streamed(uint32_t type)
{
    return type == RECORD_RAM_PAGES || type == RECORD_STATE || type == RECORD_DISK_DATA;
}

static void fix_disks(struct sums *s, uint32_t type, uint8_t *body, uint64_t length)
{
    static const uint8_t base[BASE_LENGTH];
    if (type == RECORD_DISK && length >= 40 && get_le32(body + 32) & 1) {
        XXH128_canonical_t hash;
        XXH128_canonicalFromHash(&hash, XXH3_128bits(base, sizeof(base)));
        put_le64(body + 8, BASE_LENGTH);
        memcpy(body + 16, &hash, sizeof(hash));
    } else if (type == RECORD_DISK_DATA && length >= 16) {
        s->disk_data += length - 16;
    } else if (type == RECORD_DISK_ZERO && length == 24) {
        s->disk_zeroes += get_le64(body + 16);
    } else if (type == RECORD_DISK_END && length == 16) {
        put_le64(body, s->disk_data);
        put_le64(body + 8, s->disk_zeroes);
    }
}

/* What the record says about itself is made true of the records before it. */
static void fix_counts(struct sums *s, uint32_t type, uint8_t *body, uint64_t length)
{
    if (type == RECORD_RAM_PAGES && length >= 16) {
        s->pages += (length - 16) / RAM_PAGE_SIZE;
    } else if (type == RECORD_RAM_DELTA) {
        s->pages++;
    } else if (type == RECORD_RAM_ZERO && length == 24) {
        s->zeroes += get_le64(body + 16) / RAM_PAGE_SIZE;
    } else if (type == RECORD_STATE && length >= 16) {
        put_le64(body, s->state);
        s->state += length - 16;
        XXH3_64bits_update(s->hash, body + 16, length - 16);
    } else if (type == RECORD_STATE_END && length == 16) {
        put_le64(body, s->state);
        put_le64(body + 8, XXH3_64bits_digest(s->hash));
    } else if (type == RECORD_END && length == 24) {
        put_le64(body, s->pages);
        put_le64(body + 8, s->zeroes);
        put_le64(body + 16, s->state);
    }
}

/* Walks the records as a reader does, as far as they go. */
static void put_right(uint8_t *bytes, size_t length, unsigned flags)
{
    struct sums sums = {.hash = XXH3_createState()};
    XXH3_64bits_reset(sums.hash);
    size_t at = STREAM_PREAMBLE_SIZE;
    if (!(flags & FLAG_RAW_START) && length >= at) {
        stream_preamble(bytes, flags & FLAG_ONE_WAY ? 0 : STREAM_FLAG_TWO_WAY);
    }
    while (length >= at && length - at >= RECORD_HEAD_SIZE) {
        uint8_t *head = bytes + at;
        uint32_t type = get_le32(head);
        uint64_t body = get_le64(head + 8);
        size_t left = length - at - RECORD_HEAD_SIZE;
        if (body > left) {
            break;
        }
        if (!(flags & FLAG_RAW_COUNTS)) {
            fix_counts(&sums, type, head + RECORD_HEAD_SIZE, body);
            fix_disks(&sums, type, head + RECORD_HEAD_SIZE, body);
        }
        if (!(flags & FLAG_RAW_CHECKS)) {
            size_t fixed = is_streamed(type) && body > 16 ? 16 : (size_t)body;
            record_head(head, type, body, head + RECORD_HEAD_SIZE, fixed);
        }
        at += RECORD_HEAD_SIZE + (size_t)((body + 7) & ~7ULL);
    }
    XXH3_freeState(sums.hash);
}

/* ---- a job ---- */

static void note_status(void *opaque, struct job *job, enum job_status status)
{
    (void)opaque;
    (void)job;
    (void)status;
}

static void note_pass(void *opaque, struct job *job, uint64_t pass)
{
    (void)opaque;
    (void)job;
    (void)pass;
}

static void note(void *opaque, struct job *job)
{
    (void)opaque;
    (void)job;
}

static void run_job(void)
{
    static const bool capabilities[CAPABILITY_COUNT];
    static const struct job_hooks hooks = {
        .status = note_status, .pass = note_pass, .listening = note, .finished = note};
    struct params *params = params_new();
    param_set(params, PARAM_GUEST_TIMEOUT, 1);
    param_set(params, PARAM_PEER_TIMEOUT, 1);
    struct job *job =
        job_new(JOB_INCOMING, get_guest(), params, capabilities, &the_endpoint, &hooks, NULL);
    if (!job) {
        abort();
    }
    accepted = false;
    job_set_status(job, JOB_SETUP);
    incoming_run(job);
    if (!job_status_is_terminal(job_get_status(job))) {
        abort();
    }
    job_unref(job);
    params_unref(params);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool begun;
    if (size < 2 || size > INPUT_MAX) {
        return 0;
    }
    if (!begun) {
        fault_init();
        log_set_level(LOG_LEVEL_ERROR);
        begun = true;
    }
    uint8_t *bytes = malloc(size - 2 + 1);
    if (!bytes) {
        abort();
    }
    memcpy(bytes, data + 2, size - 2);
    put_right(bytes, size - 2, data[0]);
    the_input = (struct input){.channel = {.ops = &input_ops, .two_way = true},
                               .bytes = bytes,
                               .length = size - 2,
                               .piece = data[1] ? data[1] : SIZE_MAX};
    run_job();
    free(bytes);
    for (int i = 0; i < 2; i++) {
        const struct guest_block *b = &get_guest()->blocks[i];
        check_guard(b->fd, 0);
        check_guard(b->fd, (off_t)(b->offset + b->length));
    }
    check_guard(get_guest()->disks[0].fd, DISK_LENGTH);
    return 0;
}
