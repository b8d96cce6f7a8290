/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The RAM engine as a whole: what a source saves goes through a channel in memory to a thread that
 * loads it, in rounds, while the source's pages change.
 */
#include "common/bits.h"
#include "common/log.h"
#include "ram/delta.h"
#include "ram/fault.h"
#include "ram/load.h"
#include "ram/save.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"
#include "transports/memory.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

/* Two blocks; "high" lies inside its file. */
#define LOW          (2 * RAM_CHUNK_PAGES + 100) /* two chunks and a bit */
#define HIGH         300u
#define HIGH_FROM    5u
#define BLOCKS       2

#define CHANNEL_ROOM (256u << 10)

struct side {
    int fds[BLOCKS];
    struct ram *ram;
};

struct migration {
    struct side source, destination;
    struct channel *ends[2];
    pthread_t loader;
    struct error *load_error;
    struct ram_load_counters loaded;
    struct ram_counters saved;
    struct ram_saver saver;
    /* The tracker's script: pages that the next sync reports. */
    uint64_t *written[BLOCKS];
    bool sync_fails;
    uint64_t clears; /* calls */
    /* Called by clear, as a guest that writes at that moment. */
    void (*on_clear)(struct migration *m, unsigned block, uint64_t first);
    /* The pacer's. */
    size_t allowance;
    uint64_t asked, asked_max;
    /* Called before each write to the channel. */
    void (*on_write)(struct migration *m);
    uint64_t sent; /* bytes */
    /* Deltas: */
    _Atomic uint64_t cache_bytes; /* as wanted */
    bool interrupted;             /* the pacer's check fails */
};

static const uint64_t block_pages[BLOCKS] = {LOW, HIGH};
static const uint64_t block_from[BLOCKS] = {0, HIGH_FROM};
static const struct wait patient = {.cancel_fd = -1, .timeout_ms = 50000, .what = "the test"};

/* ---- the tracker and the pacer ---- */

static bool script_sync(void *opaque, struct ram *ram, struct error **errp)
{
    struct migration *m = opaque;
    if (m->sync_fails) {
        error_set(errp, "guest-lost", "no sync");
        return false;
    }
    for (unsigned i = 0; i < ram->count; i++) {
        for (size_t w = 0; w < bits_words(block_pages[i]); w++) {
            ram->blocks[i].dirty[w] |= m->written[i][w];
            m->written[i][w] = 0;
        }
    }
    return true;
}

static bool script_clear(void *opaque, unsigned block, uint64_t first, uint64_t count,
                         struct error **errp)
{
    struct migration *m = opaque;
    (void)errp;
    ck_assert_uint_lt(block, BLOCKS);
    ck_assert_uint_eq(first % RAM_CHUNK_PAGES, 0);
    ck_assert_uint_le(first + count, block_pages[block]);
    ck_assert(count == RAM_CHUNK_PAGES || first + count == block_pages[block]);
    m->clears++;
    if (m->on_clear) {
        m->on_clear(m, block, first);
    }
    return true;
}

static size_t script_allow(void *opaque, size_t want, struct error **errp)
{
    struct migration *m = opaque;
    if (!m->allowance) {
        error_set(errp, "cancelled", "no allowance");
        return 0;
    }
    m->asked++;
    m->asked_max = want > m->asked_max ? want : m->asked_max;
    return m->allowance < want ? m->allowance : want;
}

static bool script_check(void *opaque, struct error **errp)
{
    struct migration *m = opaque;
    if (m->interrupted) {
        error_set(errp, "cancelled", "no more");
    }
    return !m->interrupted;
}

static bool sink_write(void *opaque, struct iovec *iov, int iovcnt, struct error **errp)
{
    struct migration *m = opaque;
    if (m->on_write) {
        m->on_write(m);
    }
    for (int i = 0; i < iovcnt; i++) {
        m->sent += iov[i].iov_len;
    }
    return channel_write(m->ends[0], iov, iovcnt, &patient, errp);
}

static long source_read(void *opaque, void *buf, size_t room, struct error **errp)
{
    return channel_read(opaque, buf, room, &patient, errp);
}

/* ---- the loader ---- */

/* ROUND is answered by a byte: everything before it was loaded.  END ends it. */
static bool load_one(struct migration *m, struct record_reader *r, struct record *rec,
                     struct error **errp)
{
    struct iovec iov = {.iov_base = (void *)"!", .iov_len = 1};
    if (rec->type == RECORD_RAM_PAGES) {
        return ram_load_pages(m->destination.ram, r, rec, &m->loaded, errp);
    }
    if (rec->type == RECORD_RAM_ZERO) {
        return ram_load_zero(m->destination.ram, rec, &m->loaded, errp);
    }
    if (rec->type == RECORD_RAM_DELTA) {
        return ram_load_delta(m->destination.ram, rec, &m->loaded, errp);
    }
    if (rec->type == RECORD_ROUND) {
        return channel_write(m->ends[1], &iov, 1, &patient, errp);
    }
    error_set(errp, "stream-order", "%s", record_type_name(rec->type));
    return false;
}

static void *run_loader(void *arg)
{
    struct migration *m = arg;
    struct record_reader *r =
        record_reader_new(&(struct record_source){.read = source_read, .opaque = m->ends[1]});
    struct record rec;
    while (record_read(r, &rec, &m->load_error) && rec.type != RECORD_END &&
           load_one(m, r, &rec, &m->load_error)) {
    }
    record_reader_free(r);
    channel_close(m->ends[1]);
    return NULL;
}

/* ---- a migration ---- */

static void side_open(struct side *s)
{
    static const char *const names[BLOCKS] = {"low", "high"};
    s->ram = ram_new();
    for (int i = 0; i < BLOCKS; i++) {
        struct error *err = NULL;
        s->fds[i] = file_new(block_from[i] + block_pages[i] + 3);
        expect_ok(ram_add(s->ram, names[i], s->fds[i], block_from[i] * PAGE, block_pages[i] * PAGE,
                          (uint64_t)i << 32, &err),
                  err);
    }
}

static void side_close(struct side *s)
{
    ram_free(s->ram);
    for (int i = 0; i < BLOCKS; i++) {
        close(s->fds[i]);
    }
}

/* `faults` (or NULL) are those of what the source sends. */
static void migration_open(struct migration *m, const struct memory_faults *faults)
{
    *m = (struct migration){.allowance = RECORD_PAYLOAD_MAX};
    side_open(&m->source);
    side_open(&m->destination);
    memory_pair(CHANNEL_ROOM, m->ends);
    if (faults) {
        memory_set_faults(m->ends[0], faults);
    }
    for (int i = 0; i < BLOCKS; i++) {
        m->written[i] = calloc(bits_words(block_pages[i]), sizeof(uint64_t));
    }
    m->saver = (struct ram_saver){
        .ram = m->source.ram,
        .tracker = {.sync = script_sync, .clear = script_clear, .opaque = m},
        .pacer = {.allow = script_allow, .check = script_check, .opaque = m},
        .sink = {.write = sink_write, .opaque = m},
        .counters = &m->saved,
    };
    pthread_create(&m->loader, NULL, run_loader, m);
}

/* Returns what the loader ended with. */
static struct error *migration_close(struct migration *m)
{
    m->on_write = NULL;
    uint8_t end[24] = {0};
    record_write(&m->saver.sink, RECORD_END, end, sizeof(end), NULL);
    channel_end_writing(m->ends[0]);
    pthread_join(m->loader, NULL);
    channel_close(m->ends[0]);
    ram_delta_free(m->saver.delta);
    side_close(&m->source);
    side_close(&m->destination);
    for (int i = 0; i < BLOCKS; i++) {
        free(m->written[i]);
    }
    return m->load_error;
}

static void expect_closed_well(struct migration *m)
{
    struct error *err = migration_close(m);
    expect_ok(true, err);
}

static uint64_t pages_done(const struct migration *m)
{
    return m->saved.normal + m->saved.duplicate + m->saved.skipped + m->saved.delta;
}

/* Waits until the loader has taken all that was sent. */
static void settle(struct migration *m)
{
    uint8_t body[16] = {0};
    char answer;
    struct error *err = NULL;
    expect_ok(record_write(&m->saver.sink, RECORD_ROUND, body, sizeof(body), &err), err);
    ssize_t n = channel_read(m->ends[0], &answer, 1, &patient, &err);
    expect_ok(n == 1, err);
}

static void round_of(struct migration *m, enum ram_round kind)
{
    struct error *err = NULL;
    if (kind == RAM_ROUND_FIRST) {
        ram_save_begin(&m->saver);
    } else {
        expect_ok(ram_save_sync(&m->saver, &err), err);
    }
    uint64_t due = ram_count_dirty(m->source.ram);
    ck_assert_uint_eq(atomic_load(&m->saved.remaining), due);
    uint64_t before = pages_done(m);
    expect_ok(ram_save_round(&m->saver, kind, &err), err);
    ck_assert_uint_eq(atomic_load(&m->saved.remaining), 0);
    ck_assert_uint_eq(ram_count_dirty(m->source.ram), 0);
    ck_assert_uint_eq(pages_done(m) - before, due);
    settle(m);
    ck_assert_uint_eq(m->loaded.delta, m->saved.delta);
    ck_assert_uint_eq(m->loaded.normal, m->saved.normal);
    ck_assert_uint_eq(m->loaded.duplicate, m->saved.duplicate);
}

/* ---- what a guest does ---- */

static uint64_t in_file(unsigned block, uint64_t page)
{
    return block_from[block] + page;
}

static void note(struct migration *m, unsigned block, uint64_t first, uint64_t count)
{
    bits_set_range(m->written[block], first, first + count);
}

static void guest_writes(struct migration *m, unsigned block, uint64_t first, uint64_t count,
                         uint64_t seed)
{
    file_fill(m->source.fds[block], in_file(block, first), count, seed);
    note(m, block, first, count);
}

static void guest_zeroes(struct migration *m, unsigned block, uint64_t first, uint64_t count)
{
    file_zero(m->source.fds[block], in_file(block, first), count);
    note(m, block, first, count);
}

static void guest_frees(struct migration *m, unsigned block, uint64_t first, uint64_t count)
{
    file_punch(m->source.fds[block], in_file(block, first), count);
    note(m, block, first, count);
}

static bool is_zero_page(int fd, uint64_t page)
{
    static const uint8_t zeroes[RAM_PAGE_SIZE];
    uint8_t bytes[RAM_PAGE_SIZE];
    ck_assert_int_eq(pread(fd, bytes, PAGE, (off_t)(page * PAGE)), (ssize_t)PAGE);
    return memcmp(bytes, zeroes, PAGE) == 0;
}

/* Both sides hold the same, and the destination no page of zeroes; nothing beside its blocks. */
static void expect_arrived(struct migration *m)
{
    for (unsigned i = 0; i < BLOCKS; i++) {
        int from = m->source.fds[i], to = m->destination.fds[i];
        file_expect_equal(from, to, block_from[i], block_pages[i]);
        for (uint64_t page = 0; page < block_pages[i]; page++) {
            ck_assert_int_eq(file_is_hole(to, in_file(i, page)),
                             is_zero_page(from, in_file(i, page)));
        }
        for (uint64_t page = 0; page < block_from[i]; page++) {
            ck_assert(file_is_hole(to, page));
        }
        ck_assert(file_is_hole(to, block_from[i] + block_pages[i]));
    }
}

static uint64_t source_allocated(const struct migration *m)
{
    return file_allocated(m->source.fds[0]) + file_allocated(m->source.fds[1]);
}

/* Data, zero pages and holes in both blocks, at both ends and across a chunk's border. */
static void furnish(struct migration *m)
{
    guest_writes(m, 0, 0, 3, 1);
    guest_writes(m, 0, RAM_CHUNK_PAGES - 5, 9, 1);
    guest_zeroes(m, 0, 20, 4);
    guest_writes(m, 0, 24, 1, 1);
    guest_writes(m, 0, LOW - 1, 1, 1);
    guest_writes(m, 1, 0, 280, 2); /* more than a unit */
    guest_zeroes(m, 1, HIGH - 2, 2);
    file_fill(m->source.fds[1], 0, HIGH_FROM, 9); /* not the guest's */
    for (int i = 0; i < BLOCKS; i++) {
        memset(m->written[i], 0, bits_words(block_pages[i]) * sizeof(uint64_t));
    }
}

/* ---- the first round ---- */

START_TEST(first_round)
{
    struct migration m;
    migration_open(&m, NULL);
    furnish(&m);
    round_of(&m, RAM_ROUND_FIRST);
    expect_arrived(&m);
    ck_assert_uint_eq(m.saved.normal, 3 + 9 + 1 + 1 + 280);
    ck_assert_uint_eq(m.saved.duplicate, 4 + 2);
    ck_assert_uint_eq(m.saved.skipped, LOW + HIGH - 294 - 6);
    ck_assert_uint_eq(m.clears, 3 + 1); /* once per chunk */
    expect_closed_well(&m);
}
END_TEST

START_TEST(holes_are_not_read)
{
    struct migration m;
    migration_open(&m, NULL);
    furnish(&m);
    uint64_t before = source_allocated(&m);
    round_of(&m, RAM_ROUND_FIRST);
    ck_assert_uint_eq(source_allocated(&m), before);
    ck_assert(file_is_hole(m.source.fds[0], 3));
    expect_closed_well(&m);
}
END_TEST

START_TEST(nothing_but_holes)
{
    struct migration m;
    migration_open(&m, NULL);
    round_of(&m, RAM_ROUND_FIRST);
    round_of(&m, RAM_ROUND_LATER);
    round_of(&m, RAM_ROUND_STOPPED);
    ck_assert_uint_eq(m.saved.normal + m.saved.duplicate, 0);
    ck_assert_uint_eq(m.saved.skipped, LOW + HIGH);
    ck_assert_uint_eq(source_allocated(&m), 0);
    ck_assert_uint_eq(file_allocated(m.destination.fds[0]), 0);
    expect_closed_well(&m);
}
END_TEST

/* Every page another kind than the one before: more records than a batch has room for. */
START_TEST(many_small_runs)
{
    struct migration m;
    migration_open(&m, NULL);
    for (uint64_t page = 0; page < 2600; page += 2) {
        guest_writes(&m, 0, page, 1, page);
        guest_zeroes(&m, 0, page + 1, 1);
    }
    round_of(&m, RAM_ROUND_FIRST);
    expect_arrived(&m);
    ck_assert_uint_eq(m.saved.normal, 1300);
    ck_assert_uint_eq(m.saved.duplicate, 1300);
    expect_closed_well(&m);
}
END_TEST

/* A zero range grows over units and chunks, and is one record. */
START_TEST(zero_runs)
{
    struct migration m;
    migration_open(&m, NULL);
    guest_zeroes(&m, 0, 0, LOW);
    uint64_t before = source_allocated(&m);
    round_of(&m, RAM_ROUND_FIRST);
    ck_assert_uint_eq(m.saved.duplicate, LOW);
    ck_assert_uint_eq(m.asked, 1);
    ck_assert_uint_eq(source_allocated(&m), before);
    ck_assert_uint_eq(file_allocated(m.destination.fds[0]), 0);
    expect_arrived(&m);
    expect_closed_well(&m);
}
END_TEST

/* ---- later rounds ---- */

static void changes(enum ram_round kind)
{
    struct migration m;
    migration_open(&m, NULL);
    furnish(&m);
    round_of(&m, RAM_ROUND_FIRST);
    uint64_t clears = m.clears;
    guest_writes(&m, 0, 1, 1, 7);                   /* new bytes */
    guest_writes(&m, 0, 500, 2, 7);                 /* where there was a hole */
    guest_writes(&m, 0, 21, 1, 7);                  /* where there were zeroes */
    guest_zeroes(&m, 0, 24, 1);                     /* zeroes instead of bytes */
    guest_frees(&m, 1, 100, 50);                    /* a hole instead of bytes */
    guest_frees(&m, 1, 200, 1);                     /* a small one */
    guest_writes(&m, 0, RAM_CHUNK_PAGES - 1, 2, 8); /* in two chunks */
    note(&m, 0, LOW - 1, 1);                        /* reported, but the same */
    note(&m, 1, 30, 1);
    round_of(&m, kind);
    expect_arrived(&m);
    ck_assert_uint_eq(m.clears - clears, kind == RAM_ROUND_STOPPED ? 0 : 3 + 1);
    expect_closed_well(&m);
}

START_TEST(later_round)
{
    changes(RAM_ROUND_LATER);
}
END_TEST

START_TEST(stopped_round)
{
    changes(RAM_ROUND_STOPPED);
}
END_TEST

START_TEST(only_what_is_dirty)
{
    struct migration m;
    migration_open(&m, NULL);
    furnish(&m);
    round_of(&m, RAM_ROUND_FIRST);
    uint64_t normal = m.saved.normal, clears = m.clears;
    round_of(&m, RAM_ROUND_LATER);
    ck_assert_uint_eq(m.saved.normal, normal);
    guest_writes(&m, 0, 2, 1, 4);
    file_fill(m.source.fds[0], 1, 1, 5); /* nobody told: it does not go */
    round_of(&m, RAM_ROUND_LATER);
    ck_assert_uint_eq(m.saved.normal, normal + 1);
    ck_assert_uint_eq(m.clears, clears + 1);
    file_expect_equal(m.source.fds[0], m.destination.fds[0], 2, 1);
    uint8_t a, b;
    ck_assert_int_eq(pread(m.source.fds[0], &a, 1, PAGE), 1);
    ck_assert_int_eq(pread(m.destination.fds[0], &b, 1, PAGE), 1);
    ck_assert_uint_ne(a, b);
    expect_closed_well(&m);
}
END_TEST

START_TEST(freed_pages_are_not_read)
{
    struct migration m;
    migration_open(&m, NULL);
    guest_writes(&m, 0, 0, 2000, 1);
    round_of(&m, RAM_ROUND_FIRST);
    guest_frees(&m, 0, 0, 1000);
    uint64_t before = source_allocated(&m);
    round_of(&m, RAM_ROUND_LATER);
    ck_assert_uint_eq(source_allocated(&m), before);
    ck_assert_uint_eq(file_allocated(m.destination.fds[0]), 1000 * PAGE);
    expect_arrived(&m);
    expect_closed_well(&m);
}
END_TEST

/* The guest writes right after its log was cleared: that page goes again. */
static void write_on_clear(struct migration *m, unsigned block, uint64_t first)
{
    guest_writes(m, block, first + 7, 1, m->clears + 1000);
}

START_TEST(writes_behind_the_clear)
{
    struct migration m;
    migration_open(&m, NULL);
    furnish(&m);
    m.on_clear = write_on_clear;
    round_of(&m, RAM_ROUND_FIRST);
    round_of(&m, RAM_ROUND_LATER);
    round_of(&m, RAM_ROUND_STOPPED);
    expect_arrived(&m);
    expect_closed_well(&m);
}
END_TEST

/* A hole that was seen in a chunk before is looked at again once writes to it are tracked. */
static void fill_on_second_clear(struct migration *m, unsigned block, uint64_t first)
{
    if (block == 0 && first == RAM_CHUNK_PAGES) {
        file_fill(m->source.fds[0], RAM_CHUNK_PAGES + 50, 1, 3);
    }
}

START_TEST(holes_filled_before_the_clear)
{
    struct migration m;
    migration_open(&m, NULL);
    guest_writes(&m, 0, 0, 1, 1);
    m.on_clear = fill_on_second_clear;
    round_of(&m, RAM_ROUND_FIRST);
    expect_arrived(&m);
    expect_closed_well(&m);
}
END_TEST

START_TEST(random_rounds)
{
    struct migration m;
    uint64_t seed = 42;
    migration_open(&m, NULL);
    furnish(&m);
    round_of(&m, RAM_ROUND_FIRST);
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < 60; i++) {
            unsigned block = next_random(&seed) % BLOCKS;
            uint64_t first = next_random(&seed) % block_pages[block];
            uint64_t count = 1 + next_random(&seed) % 40;
            count = count < block_pages[block] - first ? count : block_pages[block] - first;
            switch (next_random(&seed) % 3) {
            case 0:
                guest_writes(&m, block, first, count, next_random(&seed));
                break;
            case 1:
                guest_zeroes(&m, block, first, count);
                break;
            default:
                guest_frees(&m, block, first, count);
            }
        }
        m.allowance = 1 + next_random(&seed) % RECORD_PAYLOAD_MAX;
        round_of(&m, round == 11 ? RAM_ROUND_STOPPED : RAM_ROUND_LATER);
    }
    expect_arrived(&m);
    expect_closed_well(&m);
}
END_TEST

/* ---- the pacer ---- */

START_TEST(tiny_allowances)
{
    struct migration m;
    migration_open(&m, NULL);
    furnish(&m);
    m.allowance = 1; /* a page goes all the same */
    round_of(&m, RAM_ROUND_FIRST);
    expect_arrived(&m);
    ck_assert_uint_ge(m.asked, m.saved.normal);
    ck_assert_uint_le(m.asked_max, RECORD_PAYLOAD_MAX);
    guest_writes(&m, 1, 3, 20, 9);
    round_of(&m, RAM_ROUND_LATER);
    expect_arrived(&m);
    expect_closed_well(&m);
}
END_TEST

START_TEST(large_allowances)
{
    struct migration m;
    migration_open(&m, NULL);
    guest_writes(&m, 0, 0, 2048, 1); /* 8 MiB */
    m.allowance = SIZE_MAX;
    round_of(&m, RAM_ROUND_FIRST);
    expect_arrived(&m);
    ck_assert_uint_eq(m.asked, 8);
    expect_closed_well(&m);
}
END_TEST

START_TEST(no_allowance)
{
    struct migration m;
    struct error *err = NULL;
    migration_open(&m, NULL);
    furnish(&m);
    m.allowance = 0;
    ram_save_begin(&m.saver);
    ck_assert(!ram_save_round(&m.saver, RAM_ROUND_FIRST, &err));
    expect_error(err, "cancelled", NULL);
    expect_closed_well(&m);
}
END_TEST

/* ---- what goes wrong ---- */

static void shrink_on_clear(struct migration *m, unsigned block, uint64_t first)
{
    if (block == 0 && first == RAM_CHUNK_PAGES) {
        ck_assert_int_eq(ftruncate(m->source.fds[0], RAM_CHUNK_PAGES * PAGE), 0);
    }
}

START_TEST(shrunk_between_chunks)
{
    struct migration m;
    struct error *err = NULL;
    migration_open(&m, NULL);
    guest_writes(&m, 0, 0, LOW, 1);
    m.on_clear = shrink_on_clear;
    ram_save_begin(&m.saver);
    ck_assert(!ram_save_round(&m.saver, RAM_ROUND_FIRST, &err));
    expect_error(err, "ram-vanished", "low");
    error_free(migration_close(&m));
}
END_TEST

/* After the pages were looked at, before they were taken. */
static void shrink_on_write(struct migration *m)
{
    ck_assert_int_eq(ftruncate(m->source.fds[0], 0), 0);
}

START_TEST(shrunk_before_the_write)
{
    struct migration m;
    struct error *err = NULL;
    migration_open(&m, NULL);
    guest_writes(&m, 0, 0, 100, 1);
    m.on_write = shrink_on_write;
    ram_save_begin(&m.saver);
    ck_assert(!ram_save_round(&m.saver, RAM_ROUND_FIRST, &err));
    expect_error(err, "ram-vanished", NULL);
    error_free(migration_close(&m));
}
END_TEST

/* Holes at a file's end are not looked at, and yet it is noticed that they are gone. */
START_TEST(shrunk_hole)
{
    struct migration m;
    struct error *err = NULL;
    migration_open(&m, NULL);
    guest_writes(&m, 1, 0, 10, 1);
    ck_assert_int_eq(ftruncate(m.source.fds[1], (HIGH_FROM + HIGH - 1) * PAGE), 0);
    ram_save_begin(&m.saver);
    ck_assert(!ram_save_round(&m.saver, RAM_ROUND_FIRST, &err));
    expect_error(err, "ram-vanished", "high");
    expect_closed_well(&m);
}
END_TEST

START_TEST(tracker_fails)
{
    struct migration m;
    struct error *err = NULL;
    migration_open(&m, NULL);
    m.sync_fails = true;
    ck_assert(!ram_save_sync(&m.saver, &err));
    expect_error(err, "guest-lost", NULL);
    expect_closed_well(&m);
}
END_TEST

START_TEST(link_cut)
{
    for (uint64_t at = 0; at < 290 * PAGE; at += 13 * PAGE + 11) {
        struct migration m;
        struct error *err = NULL;
        migration_open(&m, &(struct memory_faults){.cut = true, .cut_at = at});
        furnish(&m);
        ram_save_begin(&m.saver);
        ck_assert(!ram_save_round(&m.saver, RAM_ROUND_FIRST, &err));
        expect_error(err, "channel-closed", NULL);
        expect_error(migration_close(&m), "stream-truncated", NULL);
    }
}
END_TEST

/* A bit of a record's head or fixed body. */
START_TEST(bit_flipped)
{
    for (unsigned at = 0; at < 32; at++) {
        struct migration m;
        migration_open(&m, &(struct memory_faults){.flip_mask = 0x10, .flip_at = at});
        guest_writes(&m, 0, 0, 10, 1);
        ram_save_begin(&m.saver);
        struct error *err = NULL;
        if (!ram_save_round(&m.saver, RAM_ROUND_FIRST, &err)) {
            expect_error(err, "channel-closed", NULL); /* the loader was quick to give up */
        }
        expect_error(migration_close(&m), "stream-corrupt", NULL);
    }
}
END_TEST

START_TEST(in_small_pieces)
{
    static const size_t pieces[] = {1, 100, 4095, 4097};
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        struct migration m;
        migration_open(&m, &(struct memory_faults){.piece = pieces[i]});
        guest_writes(&m, 0, 0, 3, 1);
        guest_zeroes(&m, 0, 3, 1);
        guest_writes(&m, 1, HIGH - 20, 20, 1);
        round_of(&m, RAM_ROUND_FIRST);
        expect_arrived(&m);
        expect_closed_well(&m);
    }
}
END_TEST

/* ---- deltas ---- */

/* With a cache of so many pages, and pages [0, count) of "low" in it, known to the destination. */
static void migration_with_cache(struct migration *m, uint64_t cache, uint64_t count)
{
    struct error *err = NULL;
    migration_open(m, NULL);
    atomic_store(&m->cache_bytes, cache * PAGE);
    m->saver.delta = ram_delta_new(m->source.ram, &m->cache_bytes, &m->saved, &err);
    expect_ok(m->saver.delta != NULL, err);
    ck_assert_uint_eq(m->saved.cache_bytes, cache * PAGE);
    guest_writes(m, 0, 0, count, 1);
    round_of(m, RAM_ROUND_FIRST);
    ck_assert_uint_eq(m->saved.cache_misses, 0);
    guest_writes(m, 0, 0, count, 2);
    round_of(m, RAM_ROUND_LATER);
    ck_assert_uint_eq(m->saved.cache_misses, count);
}

/* A byte in each of these pages becomes another, at a place that moves. */
static void guest_flips(struct migration *m, unsigned block, uint64_t first, uint64_t count)
{
    for (uint64_t page = first; page < first + count; page++) {
        file_flip(m->source.fds[block], in_file(block, page) * PAGE + (page * 1009 + 5) % PAGE);
    }
    note(m, block, first, count);
}

static void small_changes(enum ram_round kind)
{
    struct migration m;
    migration_with_cache(&m, 1024, 700);
    uint64_t normal = m.saved.normal, sent = m.sent;
    guest_flips(&m, 0, 0, 700);
    round_of(&m, kind);
    expect_arrived(&m);
    ck_assert_uint_eq(m.saved.normal, normal);
    ck_assert_uint_eq(m.saved.delta, 700);
    ck_assert_uint_eq(m.saved.cache_hits, 700);
    ck_assert_uint_eq(m.saved.delta_bytes, 700 * 40);
    ck_assert_uint_eq(m.sent - sent, 700 * 40 + 32); /* and a ROUND */
    expect_closed_well(&m);
}

START_TEST(delta_small_changes)
{
    small_changes(RAM_ROUND_LATER);
}
END_TEST

START_TEST(delta_when_stopped)
{
    small_changes(RAM_ROUND_STOPPED);
}
END_TEST

START_TEST(delta_again_and_again)
{
    struct migration m;
    migration_with_cache(&m, 64, 64);
    for (int round = 0; round < 20; round++) {
        guest_flips(&m, 0, 0, 64);
        file_flip(m.source.fds[0], (uint64_t)round * 200);
        round_of(&m, RAM_ROUND_LATER);
        expect_arrived(&m);
    }
    ck_assert_uint_eq(m.saved.delta, 20 * 64);
    ck_assert_uint_eq(m.saved.cache_misses, 64);
    expect_closed_well(&m);
}
END_TEST

START_TEST(delta_equal_pages)
{
    struct migration m;
    migration_with_cache(&m, 16, 10);
    uint64_t normal = m.saved.normal, sent = m.sent, skipped = m.saved.skipped;
    note(&m, 0, 0, 10);
    round_of(&m, RAM_ROUND_LATER);
    ck_assert_uint_eq(m.saved.normal, normal);
    ck_assert_uint_eq(m.saved.delta, 0);
    ck_assert_uint_eq(m.saved.skipped - skipped, 10);
    ck_assert_uint_eq(m.sent - sent, 32); /* a ROUND */
    expect_arrived(&m);
    expect_closed_well(&m);
}
END_TEST

/* Never more than the pages and the heads of their runs. */
START_TEST(delta_overflow)
{
    struct migration m;
    migration_with_cache(&m, 512, 300);
    uint64_t normal = m.saved.normal, sent = m.sent;
    guest_writes(&m, 0, 0, 300, 3);
    round_of(&m, RAM_ROUND_LATER);
    expect_arrived(&m);
    ck_assert_uint_eq(m.saved.overflows, 300);
    ck_assert_uint_eq(m.saved.normal - normal, 300);
    ck_assert_uint_eq(m.sent - sent, 300 * PAGE + 2 * 32 + 32); /* two records, and a ROUND */
    guest_flips(&m, 0, 0, 300);                                 /* the cache has followed */
    round_of(&m, RAM_ROUND_LATER);
    expect_arrived(&m);
    ck_assert_uint_eq(m.saved.delta, 300);
    expect_closed_well(&m);
}
END_TEST

START_TEST(delta_zero_pages)
{
    struct migration m;
    migration_with_cache(&m, 64, 20);
    guest_zeroes(&m, 0, 3, 4);
    guest_frees(&m, 0, 10, 9);
    guest_flips(&m, 0, 0, 3);
    round_of(&m, RAM_ROUND_LATER);
    expect_arrived(&m);
    ck_assert_uint_eq(m.saved.delta, 3);
    uint64_t misses = m.saved.cache_misses;
    guest_writes(&m, 0, 3, 4, 9);
    guest_writes(&m, 0, 10, 9, 9);
    round_of(&m, RAM_ROUND_LATER);
    expect_arrived(&m);
    ck_assert_uint_eq(m.saved.cache_misses - misses, 13);
    expect_closed_well(&m);
}
END_TEST

/* A cache of 64 pages and 500 written in each round: those that are in it stay. */
START_TEST(delta_small_cache)
{
    struct migration m;
    migration_with_cache(&m, 64, 500);
    for (int round = 1; round <= 5; round++) {
        guest_flips(&m, 0, 0, 500);
        round_of(&m, RAM_ROUND_LATER);
        ck_assert_uint_eq(m.saved.delta, 64u * round);
    }
    expect_arrived(&m);
    expect_closed_well(&m);
}
END_TEST

START_TEST(delta_nothing_is_added_when_stopped)
{
    struct migration m;
    migration_with_cache(&m, 64, 8);
    guest_writes(&m, 0, 20, 8, 1);
    guest_flips(&m, 0, 0, 8);
    round_of(&m, RAM_ROUND_STOPPED);
    guest_flips(&m, 0, 20, 8);
    round_of(&m, RAM_ROUND_STOPPED);
    expect_arrived(&m);
    ck_assert_uint_eq(m.saved.delta, 8);
    ck_assert_uint_eq(m.saved.cache_misses, 8 + 16);
    expect_closed_well(&m);
}
END_TEST

START_TEST(delta_cache_grows)
{
    struct migration m;
    migration_with_cache(&m, 64, 500);
    atomic_store(&m.cache_bytes, 512 * PAGE);
    guest_flips(&m, 0, 0, 500);
    round_of(&m, RAM_ROUND_LATER);
    ck_assert_uint_eq(m.saved.cache_bytes, 512 * PAGE);
    ck_assert_uint_eq(m.saved.delta, 64);
    guest_flips(&m, 0, 0, 500);
    round_of(&m, RAM_ROUND_LATER);
    ck_assert_uint_eq(m.saved.delta, 64 + 500);
    expect_arrived(&m);
    expect_closed_well(&m);
}
END_TEST

START_TEST(delta_cache_shrinks)
{
    struct migration m;
    migration_with_cache(&m, 512, 500);
    atomic_store(&m.cache_bytes, 128 * PAGE);
    guest_flips(&m, 0, 0, 500);
    round_of(&m, RAM_ROUND_LATER);
    ck_assert_uint_eq(m.saved.cache_bytes, 128 * PAGE);
    ck_assert_uint_eq(m.saved.delta, 128);
    expect_arrived(&m);
    expect_closed_well(&m);
}
END_TEST

/* At a chunk's border, while copies in the cache wait to be sent. */
static void shrink_cache_on_clear(struct migration *m, unsigned block, uint64_t first)
{
    if (block == 0 && first == 0) {
        atomic_store(&m->cache_bytes, 16 * PAGE);
    }
}

START_TEST(delta_cache_shrinks_within_a_round)
{
    struct migration m;
    migration_with_cache(&m, 64, 60);
    m.on_clear = shrink_cache_on_clear;
    guest_writes(&m, 0, 0, 60, 5);
    guest_writes(&m, 0, RAM_CHUNK_PAGES, 60, 5);
    round_of(&m, RAM_ROUND_LATER);
    ck_assert_uint_eq(m.saved.cache_bytes, 16 * PAGE);
    ck_assert_uint_eq(m.saved.overflows, 60);
    expect_arrived(&m);
    expect_closed_well(&m);
}
END_TEST

START_TEST(delta_cache_without_memory)
{
    struct migration m;
    migration_with_cache(&m, 64, 60);
    log_set_level(LOG_LEVEL_ERROR); /* it is said once, as a warning */
    atomic_store(&m.cache_bytes, 1ULL << 62);
    guest_flips(&m, 0, 0, 60);
    round_of(&m, RAM_ROUND_LATER);
    ck_assert_uint_eq(m.saved.cache_bytes, 64 * PAGE);
    ck_assert_uint_eq(m.saved.delta, 60);
    ck_assert(!ram_delta_must_resize(m.saver.delta));
    atomic_store(&m.cache_bytes, 128 * PAGE);
    ck_assert(ram_delta_must_resize(m.saver.delta));
    expect_closed_well(&m);
}
END_TEST

START_TEST(delta_resize_interrupted)
{
    struct migration m;
    struct error *err = NULL;
    migration_with_cache(&m, 64, 60);
    atomic_store(&m.cache_bytes, 128 * PAGE);
    m.interrupted = true;
    guest_flips(&m, 0, 0, 60);
    expect_ok(ram_save_sync(&m.saver, &err), err);
    ck_assert(!ram_save_round(&m.saver, RAM_ROUND_LATER, &err));
    expect_error(err, "cancelled", NULL);
    expect_closed_well(&m);
}
END_TEST

static void shrink_file_on_clear(struct migration *m, unsigned block, uint64_t first)
{
    if (block == 0 && first == 0) {
        ck_assert_int_eq(ftruncate(m->source.fds[0], PAGE), 0);
    }
}

START_TEST(delta_shrunk)
{
    struct migration m;
    struct error *err = NULL;
    migration_with_cache(&m, 64, 60);
    m.on_clear = shrink_file_on_clear;
    guest_flips(&m, 0, 0, 60);
    expect_ok(ram_save_sync(&m.saver, &err), err);
    ck_assert(!ram_save_round(&m.saver, RAM_ROUND_LATER, &err));
    expect_error(err, "ram-vanished", "low");
    error_free(migration_close(&m));
}
END_TEST

static void change_some(struct migration *m, uint64_t *seed)
{
    unsigned block = next_random(seed) % BLOCKS;
    uint64_t first = next_random(seed) % block_pages[block];
    uint64_t count = 1 + next_random(seed) % 40;
    count = count < block_pages[block] - first ? count : block_pages[block] - first;
    switch (next_random(seed) % 5) {
    case 0:
        guest_writes(m, block, first, count, next_random(seed));
        break;
    case 1:
        guest_zeroes(m, block, first, count);
        break;
    case 2:
        guest_frees(m, block, first, count);
        break;
    default:
        guest_flips(m, block, first, count);
    }
}

START_TEST(delta_random_rounds)
{
    struct migration m;
    uint64_t seed = 43;
    migration_with_cache(&m, 4096, 3000);
    for (int round = 0; round < 15; round++) {
        guest_flips(&m, 0, next_random(&seed) % 2000, 500);
        for (int i = 0; i < 40; i++) {
            change_some(&m, &seed);
        }
        m.allowance = 1 + next_random(&seed) % RECORD_PAYLOAD_MAX;
        atomic_store(&m.cache_bytes, PAGE << (6 + next_random(&seed) % 8));
        round_of(&m, round == 14 ? RAM_ROUND_STOPPED : RAM_ROUND_LATER);
        expect_arrived(&m);
    }
    ck_assert_uint_gt(m.saved.delta, 500);
    ck_assert_uint_gt(m.saved.overflows, 0);
    expect_closed_well(&m);
}
END_TEST

static bool clear_nothing(void *opaque, unsigned block, uint64_t first, uint64_t count,
                          struct error **errp)
{
    (void)opaque;
    (void)block;
    (void)first;
    (void)count;
    (void)errp;
    return true;
}

/* The page behind one block's last page has the number that the next block's may have. */
START_TEST(delta_blocks_stay_apart)
{
    struct ram *ram = ram_new();
    struct bytes b = {0};
    struct migration m = {.cache_bytes = 64 * PAGE, .allowance = RECORD_PAYLOAD_MAX};
    struct error *err = NULL;
    int fds[2] = {file_new(4), file_new(8)};
    for (int i = 0; i < 2; i++) {
        ck_assert(ram_add(ram, i ? "b" : "a", fds[i], 0, (4 + 4 * (uint64_t)i) * PAGE,
                          (uint64_t)i << 32, NULL));
        file_fill(fds[i], 3 + (uint64_t)i, 1, 1);
        bits_set(ram->blocks[i].dirty, 3 + (uint64_t)i);
    }
    struct ram_delta *delta = ram_delta_new(ram, &m.cache_bytes, &m.saved, &err);
    struct ram_saver saver = {
        .ram = ram,
        .tracker = {.clear = clear_nothing},
        .pacer = {.allow = script_allow, .check = script_check, .opaque = &m},
        .sink = bytes_sink(&b),
        .counters = &m.saved,
        .delta = delta,
    };
    expect_ok(ram_save_round(&saver, RAM_ROUND_LATER, &err), err);
    ck_assert_uint_eq(b.length, 2 * (32 + PAGE));
    ck_assert_uint_eq(get_le32(b.data + RECORD_HEAD_SIZE), 0);
    ck_assert_uint_eq(get_le32(b.data + 32 + PAGE + RECORD_HEAD_SIZE), 1);
    ram_delta_free(delta);
    bytes_free(&b);
    ram_free(ram);
    close(fds[0]);
    close(fds[1]);
}
END_TEST

/* ---- deltas from anywhere ---- */

/* Gives the loader one RAM_DELTA record; its answer. */
static bool load_delta(struct side *s, uint32_t block, uint64_t offset, const void *delta,
                       size_t length, struct error **errp)
{
    struct bytes b = {0};
    struct record_sink sink = bytes_sink(&b);
    struct ram_load_counters counters = {0};
    struct record rec;
    uint8_t body[16 + 64] = {0};
    put_le32(body, block);
    put_le64(body + 8, offset);
    memcpy(body + 16, delta, length);
    ck_assert(record_write(&sink, RECORD_RAM_DELTA, body, 16 + length, NULL));
    struct bytes_reader from = {.data = b.data, .length = b.length};
    struct record_reader *r = bytes_open(&from);
    bool ok = record_expect(r, RECORD_RAM_DELTA, &rec, errp) &&
              ram_load_delta(s->ram, &rec, &counters, errp);
    ck_assert_uint_eq(counters.delta, ok ? 1 : 0);
    record_reader_free(r);
    bytes_free(&b);
    return ok;
}

START_TEST(delta_of_a_hole)
{
    struct side s;
    struct error *err = NULL;
    uint8_t page[RAM_PAGE_SIZE], expected[RAM_PAGE_SIZE] = {[5] = 'x', [6] = 'y'};
    side_open(&s);
    expect_ok(load_delta(&s, 1, 7 * PAGE, "\5\2xy", 4, &err), err);
    ck_assert_int_eq(pread(s.fds[1], page, PAGE, (off_t)((HIGH_FROM + 7) * PAGE)), PAGE);
    ck_assert(memcmp(page, expected, PAGE) == 0);
    ck_assert(bits_test(s.ram->blocks[1].populated, 7));
    side_close(&s);
}
END_TEST

static void expect_delta_refused(uint32_t block, uint64_t offset, const char *delta, size_t length)
{
    struct side s;
    struct error *err = NULL;
    side_open(&s);
    file_fill(s.fds[0], 0, 1, 1);
    file_fill(s.fds[1], 0, 1, 1);
    ck_assert(!load_delta(&s, block, offset, delta, length, &err));
    expect_error(err, "stream-corrupt", NULL);
    ck_assert_uint_eq(file_allocated(s.fds[0]) + file_allocated(s.fds[1]), 2 * PAGE);
    file_expect_equal(s.fds[0], s.fds[1], 0, 1); /* not even changed by the good part */
    side_close(&s);
}

START_TEST(deltas_refused)
{
    static const char good[] = {1, 1, 'x'}, bad[] = {1, 1, 'x', 1, 2, 'y'};
    expect_delta_refused(BLOCKS, 0, good, sizeof(good));
    expect_delta_refused(UINT32_MAX, 0, good, sizeof(good));
    expect_delta_refused(0, LOW * PAGE, good, sizeof(good));
    expect_delta_refused(0, -PAGE, good, sizeof(good));
    expect_delta_refused(0, 1, good, sizeof(good));
    expect_delta_refused(0, 0, bad, sizeof(bad));
    expect_delta_refused(0, 0, good, 2);
}
END_TEST

/* ---- a hostile source ---- */

static void expect_range_refused(uint32_t type, uint32_t block, uint64_t offset, uint64_t length)
{
    struct side s;
    struct bytes b = {0};
    struct ram_load_counters counters = {0};
    struct record rec;
    struct error *err = NULL;
    uint8_t body[24] = {0};
    uint8_t head[RECORD_HEAD_SIZE];
    bool pages = type == RECORD_RAM_PAGES;
    size_t fixed = pages ? 16 : 24;
    side_open(&s);
    put_le32(body, block);
    put_le64(body + 8, offset);
    put_le64(body + 16, length);
    record_head(head, type, fixed + (pages ? length : 0), body, fixed);
    bytes_add(&b, head, sizeof(head));
    bytes_add(&b, body, fixed);
    struct bytes_reader from = {.data = b.data, .length = b.length};
    struct record_reader *r = bytes_open(&from);
    expect_ok(record_expect(r, type, &rec, &err), err);
    bool ok = pages ? ram_load_pages(s.ram, r, &rec, &counters, &err)
                    : ram_load_zero(s.ram, &rec, &counters, &err);
    ck_assert(!ok);
    expect_error(err, "stream-corrupt", NULL);
    ck_assert_uint_eq(counters.normal + counters.duplicate, 0);
    record_reader_free(r);
    bytes_free(&b);
    side_close(&s);
}

START_TEST(ranges_refused)
{
    static const uint32_t kinds[] = {RECORD_RAM_PAGES, RECORD_RAM_ZERO};
    for (int i = 0; i < 2; i++) {
        expect_range_refused(kinds[i], BLOCKS, 0, PAGE);
        expect_range_refused(kinds[i], UINT32_MAX, 0, PAGE);
        expect_range_refused(kinds[i], 0, 0, 0);
        expect_range_refused(kinds[i], 0, 0, 100);
        expect_range_refused(kinds[i], 0, 8, PAGE);
        expect_range_refused(kinds[i], 0, LOW * PAGE, PAGE);
        expect_range_refused(kinds[i], 0, (LOW - 1) * PAGE, 2 * PAGE);
        expect_range_refused(kinds[i], 0, -PAGE, PAGE);
        expect_range_refused(kinds[i], 0, -PAGE, 2 * PAGE);
    }
    expect_range_refused(RECORD_RAM_ZERO, 0, PAGE, -PAGE);
    expect_range_refused(RECORD_RAM_ZERO, 0, 0, (LOW + 1) * PAGE);
}
END_TEST

int main(void)
{
    fault_init();
    Suite *suite = suite_create("ram/save-load");
    unit_add(suite, "ram/save/first-round", first_round);
    unit_add(suite, "ram/save/holes-are-not-read", holes_are_not_read);
    unit_add(suite, "ram/save/nothing-but-holes", nothing_but_holes);
    unit_add(suite, "ram/save/many-small-runs", many_small_runs);
    unit_add(suite, "ram/save/zero-runs", zero_runs);
    unit_add(suite, "ram/save/later-round", later_round);
    unit_add(suite, "ram/save/stopped-round", stopped_round);
    unit_add(suite, "ram/save/only-what-is-dirty", only_what_is_dirty);
    unit_add(suite, "ram/save/freed-pages-are-not-read", freed_pages_are_not_read);
    unit_add(suite, "ram/save/writes-behind-the-clear", writes_behind_the_clear);
    unit_add(suite, "ram/save/holes-filled-before-the-clear", holes_filled_before_the_clear);
    unit_add(suite, "ram/save/random-rounds", random_rounds);
    unit_add(suite, "ram/save/tiny-allowances", tiny_allowances);
    unit_add(suite, "ram/save/large-allowances", large_allowances);
    unit_add(suite, "ram/save/no-allowance", no_allowance);
    unit_add(suite, "ram/save/shrunk-between-chunks", shrunk_between_chunks);
    unit_add(suite, "ram/save/shrunk-before-the-write", shrunk_before_the_write);
    unit_add(suite, "ram/save/shrunk-hole", shrunk_hole);
    unit_add(suite, "ram/save/tracker-fails", tracker_fails);
    unit_add(suite, "ram/save/link-cut", link_cut);
    unit_add(suite, "ram/delta/small-changes", delta_small_changes);
    unit_add(suite, "ram/delta/when-stopped", delta_when_stopped);
    unit_add(suite, "ram/delta/again-and-again", delta_again_and_again);
    unit_add(suite, "ram/delta/equal-pages", delta_equal_pages);
    unit_add(suite, "ram/delta/overflow", delta_overflow);
    unit_add(suite, "ram/delta/zero-pages", delta_zero_pages);
    unit_add(suite, "ram/delta/small-cache", delta_small_cache);
    unit_add(suite, "ram/delta/nothing-is-added-when-stopped", delta_nothing_is_added_when_stopped);
    unit_add(suite, "ram/delta/cache-grows", delta_cache_grows);
    unit_add(suite, "ram/delta/cache-shrinks", delta_cache_shrinks);
    unit_add(suite, "ram/delta/cache-shrinks-within-a-round", delta_cache_shrinks_within_a_round);
    unit_add(suite, "ram/delta/cache-without-memory", delta_cache_without_memory);
    unit_add(suite, "ram/delta/resize-interrupted", delta_resize_interrupted);
    unit_add(suite, "ram/delta/shrunk", delta_shrunk);
    unit_add(suite, "ram/delta/random-rounds", delta_random_rounds);
    unit_add(suite, "ram/delta/blocks-stay-apart", delta_blocks_stay_apart);
    unit_add(suite, "ram/load/delta-of-a-hole", delta_of_a_hole);
    unit_add(suite, "ram/load/deltas-refused", deltas_refused);
    unit_add(suite, "ram/load/bit-flipped", bit_flipped);
    unit_add(suite, "ram/load/in-small-pieces", in_small_pieces);
    unit_add(suite, "ram/load/ranges-refused", ranges_refused);
    return unit_run(suite);
}
