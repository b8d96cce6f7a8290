/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Saving RAM, in rounds that are loaded: what goes and what does not, at what pace, and what goes
 * wrong at the source and on the way.
 */
#include "common/bits.h"
#include "ram/fault.h"
#include "tests/unit/save_tools.h"

#include <string.h>
#include <unistd.h>

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
        memset(m->written[i], 0, bits_words(side_pages[i]) * sizeof(uint64_t));
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
    note_written(&m, 0, LOW - 1, 1);                /* reported, but the same */
    note_written(&m, 1, 30, 1);
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

/* ---- pages that are returned to the host, which nothing reports ---- */

static void returned(enum ram_round kind)
{
    struct migration m;
    migration_open(&m, NULL);
    guest_writes(&m, 0, 0, LOW, 1);
    guest_writes(&m, 1, 0, HIGH, 2);
    round_of(&m, RAM_ROUND_FIRST);
    round_of(&m, RAM_ROUND_LATER); /* takes the reports of the above */
    guest_returns(&m, 0, 3, 1);
    guest_returns(&m, 0, RAM_CHUNK_PAGES - 10, 20); /* in two chunks */
    guest_returns(&m, 1, HIGH - 1, 1);
    guest_writes(&m, 0, RAM_CHUNK_PAGES, 2, 7); /* and taken again */
    guest_writes(&m, 0, 4, 1, 8);
    note_written(&m, 1, HIGH - 3, 3); /* written, and then returned */
    uint64_t before = source_allocated(&m);
    m.returned = 1 + 20 - 2;
    round_of(&m, kind);
    ck_assert_uint_eq(source_allocated(&m), before); /* none was read */
    ck_assert_uint_eq(m.saved.remaining, 0);
    ck_assert_uint_eq(file_allocated(m.destination.fds[0]), file_allocated(m.source.fds[0]));
    expect_arrived(&m);
    expect_closed_well(&m);
}

START_TEST(returned_in_a_live_round)
{
    returned(RAM_ROUND_LATER);
}
END_TEST

START_TEST(returned_in_the_last_round)
{
    returned(RAM_ROUND_STOPPED);
}
END_TEST

/* Holes that were read make up for those that were punched: only who looks for holes finds them. */
static void returned_and_hidden(bool exact)
{
    struct migration m;
    migration_open(&m, NULL);
    guest_writes(&m, 0, 0, 100, 1);
    m.saver.exact = exact;
    round_of(&m, RAM_ROUND_FIRST);
    round_of(&m, RAM_ROUND_LATER); /* takes the reports of the above */
    guest_returns(&m, 0, 10, 5);
    file_fill(m.source.fds[0], 200, 5, 0); /* as a reader's fault does */
    m.returned = exact ? 5 : 0;
    round_of(&m, RAM_ROUND_STOPPED);
    ck_assert_uint_eq(file_allocated(m.destination.fds[0]), (exact ? 95 : 100) * PAGE);
    expect_closed_well(&m);
}

START_TEST(returned_and_hidden_from_the_count)
{
    returned_and_hidden(false);
}
END_TEST

START_TEST(returned_and_found_where_it_matters)
{
    returned_and_hidden(true);
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
            uint64_t first = next_random(&seed) % side_pages[block];
            uint64_t count = 1 + next_random(&seed) % 40;
            count = count < side_pages[block] - first ? count : side_pages[block] - first;
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
    unit_add(suite, "ram/save/returned/live", returned_in_a_live_round);
    unit_add(suite, "ram/save/returned/stopped", returned_in_the_last_round);
    unit_add(suite, "ram/save/returned/hidden", returned_and_hidden_from_the_count);
    unit_add(suite, "ram/save/returned/exact", returned_and_found_where_it_matters);
    unit_add(suite, "ram/save/random-rounds", random_rounds);
    unit_add(suite, "ram/save/tiny-allowances", tiny_allowances);
    unit_add(suite, "ram/save/large-allowances", large_allowances);
    unit_add(suite, "ram/save/no-allowance", no_allowance);
    unit_add(suite, "ram/save/shrunk-between-chunks", shrunk_between_chunks);
    unit_add(suite, "ram/save/shrunk-before-the-write", shrunk_before_the_write);
    unit_add(suite, "ram/save/shrunk-hole", shrunk_hole);
    unit_add(suite, "ram/save/tracker-fails", tracker_fails);
    unit_add(suite, "ram/save/link-cut", link_cut);
    return unit_run(suite);
}
