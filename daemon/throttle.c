/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/throttle.h"

#include "common/clock.h"
#include "common/log.h"
#include "ram/estimate.h"

/* Periods in a row that make the first step: one may be a guest's burst. */
#define BAD_PERIODS 2u

static unsigned current(const struct throttle *t)
{
    return (unsigned)atomic_load(&t->job->counters.throttle);
}

static unsigned parameter(const struct throttle *t, enum param param)
{
    return (unsigned)param_get(t->job->params, param);
}

static void begin_period(struct throttle *t)
{
    t->begun_ns = clock_ns();
    t->sent = job_pages_done(t->job);
    t->written = 0;
}

void throttle_init(struct throttle *t, struct job *job)
{
    *t = (struct throttle){.job = job};
    begin_period(t);
}

static bool set(struct throttle *t, unsigned percent, const struct wait *w, struct error **errp)
{
    struct guest *g = t->job->guest;
    if (percent == current(t)) {
        return true;
    }
    log_info("guest %s: throttled by %u percent", t->job->guest_name, percent);
    /* Shown first: a guest whose VMM did not answer may be throttled. */
    atomic_store(&t->job->counters.throttle, percent);
    return g->ops->throttle(g, percent, w, errp);
}

/* The percentage that the guest is due after a bad period, not yet held to the maximum. */
static unsigned next_step(const struct throttle *t)
{
    unsigned percent = current(t);
    if (percent) {
        return percent + parameter(t, PARAM_CPU_THROTTLE_INCREMENT);
    }
    return t->bad < BAD_PERIODS ? 0 : parameter(t, PARAM_CPU_THROTTLE_INITIAL);
}

static bool period_was_bad(const struct throttle *t)
{
    double sent = (double)(job_pages_done(t->job) - t->sent);
    return (double)t->written > sent * parameter(t, PARAM_THROTTLE_TRIGGER_THRESHOLD) / 100;
}

bool throttle_update(struct throttle *t, struct error **errp)
{
    if (!t->job->capabilities[CAPABILITY_AUTO_CONVERGE]) {
        return true;
    }
    unsigned percent = current(t);
    t->written += atomic_load(&t->job->counters.ram.remaining);
    if (clock_ns() - t->begun_ns >= ESTIMATE_WINDOW_NS) {
        bool bad = period_was_bad(t);
        t->bad = bad ? t->bad + 1 : 0;
        percent = bad ? next_step(t) : percent;
        begin_period(t);
    }
    unsigned max = parameter(t, PARAM_MAX_CPU_THROTTLE);
    struct wait w = job_guest_wait(t->job);
    return set(t, percent < max ? percent : max, &w, errp);
}

void throttle_stopped(struct throttle *t)
{
    atomic_store(&t->job->counters.throttle, 0);
}

void throttle_end(struct throttle *t, const struct wait *w)
{
    struct error *err = NULL;
    if (!set(t, 0, w, &err)) {
        log_warning("guest %s: %s", t->job->guest_name, err->text);
        error_free(err);
    }
}
