/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/totals.h"

#include "common/clock.h"
#include "ram/block.h"

#include <string.h>

void traffic_add(struct traffic *t, struct job *job)
{
    struct job_counters *c = &job->counters;
    bool outgoing = job->direction == JOB_OUTGOING;
    uint64_t normal = atomic_load(outgoing ? &c->ram.normal : &c->load.normal);
    t->transferred += atomic_load(&c->transferred);
    t->normal += normal;
    t->normal_bytes += normal << RAM_PAGE_SHIFT;
    t->placed_bytes += atomic_load(outgoing ? &c->placed : &c->load.placed);
    t->zero += atomic_load(outgoing ? &c->ram.duplicate : &c->load.duplicate);
    t->delta += atomic_load(&c->ram.delta);
    t->delta_bytes += atomic_load(&c->ram.delta_bytes);
    t->disk_bytes += atomic_load(&c->disk.transferred);
    t->rounds += atomic_load(&c->rounds);
}

static void count_downtime(struct totals *t, struct job *job)
{
    static const double bounds[] = DOWNTIME_BOUNDS;
    double seconds = (double)atomic_load(&job->downtime.total) / (double)NS_PER_SEC;
    unsigned i = 0;
    while (i < DOWNTIME_BUCKETS - 1 && seconds > bounds[i]) {
        i++;
    }
    t->downtime[i]++;
    t->downtime_sum += seconds;
}

static void count_code(struct totals *t, const char *code)
{
    unsigned i = 0;
    while (i < t->ncodes && strcmp(t->codes[i].code, code) != 0) {
        i++;
    }
    if (i == CODES_MAX) {
        return;
    }
    t->codes[i].code = code; /* a literal, as all codes */
    t->codes[i].count++;
    t->ncodes = i == t->ncodes ? i + 1 : t->ncodes;
}

void totals_count_end(struct totals *t, struct job *job)
{
    enum job_status status = job_get_status(job);
    struct error *err = job_get_error(job);
    t->ended[job->direction][status]++;
    if (status == JOB_COMPLETED && job->direction == JOB_OUTGOING) {
        count_downtime(t, job);
    }
    if (status == JOB_FAILED && err) {
        count_code(t, err->code);
    }
    error_free(err);
}
