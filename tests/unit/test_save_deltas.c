/* SPDX-License-Identifier: BSD-3-Clause */
/* Pages that were sent before go as what has changed in them; the cache they are compared with. */
#include "common/bits.h"
#include "common/log.h"
#include "ram/delta.h"
#include "ram/fault.h"
#include "tests/unit/save_tools.h"

#include <unistd.h>

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
    note_written(m, block, first, count);
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
    note_written(&m, 0, 0, 10);
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
    uint64_t first = next_random(seed) % side_pages[block];
    uint64_t count = 1 + next_random(seed) % 40;
    count = count < side_pages[block] - first ? count : side_pages[block] - first;
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
        .pacer = migration_pacer(&m),
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

int main(void)
{
    fault_init();
    Suite *suite = suite_create("ram/save-deltas");
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
    return unit_run(suite);
}
