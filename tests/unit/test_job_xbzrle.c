/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/xbzrle.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

/* A job that sends nothing: its counters and what its stream has sent are set by hand. */
struct stage {
    struct guest guest;
    struct params *params;
    struct job *job;
    struct stream stream;
    struct pace pace;
    struct ram *ram;
    struct xbzrle xbzrle;
};

static void free_guest(struct guest *g)
{
    (void)g;
}

static void stage_open(struct stage *s, bool capable)
{
    static const struct guest_ops ops = {.free = free_guest};
    static const struct job_hooks hooks;
    bool capabilities[CAPABILITY_COUNT] = {[CAPABILITY_XBZRLE] = capable};
    struct error *err = NULL;
    *s = (struct stage){.guest = {.ops = &ops, .refs = 1, .name = "unit"}, .ram = ram_new()};
    s->params = params_new();
    param_set(s->params, PARAM_XBZRLE_CACHE_SIZE, 16 * PAGE);
    s->job = job_new(JOB_OUTGOING, &s->guest, s->params, capabilities, NULL, &hooks, &err);
    expect_ok(s->job != NULL, err);
    s->pace = (struct pace){.job = s->job, .stream = &s->stream};
    expect_ok(xbzrle_open(&s->xbzrle, s->job, s->ram, true, &err), err);
    ck_assert_int_eq(s->xbzrle.delta != NULL, capable);
}

static void stage_close(struct stage *s)
{
    xbzrle_close(&s->xbzrle);
    ram_free(s->ram);
    job_unref(s->job);
    params_unref(s->params);
}

/* A round in which so many pages went whole and as deltas, in so many bytes. */
static void one_round(struct stage *s, enum ram_round kind, uint64_t whole, uint64_t deltas,
                      uint64_t bytes)
{
    struct ram_counters *c = &s->job->counters.ram;
    xbzrle_begin_round(&s->xbzrle, &s->pace);
    atomic_fetch_add(&c->normal, whole);
    atomic_fetch_add(&c->cache_misses, whole);
    atomic_fetch_add(&c->delta, deltas);
    atomic_fetch_add(&c->cache_hits, deltas);
    atomic_fetch_add(&c->delta_bytes, bytes - whole * PAGE);
    s->stream.sent += bytes;
    xbzrle_end_round(&s->xbzrle, &s->pace, kind);
}

static double page_bytes(const struct stage *s)
{
    struct page_cost cost = xbzrle_page_cost(&s->xbzrle);
    ck_assert(cost.ms >= 0);
    return cost.bytes;
}

START_TEST(off)
{
    struct stage s;
    stage_open(&s, false);
    one_round(&s, RAM_ROUND_LATER, 1, 0, PAGE);
    ck_assert(page_bytes(&s) == PAGE);
    ck_assert(xbzrle_page_cost(&s.xbzrle).ms == 0);
    ck_assert_uint_eq(s.job->counters.ram.cache_bytes, 0);
    stage_close(&s);
}
END_TEST

/* As the last round paid; never more than a page, and nothing is learnt from the first round. */
START_TEST(cost_of_a_page)
{
    struct stage s;
    stage_open(&s, true);
    ck_assert_uint_eq(s.job->counters.ram.cache_bytes, 16 * PAGE);
    ck_assert(page_bytes(&s) == PAGE);
    one_round(&s, RAM_ROUND_FIRST, 0, 100, 100);
    ck_assert(page_bytes(&s) == PAGE);
    one_round(&s, RAM_ROUND_LATER, 0, 100, 4000);
    ck_assert(page_bytes(&s) == 40);
    one_round(&s, RAM_ROUND_LATER, 10, 10, 10 * PAGE + 400);
    ck_assert(page_bytes(&s) == (10 * PAGE + 400) / 20.0);
    one_round(&s, RAM_ROUND_LATER, 10, 0, 10 * (PAGE + 32));
    ck_assert(page_bytes(&s) == PAGE);
    one_round(&s, RAM_ROUND_LATER, 0, 0, 32);
    ck_assert(page_bytes(&s) == PAGE);
    stage_close(&s);
}
END_TEST

START_TEST(rates)
{
    struct stage s;
    stage_open(&s, true);
    struct job_counters *c = &s.job->counters;
    one_round(&s, RAM_ROUND_LATER, 10, 30, 10 * PAGE + 30 * PAGE / 8);
    ck_assert(job_load_double(&c->miss_rate_bits) == 0.25);
    ck_assert(job_load_double(&c->encoding_rate_bits) == 8);
    one_round(&s, RAM_ROUND_LATER, 0, 0, 0); /* has none: the last ones stand */
    ck_assert(job_load_double(&c->miss_rate_bits) == 0.25);
    ck_assert(job_load_double(&c->encoding_rate_bits) == 8);
    one_round(&s, RAM_ROUND_STOPPED, 0, 10, 10 * PAGE / 2);
    ck_assert(job_load_double(&c->miss_rate_bits) == 0);
    ck_assert(job_load_double(&c->encoding_rate_bits) == 2);
    stage_close(&s);
}
END_TEST

START_TEST(no_memory)
{
    struct stage s;
    struct error *err = NULL;
    stage_open(&s, true);
    xbzrle_close(&s.xbzrle);
    param_set(s.params, PARAM_XBZRLE_CACHE_SIZE, 1ULL << 62);
    ck_assert(!xbzrle_open(&s.xbzrle, s.job, s.ram, true, &err));
    expect_error(err, "no-memory", "xbzrle-cache-size");
    stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("daemon/xbzrle");
    unit_add(suite, "daemon/xbzrle/off", off);
    unit_add(suite, "daemon/xbzrle/cost-of-a-page", cost_of_a_page);
    unit_add(suite, "daemon/xbzrle/rates", rates);
    unit_add(suite, "daemon/xbzrle/no-memory", no_memory);
    return unit_run(suite);
}
