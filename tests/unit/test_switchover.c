/* SPDX-License-Identifier: BSD-3-Clause */
/* When a guest is stopped, from what its rounds leave. */
#include "daemon/switchover.h"
#include "tests/unit/unit.h"

#define MIB (1u << 20)
#define NOW 1000000000u

/* Each round leaves that many MiB; which of them, from 1, is the last before the stop (0: none). */
static unsigned stopped_behind(const unsigned *left, unsigned rounds)
{
    struct switchover s;
    switchover_init(&s);
    for (unsigned i = 0; i < rounds; i++) {
        if (switchover_is_due(&s, (uint64_t)left[i] * MIB, left[i], NOW)) {
            return i + 1;
        }
    }
    return 0;
}

#define STOPPED_BEHIND(...)                                                                        \
    stopped_behind((const unsigned[]){__VA_ARGS__},                                                \
                   sizeof((const unsigned[]){__VA_ARGS__}) / sizeof(unsigned))

START_TEST(at_once)
{
    struct switchover s;
    switchover_init(&s);
    ck_assert(switchover_is_due(&s, 0, 0, NOW));
    switchover_init(&s);
    ck_assert(switchover_is_due(&s, 100 * MIB, 0.9, NOW)); /* a fast link */
}
END_TEST

/* It may begin slowly. */
START_TEST(less_and_less)
{
    ck_assert_uint_eq(STOPPED_BEHIND(100, 50, 25, 12, 6, 3, 1, 0), 8);
    ck_assert_uint_eq(STOPPED_BEHIND(100, 95, 90, 85, 70, 60, 50), 0);
}
END_TEST

START_TEST(no_less)
{
    ck_assert_uint_eq(STOPPED_BEHIND(100, 100, 100, 100, 100, 100), 5);
    ck_assert_uint_eq(STOPPED_BEHIND(100, 100, 100, 100, 20, 20, 20, 20, 20), 7);
}
END_TEST

/* What a guest writes varies: it is stopped when there is little again, but not waited for long. */
START_TEST(at_a_good_moment)
{
    ck_assert_uint_eq(STOPPED_BEHIND(100, 20, 40, 50, 22, 50), 5);
    ck_assert_uint_eq(STOPPED_BEHIND(100, 20, 40, 50, 40, 50), 6);
}
END_TEST

/* Whoever lets a guest stand still for ten seconds wants it to be over, not to wait for as long. */
START_TEST(not_for_long)
{
    struct switchover s;
    switchover_init(&s);
    ck_assert(switchover_is_due(&s, 800 * MIB, 8000, NOW));
    switchover_init(&s);
    ck_assert(!switchover_is_due(&s, 200 * MIB, 200, NOW));
    ck_assert(!switchover_is_due(&s, 100 * MIB, 100, NOW + 1850000000ull));
    ck_assert(switchover_is_due(&s, 50 * MIB, 50, NOW + 1960000000ull));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("daemon/switchover");
    unit_add(suite, "daemon/switchover/at-once", at_once);
    unit_add(suite, "daemon/switchover/less-and-less", less_and_less);
    unit_add(suite, "daemon/switchover/no-less", no_less);
    unit_add(suite, "daemon/switchover/at-a-good-moment", at_a_good_moment);
    unit_add(suite, "daemon/switchover/not-for-long", not_for_long);
    return unit_run(suite);
}
