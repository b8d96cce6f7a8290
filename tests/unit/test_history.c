/* SPDX-License-Identifier: BSD-3-Clause */
/* A long record is thinned out, and nothing of it is lost. */
#include "daemon/history.h"
#include "tests/unit/unit.h"

static struct history h;
static struct history_round rounds[HISTORY_MAX];

static void add(uint64_t first, uint64_t count)
{
    history_init(&h);
    for (uint64_t i = first; i < first + count; i++) {
        struct history_round r = {.first = i,
                                  .count = 1,
                                  .start_ns = i * 10,
                                  .end_ns = i * 10 + 9,
                                  .transferred = 100,
                                  .pages = 2,
                                  .dirtied = 1,
                                  .remaining = i,
                                  .throttle = (unsigned)i % 100};
        history_add(&h, &r);
    }
}

START_TEST(history_as_added)
{
    add(1, HISTORY_MAX);
    ck_assert_uint_eq(history_copy(&h, rounds), HISTORY_MAX);
    for (unsigned i = 0; i < HISTORY_MAX; i++) {
        ck_assert_uint_eq(rounds[i].first, i + 1);
        ck_assert_uint_eq(rounds[i].count, 1);
    }
    history_destroy(&h);
}
END_TEST

START_TEST(history_joins_neighbours)
{
    add(1, HISTORY_MAX + 1);
    ck_assert_uint_eq(history_copy(&h, rounds), HISTORY_MAX / 2 + 1);
    ck_assert_uint_eq(rounds[1].first, 3);
    ck_assert_uint_eq(rounds[1].count, 2);
    ck_assert_uint_eq(rounds[1].start_ns, 30);
    ck_assert_uint_eq(rounds[1].end_ns, 49);
    ck_assert_uint_eq(rounds[1].transferred, 200);
    ck_assert_uint_eq(rounds[1].pages, 4);
    ck_assert_uint_eq(rounds[1].dirtied, 2);
    ck_assert_uint_eq(rounds[1].remaining, 4);
    ck_assert_uint_eq(rounds[1].throttle, 4);
    ck_assert_uint_eq(rounds[HISTORY_MAX / 2].first, HISTORY_MAX + 1);
    ck_assert_uint_eq(rounds[HISTORY_MAX / 2].count, 1);
    history_destroy(&h);
}
END_TEST

START_TEST(history_of_many_is_whole)
{
    add(1, 100000);
    unsigned count = history_copy(&h, rounds);
    uint64_t next = 1, bytes = 0;
    ck_assert_uint_le(count, HISTORY_MAX);
    for (unsigned i = 0; i < count; i++) {
        ck_assert_uint_eq(rounds[i].first, next);
        next += rounds[i].count;
        bytes += rounds[i].transferred;
    }
    ck_assert_uint_eq(next, 100001);
    ck_assert_uint_eq(bytes, 100000 * 100);
    history_destroy(&h);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("daemon/history");
    unit_add(suite, "daemon/history/as-added", history_as_added);
    unit_add(suite, "daemon/history/joins-neighbours", history_joins_neighbours);
    unit_add(suite, "daemon/history/of-many-is-whole", history_of_many_is_whole);
    return unit_run(suite);
}
