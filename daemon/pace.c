/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/pace.h"

#include "common/clock.h"

/* A source that has nothing to send says so this often; a peer's patience is many times longer. */
#define ALIVE_NS NS_PER_SEC

/* The time that counts for the bandwidth. */
uint64_t pace_sending_ns(const struct pace *p)
{
    return p->stream->send_ns + p->waited_ns;
}

void pace_init(struct pace *p, struct job *job, struct stream *stream)
{
    uint64_t now = clock_ns();
    *p = (struct pace){.job = job,
                       .stream = stream,
                       .window_start_ns = now,
                       .counted = stream->sent,
                       .alive_ns = now};
    rate_begin(&p->bandwidth, pace_sending_ns(p), stream->sent);
    rate_begin(&p->bytes, now, stream->sent);
    rate_begin(&p->pages, now, job_pages_sent(job));
}

void pace_publish(struct pace *p)
{
    uint64_t now = clock_ns();
    rate_update(&p->bandwidth, pace_sending_ns(p), p->stream->sent);
    rate_update(&p->bytes, now, p->stream->sent);
    rate_update(&p->pages, now, job_pages_sent(p->job));
    struct job_counters *c = &p->job->counters;
    /* bytes/ms * 8 bit * 1000 ms/s / 10^6 */
    double mbps = rate_per_ms(&p->bytes, now, p->stream->sent) * 8 / 1000;
    job_store_double(&c->mbps_bits, mbps);
    double pages_per_ms = rate_per_ms(&p->pages, now, job_pages_sent(p->job));
    job_store_double(&c->pages_per_second_bits, pages_per_ms * 1000);
}

double pace_bandwidth(struct pace *p)
{
    uint64_t avail = param_get(p->job->params, PARAM_AVAIL_SWITCHOVER_BANDWIDTH);
    if (avail) {
        return (double)avail / 1000;
    }
    return rate_per_ms(&p->bandwidth, pace_sending_ns(p), p->stream->sent);
}

/* The peer speaks out of turn only to give up. */
static bool check_peer(struct pace *p, struct error **errp)
{
    struct record rec;
    struct stream *s = p->stream;
    if (!s->channel->two_way || !stream_readable(s)) {
        return true;
    }
    struct error *err = NULL;
    record_expect(s->reader, RECORD_FAIL, &rec, &err);
    if (!err) {
        error_set(&err, "stream-order", "The destination spoke out of turn");
    }
    error_move(errp, err);
    return false;
}

bool pace_check(struct pace *p, struct error **errp)
{
    if (wait_cancelled(&p->stream->write_wait, errp) || !check_peer(p, errp)) {
        return false;
    }
    uint64_t now = clock_ns();
    if (now - p->alive_ns >= ALIVE_NS) {
        uint64_t sent = p->stream->sent;
        p->alive_ns = now;
        bool ok = stream_write(p->stream, RECORD_ALIVE, NULL, 0, errp);
        p->counted += p->stream->sent - sent; /* it would use up a very low limit */
        return ok;
    }
    return true;
}

/* Opens windows until `now` lies in the last; each pays back what an earlier one overdrew. */
static void open_windows(struct pace *p, uint64_t now, double budget)
{
    uint64_t passed = (now - p->window_start_ns) / ESTIMATE_WINDOW_NS;
    if (!passed) {
        return;
    }
    p->window_start_ns += passed * ESTIMATE_WINDOW_NS;
    p->spent -= budget * (double)passed;
    p->spent = p->spent > 0 ? p->spent : 0;
}

static size_t allow(void *opaque, size_t want, struct error **errp)
{
    struct pace *p = opaque;
    for (;;) {
        uint64_t now = clock_ns();
        uint64_t limit = p->unlimited ? 0 : param_get(p->job->params, PARAM_MAX_BANDWIDTH);
        double budget = (double)limit * ((double)ESTIMATE_WINDOW_NS / (double)NS_PER_SEC);
        bool new_window = now - p->window_start_ns >= ESTIMATE_WINDOW_NS;
        p->spent += (double)(p->stream->sent - p->counted);
        p->counted = p->stream->sent;
        open_windows(p, now, budget);
        p->spent = limit ? p->spent : 0; /* what went without a limit is owed to none */
        if (new_window) {
            pace_publish(p);
        }
        if (!pace_check(p, errp)) {
            return 0;
        }
        if (!limit || p->spent < budget) {
            p->alive_ns = now;
            double left = limit ? budget - p->spent : (double)want;
            return left < (double)want ? (size_t)left + 1 : want;
        }
        if (!wait_ns(p->window_start_ns + ESTIMATE_WINDOW_NS - now, &p->stream->write_wait, errp)) {
            return 0;
        }
        p->waited_ns += clock_ns() - now;
    }
}

static bool check(void *opaque, struct error **errp)
{
    return pace_check(opaque, errp);
}

struct record_pacer pace_pacer(struct pace *p)
{
    return (struct record_pacer){.allow = allow, .check = check, .opaque = p};
}
