/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/xbzrle.h"

#include "common/clock.h"

bool xbzrle_open(struct xbzrle *x, struct job *job, const struct ram *ram, bool useful,
                 struct error **errp)
{
    *x = (struct xbzrle){.job = job, .cost = {.bytes = RAM_PAGE_SIZE}};
    if (!useful || !job->capabilities[CAPABILITY_XBZRLE]) {
        return true;
    }
    x->delta =
        ram_delta_new(ram, &job->params->values[PARAM_XBZRLE_CACHE_SIZE], &job->counters.ram, errp);
    if (!x->delta) {
        error_wrap(errp, "xbzrle-cache-size is too large");
    }
    return x->delta;
}

void xbzrle_close(struct xbzrle *x)
{
    ram_delta_free(x->delta);
    x->delta = NULL;
}

void xbzrle_begin_round(struct xbzrle *x, const struct pace *pace)
{
    struct ram_counters *c = &x->job->counters.ram;
    x->start_ns = clock_ns();
    x->sending_ns = pace_sending_ns(pace);
    x->sent = pace->stream->sent;
    x->pages = job_pages_done(x->job);
    x->deltas = atomic_load(&c->delta);
    x->delta_bytes = atomic_load(&c->delta_bytes);
    x->hits = atomic_load(&c->cache_hits);
    x->misses = atomic_load(&c->cache_misses);
}

static void publish_rates(struct xbzrle *x)
{
    struct job_counters *c = &x->job->counters;
    uint64_t misses = atomic_load(&c->ram.cache_misses) - x->misses;
    uint64_t looked_for = atomic_load(&c->ram.cache_hits) - x->hits + misses;
    uint64_t deltas = atomic_load(&c->ram.delta) - x->deltas;
    uint64_t bytes = atomic_load(&c->ram.delta_bytes) - x->delta_bytes;
    if (looked_for) {
        job_store_double(&c->miss_rate_bits, (double)misses / (double)looked_for);
    }
    if (deltas) {
        double whole = (double)deltas * RAM_PAGE_SIZE;
        job_store_double(&c->encoding_rate_bits, whole / (double)bytes);
    }
}

/* The first round tells nothing of what its pages will cost when they are sent again. */
static void take_cost(struct xbzrle *x, const struct pace *pace)
{
    double pages = (double)(job_pages_done(x->job) - x->pages);
    uint64_t sending = pace_sending_ns(pace) - x->sending_ns;
    uint64_t all = clock_ns() - x->start_ns;
    if (pages > 0) {
        double bytes = (double)(pace->stream->sent - x->sent) / pages;
        x->cost.bytes = bytes < RAM_PAGE_SIZE ? bytes : RAM_PAGE_SIZE;
        x->cost.ms = all > sending ? ns_to_ms(all - sending) / pages : 0;
    }
}

void xbzrle_end_round(struct xbzrle *x, const struct pace *pace, enum ram_round kind)
{
    if (x->delta && kind != RAM_ROUND_FIRST) {
        publish_rates(x);
        take_cost(x, pace);
    }
}

struct page_cost xbzrle_page_cost(const struct xbzrle *x)
{
    return x->cost;
}
