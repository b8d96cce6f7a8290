/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/throttle.h"
#include "ram/estimate.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <string.h>

#define PAGES 1000u

/* A job whose guest notes what it is told. */
struct stage {
    struct guest guest;
    struct params *params;
    struct job *job;
    struct throttle throttle;
    unsigned told; /* the last percentage */
    unsigned times;
    bool refuses;
};

static struct stage stage;

static bool note_throttle(struct guest *g, unsigned percent, const struct wait *w,
                          struct error **errp)
{
    (void)g;
    (void)w;
    stage.told = percent;
    stage.times++;
    if (stage.refuses) {
        error_set(errp, "guest-refused", "no");
    }
    return !stage.refuses;
}

static void free_guest(struct guest *g)
{
    (void)g;
}

static void open_stage(bool capable)
{
    static const struct guest_ops ops = {.throttle = note_throttle, .free = free_guest};
    bool capabilities[CAPABILITY_COUNT] = {[CAPABILITY_AUTO_CONVERGE] = capable};
    struct job_hooks hooks = {0};
    struct error *err = NULL;
    stage = (struct stage){.guest = {.ops = &ops, .refs = 1, .name = "unit"}};
    stage.params = params_new();
    stage.job = job_new(JOB_OUTGOING, &stage.guest, stage.params, capabilities, NULL, &hooks, &err);
    expect_ok(stage.job != NULL, err);
    throttle_init(&stage.throttle, stage.job);
}

static void close_stage(void)
{
    job_unref(stage.job);
    params_unref(stage.params);
}

/* A period in which PAGES were sent and `written` percent of them were written anew. */
static void period(unsigned written)
{
    struct error *err = NULL;
    atomic_fetch_add(&stage.job->counters.ram.normal, PAGES);
    stage.throttle.begun_ns -= ESTIMATE_WINDOW_NS;
    atomic_store(&stage.job->counters.ram.remaining, PAGES * written / 100);
    expect_ok(throttle_update(&stage.throttle, &err), err);
}

static void expect_percent(unsigned percent)
{
    ck_assert_uint_eq(atomic_load(&stage.job->counters.throttle), percent);
    ck_assert_uint_eq(stage.told, percent);
}

START_TEST(off)
{
    open_stage(false);
    for (int i = 0; i < 10; i++) {
        period(400);
    }
    ck_assert_uint_eq(stage.times, 0);
    close_stage();
}
END_TEST

START_TEST(steps)
{
    static const unsigned percents[] = {0, 20, 30, 40, 50, 60, 70, 80, 90, 99, 99};
    open_stage(true);
    for (size_t i = 0; i < sizeof(percents) / sizeof(percents[0]); i++) {
        period(400);
        expect_percent(percents[i]);
    }
    ck_assert_uint_eq(stage.times, 9); /* it is told what is new, not what it knows */
    close_stage();
}
END_TEST

START_TEST(trigger)
{
    open_stage(true);
    for (int i = 0; i < 4; i++) {
        period(50); /* not more than the threshold */
    }
    expect_percent(0);
    period(51);
    expect_percent(0);
    period(51);
    expect_percent(20);
    close_stage();
}
END_TEST

START_TEST(burst)
{
    open_stage(true);
    for (int i = 0; i < 4; i++) {
        period(400);
        period(10);
    }
    ck_assert_uint_eq(stage.times, 0);
    close_stage();
}
END_TEST

START_TEST(stays)
{
    open_stage(true);
    period(400);
    period(400);
    period(10);
    expect_percent(20); /* what helps is kept */
    period(400);
    expect_percent(30);
    close_stage();
}
END_TEST

START_TEST(short_rounds)
{
    struct error *err = NULL;
    open_stage(true);
    atomic_store(&stage.job->counters.ram.remaining, PAGES);
    for (int i = 0; i < 100; i++) {
        expect_ok(throttle_update(&stage.throttle, &err), err);
    }
    ck_assert_uint_eq(stage.times, 0); /* all of them are one period that has not ended */
    period(0);
    period(400);
    expect_percent(20); /* and what was written in them counts */
    close_stage();
}
END_TEST

START_TEST(live_parameters)
{
    open_stage(true);
    param_set(stage.params, PARAM_CPU_THROTTLE_INITIAL, 40);
    param_set(stage.params, PARAM_CPU_THROTTLE_INCREMENT, 25);
    param_set(stage.params, PARAM_MAX_CPU_THROTTLE, 70);
    period(400);
    period(400);
    expect_percent(40);
    period(400);
    period(400);
    expect_percent(70);
    param_set(stage.params, PARAM_MAX_CPU_THROTTLE, 45);
    period(0);
    expect_percent(45);
    close_stage();
}
END_TEST

START_TEST(refused)
{
    struct error *err = NULL;
    open_stage(true);
    stage.refuses = true;
    period(400);
    atomic_fetch_add(&stage.job->counters.ram.normal, PAGES);
    stage.throttle.begun_ns -= ESTIMATE_WINDOW_NS;
    ck_assert(!throttle_update(&stage.throttle, &err));
    expect_error(err, "guest-refused", "no");
    close_stage();
}
END_TEST

START_TEST(ends)
{
    struct wait w = {.cancel_fd = -1};
    open_stage(true);
    throttle_end(&stage.throttle, &w);
    ck_assert_uint_eq(stage.times, 0); /* nothing to end */
    period(400);
    period(400);
    throttle_end(&stage.throttle, &w);
    expect_percent(0);
    period(400);
    throttle_stopped(&stage.throttle);
    ck_assert_uint_eq(atomic_load(&stage.job->counters.throttle), 0);
    close_stage();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("throttle");
    unit_add(suite, "daemon/throttle/off-without-the-capability", off);
    unit_add(suite, "daemon/throttle/steps", steps);
    unit_add(suite, "daemon/throttle/trigger", trigger);
    unit_add(suite, "daemon/throttle/one-burst-is-let-through", burst);
    unit_add(suite, "daemon/throttle/stays-while-it-helps", stays);
    unit_add(suite, "daemon/throttle/short-rounds-are-one-period", short_rounds);
    unit_add(suite, "daemon/throttle/parameters-are-live", live_parameters);
    unit_add(suite, "daemon/throttle/refused-by-the-vmm", refused);
    unit_add(suite, "daemon/throttle/ends", ends);
    return unit_run(suite);
}
