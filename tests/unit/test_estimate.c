/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/clock.h"
#include "ram/estimate.h"
#include "tests/unit/unit.h"

#include <math.h>

#define START 5000000000ULL

START_TEST(nothing_known)
{
    struct rate_window w;
    rate_begin(&w, START, 100);
    ck_assert_double_eq(rate_per_ms(&w, START, 100), 0);
    ck_assert_double_eq(rate_per_ms(&w, START + NS_PER_MS, 100), 0);
}
END_TEST

/* Until a window is full, what there is of it has to do. */
START_TEST(running_window)
{
    struct rate_window w;
    rate_begin(&w, START, 100);
    ck_assert(!rate_update(&w, START + 10 * NS_PER_MS, 600));
    ck_assert_double_eq_tol(rate_per_ms(&w, START + 10 * NS_PER_MS, 600), 50, 1e-9);
}
END_TEST

START_TEST(whole_windows)
{
    struct rate_window w;
    rate_begin(&w, START, 0);
    ck_assert(!rate_update(&w, START + ESTIMATE_WINDOW_NS - 1, 1000));
    ck_assert(rate_update(&w, START + ESTIMATE_WINDOW_NS, 1000));
    ck_assert_double_eq_tol(rate_per_ms(&w, START + ESTIMATE_WINDOW_NS, 1000), 10, 1e-9);
    /* What comes after it counts with the next one. */
    ck_assert_double_eq_tol(rate_per_ms(&w, START + ESTIMATE_WINDOW_NS + NS_PER_MS, 9000), 10,
                            1e-9);
    ck_assert(rate_update(&w, START + 3 * ESTIMATE_WINDOW_NS, 1000));
    ck_assert_double_eq(rate_per_ms(&w, START + 3 * ESTIMATE_WINDOW_NS, 1000), 0);
}
END_TEST

START_TEST(slow_link)
{
    struct rate_window w;
    rate_begin(&w, START, 0);
    ck_assert(rate_update(&w, START + ESTIMATE_WINDOW_NS, 1));
    double rate = rate_per_ms(&w, START + ESTIMATE_WINDOW_NS, 1);
    ck_assert_double_eq_tol(rate, 0.01, 1e-12);
    ck_assert_double_eq_tol(estimate_downtime_ms(4096, rate, 0), 409600, 1e-3);
}
END_TEST

START_TEST(downtime)
{
    ck_assert_double_eq(estimate_downtime_ms(0, 0, 3.5), 3.5);
    ck_assert(isinf(estimate_downtime_ms(1, 0, 3.5)));
    ck_assert_double_eq_tol(estimate_downtime_ms(1000, 100, 3.5), 13.5, 1e-9);
    ck_assert_double_gt(estimate_downtime_ms(UINT64_MAX, 1e-3, 0), 1e20);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ram/estimate");
    unit_add(suite, "ram/estimate/nothing-known", nothing_known);
    unit_add(suite, "ram/estimate/running-window", running_window);
    unit_add(suite, "ram/estimate/whole-windows", whole_windows);
    unit_add(suite, "ram/estimate/slow-link", slow_link);
    unit_add(suite, "ram/estimate/downtime", downtime);
    return unit_run(suite);
}
