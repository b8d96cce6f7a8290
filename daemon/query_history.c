/* SPDX-License-Identifier: BSD-3-Clause */
/* What query-migrate-history answers. */
#include "common/clock.h"
#include "daemon/query.h"

static json_t *round_info(const struct history_round *r)
{
    return json_pack("{s:I, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:i}", "round", (json_int_t)r->first,
                     "count", (json_int_t)r->count, "start", ns_to_ms(r->start_ns), "end",
                     ns_to_ms(r->end_ns), "transferred", (json_int_t)r->transferred, "pages",
                     (json_int_t)r->pages, "dirtied", (json_int_t)r->dirtied, "remaining",
                     (json_int_t)r->remaining, "throttle", (int)r->throttle);
}

static json_t *rounds_info(struct job *job)
{
    struct history_round *rounds = malloc(HISTORY_MAX * sizeof(*rounds));
    json_t *all = json_array();
    if (!rounds) {
        abort();
    }
    unsigned count = history_copy(&job->history, rounds);
    for (unsigned i = 0; i < count; i++) {
        json_array_append_new(all, round_info(&rounds[i]));
    }
    free(rounds);
    return all;
}

static json_t *stop_info(struct job *job)
{
    return json_pack("{s:f, s:f, s:I, s:o}", "start", ns_to_ms(atomic_load(&job->times.stop)),
                     "downtime", ns_to_ms(atomic_load(&job->downtime.total)), "transferred",
                     (json_int_t)atomic_load(&job->counters.downtime_bytes), "parts",
                     query_downtime_parts(job));
}

static json_t *job_history(struct job *job)
{
    enum job_status status = job_get_status(job);
    char uuid[JOB_UUID_TEXT];
    job_format_uuid(job, uuid);
    json_t *info = json_pack("{s:s, s:s, s:s, s:o}", "job", uuid, "direction",
                             job_direction_name(job->direction), "status", job_status_name(status),
                             "rounds", rounds_info(job));
    if (atomic_load(&job->times.stop)) {
        json_object_set_new(info, "stop", stop_info(job));
    }
    return info;
}

json_t *query_history(struct entry *e)
{
    return e->job ? job_history(e->job) : json_pack("{s:[]}", "rounds");
}
