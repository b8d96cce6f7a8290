/* SPDX-License-Identifier: BSD-3-Clause */
/* Loading what comes in pieces, what was damaged on the way, and what a hostile source sends. */
#include "common/bits.h"
#include "ram/fault.h"
#include "tests/unit/save_tools.h"

#include <string.h>
#include <unistd.h>

/* ---- the channel ---- */

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

/* ---- pages that come again ---- */

/* Whole records are longer than what goes through the buffer; a short one goes through it. */
START_TEST(again)
{
    struct migration m;
    migration_open(&m, NULL);
    guest_writes(&m, 0, 0, 100, 1);
    round_of(&m, RAM_ROUND_FIRST);
    for (unsigned seed = 2; seed < 5; seed++) {
        guest_writes(&m, 0, 0, 90, seed);
        guest_writes(&m, 0, 95, 1, seed);
        guest_writes(&m, 0, 99, 30, seed); /* some of it is new */
        round_of(&m, RAM_ROUND_LATER);
        expect_arrived(&m);
    }
    expect_closed_well(&m);
}
END_TEST

/* A page that was freed meanwhile is mapped no more. */
START_TEST(again_behind_zeroes)
{
    struct migration m;
    migration_open(&m, NULL);
    for (unsigned seed = 1; seed < 4; seed++) {
        guest_writes(&m, 0, 0, 40, seed);
        round_of(&m, seed == 1 ? RAM_ROUND_FIRST : RAM_ROUND_LATER);
        ck_assert_int_eq(bits_test(m.destination.ram->blocks[0].mapped, 10), seed > 1);
        guest_zeroes(&m, 0, 10, 1);
        round_of(&m, RAM_ROUND_LATER);
        ck_assert(!bits_test(m.destination.ram->blocks[0].mapped, 10));
        guest_writes(&m, 0, 10, 1, seed);
        round_of(&m, RAM_ROUND_LATER);
        expect_arrived(&m);
    }
    expect_closed_well(&m);
}
END_TEST

/* The waiting VMM cuts its file short. */
START_TEST(again_into_nothing)
{
    struct migration m;
    migration_open(&m, NULL);
    guest_writes(&m, 0, 0, 100, 1);
    round_of(&m, RAM_ROUND_FIRST);
    ck_assert_int_eq(ftruncate(m.destination.fds[0], 0), 0);
    guest_writes(&m, 0, 0, 100, 2);
    ck_assert(ram_save_sync(&m.saver, NULL));
    ram_save_round(&m.saver, RAM_ROUND_LATER, NULL);
    expect_error(migration_close(&m), "ram-unusable", "low");
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
    Suite *suite = suite_create("ram/load");
    unit_add(suite, "ram/load/delta-of-a-hole", delta_of_a_hole);
    unit_add(suite, "ram/load/deltas-refused", deltas_refused);
    unit_add(suite, "ram/load/again", again);
    unit_add(suite, "ram/load/again-behind-zeroes", again_behind_zeroes);
    unit_add(suite, "ram/load/again-into-nothing", again_into_nothing);
    unit_add(suite, "ram/load/bit-flipped", bit_flipped);
    unit_add(suite, "ram/load/in-small-pieces", in_small_pieces);
    unit_add(suite, "ram/load/ranges-refused", ranges_refused);
    return unit_run(suite);
}
