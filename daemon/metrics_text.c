/* SPDX-License-Identifier: BSD-3-Clause */
/* The figures as text, a family at a time. */
#include "daemon/metrics.h"

#include "protocol/qmp.h"

#include <event2/buffer.h>
#include <string.h>

/* A label's value as it must stand between quotes: twice as long at most. */
#define LABEL_SIZE ((size_t)2 * GUEST_NAME_SIZE)

static void family(struct evbuffer *to, const char *name, const char *type, const char *help)
{
    evbuffer_add_printf(to, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static const char *escaped(const char *text, char label[LABEL_SIZE])
{
    size_t n = 0;
    for (; *text && n + 3 < LABEL_SIZE; text++) {
        if (*text == '\\' || *text == '"' || *text == '\n') {
            label[n++] = '\\';
        }
        label[n++] = (char)(*text == '\n' ? 'n' : *text);
    }
    label[n] = '\0';
    return label;
}

/* ---- now ---- */

static void write_jobs(struct ferryd *d, struct evbuffer *to)
{
    unsigned counts[DIRECTIONS][JOB_STATUS_COUNT] = {0};
    struct entry *e;
    TAILQ_FOREACH(e, &d->entries, link)
    {
        if (e->job) {
            counts[e->job->direction][job_get_status(e->job)]++;
        }
    }
    family(to, "ferry_jobs", "gauge", "Migrations known, the last of each guest, by state.");
    for (int direction = 0; direction < DIRECTIONS; direction++) {
        for (int status = JOB_SETUP; status < JOB_STATUS_COUNT; status++) {
            evbuffer_add_printf(to, "ferry_jobs{direction=\"%s\",state=\"%s\"} %u\n",
                                job_direction_name(direction), job_status_name(status),
                                counts[direction][status]);
        }
    }
}

static void write_guests(struct ferryd *d, struct evbuffer *to)
{
    unsigned attached = 0, undecided = 0;
    struct entry *e;
    TAILQ_FOREACH(e, &d->entries, link)
    {
        attached += e->guest && !e->parked;
        undecided +=
            entry_is_orphan(e) || (e->job && atomic_load(&e->job->handover) == HANDOVER_UNDECIDED);
    }
    family(to, "ferry_guests", "gauge", "Guests attached.");
    evbuffer_add_printf(to, "ferry_guests %u\n", attached);
    family(to, "ferry_undecided_handovers", "gauge",
           "Guests of which nobody here knows where they run: migrate-resolve.");
    evbuffer_add_printf(to, "ferry_undecided_handovers %u\n", undecided);
}

static void write_sessions(struct ferryd *d, struct evbuffer *to)
{
    family(to, "ferry_sessions", "gauge", "Control sessions open.");
    evbuffer_add_printf(to, "ferry_sessions %zu\n", qmp_server_sessions(d->qmp));
}

static uint64_t dirty_rate(struct job *job)
{
    return atomic_load(&job->counters.dirty_rate);
}

static uint64_t remaining(struct job *job)
{
    return atomic_load(&job->counters.ram.remaining) << RAM_PAGE_SHIFT;
}

static uint64_t throttle(struct job *job)
{
    return atomic_load(&job->counters.throttle);
}

/* What is told of each outgoing migration that is under way. */
static void write_active(struct ferryd *d, struct evbuffer *to)
{
    static const struct {
        const char *name, *help;
        uint64_t (*value)(struct job *job);
    } gauges[] = {
        {"ferry_dirty_pages_per_second", "Pages that the guest writes, per second.", dirty_rate},
        {"ferry_remaining_bytes", "RAM that is still to be sent.", remaining},
        {"ferry_throttle_percent", "How much auto-converge slows the guest down.", throttle},
    };
    char label[LABEL_SIZE];
    struct entry *e;
    for (size_t i = 0; i < sizeof(gauges) / sizeof(gauges[0]); i++) {
        family(to, gauges[i].name, "gauge", gauges[i].help);
        TAILQ_FOREACH(e, &d->entries, link)
        {
            if (e->job && e->job->direction == JOB_OUTGOING && entry_is_busy(e)) {
                evbuffer_add_printf(to, "%s{guest=\"%s\"} %llu\n", gauges[i].name,
                                    escaped(e->name, label),
                                    (unsigned long long)gauges[i].value(e->job));
            }
        }
    }
}

/* ---- since the start ---- */

struct counter {
    const char *labels;
    size_t field; /* in struct traffic */
};

static void write_counters(const struct traffic *traffic, struct evbuffer *to, const char *name,
                           const struct counter *counters, size_t count)
{
    for (int direction = 0; direction < DIRECTIONS; direction++) {
        for (size_t i = 0; i < count; i++) {
            const char *field = (const char *)&traffic[direction] + counters[i].field;
            evbuffer_add_printf(to, "%s{direction=\"%s\"%s} %llu\n", name,
                                job_direction_name(direction), counters[i].labels,
                                (unsigned long long)*(const uint64_t *)(const void *)field);
        }
    }
}

#define FIELD(name) offsetof(struct traffic, name)
#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static void write_traffic(struct ferryd *d, struct evbuffer *to)
{
    static const struct counter all[] = {{"", FIELD(transferred)}};
    static const struct counter bytes[] = {{",kind=\"normal\"", FIELD(normal_bytes)},
                                           {",kind=\"delta\"", FIELD(delta_bytes)},
                                           {",kind=\"disk\"", FIELD(disk_bytes)}};
    static const struct counter placed[] = {{"", FIELD(placed_bytes)}};
    static const struct counter pages[] = {{",kind=\"normal\"", FIELD(normal)},
                                           {",kind=\"zero\"", FIELD(zero)},
                                           {",kind=\"delta\"", FIELD(delta)}};
    static const struct counter rounds[] = {{"", FIELD(rounds)}};
    struct traffic traffic[DIRECTIONS];
    struct live_job *live;
    memcpy(traffic, d->totals.traffic, sizeof(traffic));
    TAILQ_FOREACH(live, &d->live, link)
    {
        traffic_add(&traffic[live->job->direction], live->job);
    }
    family(to, "ferry_transferred_bytes_total", "counter", "Bytes on the wire.");
    write_counters(traffic, to, "ferry_transferred_bytes_total", all, COUNT(all));
    family(to, "ferry_bytes_total", "counter", "Bytes of pages, of deltas and of disks.");
    write_counters(traffic, to, "ferry_bytes_total", bytes, COUNT(bytes));
    family(to, "ferry_placed_bytes_total", "counter", "Bytes of pages that went by RDMA WRITE.");
    write_counters(traffic, to, "ferry_placed_bytes_total", placed, COUNT(placed));
    family(to, "ferry_pages_total", "counter", "Pages, by the form in which they went.");
    write_counters(traffic, to, "ferry_pages_total", pages, COUNT(pages));
    family(to, "ferry_rounds_total", "counter", "Rounds over the RAM of guests.");
    write_counters(traffic, to, "ferry_rounds_total", rounds, COUNT(rounds));
}

static void write_ends(const struct totals *t, struct evbuffer *to)
{
    family(to, "ferry_migrations_total", "counter", "Migrations that have ended, by their end.");
    for (int direction = 0; direction < DIRECTIONS; direction++) {
        for (int status = JOB_SETUP; status < JOB_STATUS_COUNT; status++) {
            if (job_status_is_terminal(status)) {
                evbuffer_add_printf(to,
                                    "ferry_migrations_total{direction=\"%s\",end=\"%s\"} %llu\n",
                                    job_direction_name(direction), job_status_name(status),
                                    (unsigned long long)t->ended[direction][status]);
            }
        }
    }
}

static void write_errors(const struct totals *t, struct evbuffer *to)
{
    family(to, "ferry_errors_total", "counter",
           "Migrations that have failed, by the error's code.");
    for (unsigned i = 0; i < t->ncodes; i++) {
        evbuffer_add_printf(to, "ferry_errors_total{code=\"%s\"} %llu\n", t->codes[i].code,
                            (unsigned long long)t->codes[i].count);
    }
}

static void write_downtime(const struct totals *t, struct evbuffer *to)
{
    static const double bounds[] = DOWNTIME_BOUNDS;
    unsigned long long below = 0;
    family(to, "ferry_downtime_seconds", "histogram",
           "How long guests stood still, of outgoing migrations that completed.");
    for (size_t i = 0; i < DOWNTIME_BUCKETS; i++) {
        below += t->downtime[i];
        if (i < COUNT(bounds)) {
            evbuffer_add_printf(to, "ferry_downtime_seconds_bucket{le=\"%g\"} %llu\n", bounds[i],
                                below);
        }
    }
    evbuffer_add_printf(to,
                        "ferry_downtime_seconds_bucket{le=\"+Inf\"} %llu\n"
                        "ferry_downtime_seconds_sum %.9f\nferry_downtime_seconds_count %llu\n",
                        below, t->downtime_sum, below);
}

void metrics_write(struct ferryd *d, struct evbuffer *to)
{
    family(to, "ferry_build_info", "gauge", "The version that runs, always 1.");
    evbuffer_add_printf(to, "ferry_build_info{version=\"" FERRY_VERSION "\"} 1\n");
    write_guests(d, to);
    write_sessions(d, to);
    write_jobs(d, to);
    write_active(d, to);
    write_traffic(d, to);
    write_ends(&d->totals, to);
    write_errors(&d->totals, to);
    write_downtime(&d->totals, to);
}
