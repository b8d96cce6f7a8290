/* SPDX-License-Identifier: BSD-3-Clause */
/* The rounds of a job at the source, up to the moment at which its guest should be stopped. */
#include "common/clock.h"
#include "daemon/outgoing.h"
#include "daemon/outgoing_disks.h"
#include "daemon/probes.h"
#include "ram/returned.h"

/*
 * What is left can be sent while a VMM gets ready to stop its guest, in some 10 ms.  What takes
 * much longer is not: the guest would stand still for the rest of it, and for all that it has
 * written again meanwhile.  Milliseconds.
 */
#define EARLY_MAX_MS 20.0

/* ---- tracking ---- */

static bool tracker_sync(void *opaque, struct ram *ram, struct error **errp)
{
    struct outgoing *o = opaque;
    struct wait w = job_guest_wait(o->job);
    uint64_t *dirty[RAM_BLOCKS_MAX];
    for (unsigned i = 0; i < ram->count; i++) {
        dirty[i] = ram->blocks[i].dirty;
    }
    uint64_t start = clock_ns();
    bool ok = o->job->guest->ops->log_sync(o->job->guest, dirty, &w, errp);
    o->sync_ns = clock_ns() - start;
    return ok && o->job->guest->ops->log_settle(o->job->guest, &w, errp);
}

static bool tracker_clear(void *opaque, unsigned block, uint64_t first, uint64_t count,
                          struct error **errp)
{
    struct outgoing *o = opaque;
    struct wait w = job_guest_wait(o->job);
    if (wait_cancelled(&w, errp)) {
        return false; /* chunks of zeroes may go by without a request or a write */
    }
    return o->job->guest->ops->log_clear(o->job->guest, block, first, count, &w, errp);
}

uint64_t outgoing_remaining(const struct outgoing *o)
{
    const struct job_counters *c = &o->job->counters;
    return (atomic_load(&c->ram.remaining) << RAM_PAGE_SHIFT) + atomic_load(&c->disk.remaining);
}

/* As in the reference, each synchronisation is a pass, also the one that decides to stop. */
static void count_pass(struct outgoing *o)
{
    uint64_t pass = atomic_fetch_add(&o->job->counters.rounds, 1) + 1;
    o->job->hooks.pass(o->job->hooks.opaque, o->job, pass);
}

bool outgoing_sync(struct outgoing *o, struct error **errp)
{
    struct job_counters *c = &o->job->counters;
    if (!ram_save_sync(&o->saver, errp)) {
        return false;
    }
    outgoing_disks_sync(o);
    uint64_t now = clock_ns();
    uint64_t pages = atomic_load(&c->ram.remaining);
    if (o->synced_ns && now > o->synced_ns) {
        double per_second = (double)pages * (double)NS_PER_SEC / (double)(now - o->synced_ns);
        atomic_store(&c->dirty_rate, (uint64_t)(per_second + 0.5));
    }
    o->synced_ns = now;
    count_pass(o);
    return true;
}

static bool announce_round(struct outgoing *o, struct error **errp)
{
    uint8_t body[16];
    put_le64(body, atomic_load(&o->job->counters.rounds));
    put_le64(body + 8, atomic_load(&o->job->counters.ram.remaining));
    return stream_write(&o->stream, RECORD_ROUND, body, sizeof(body), errp);
}

static bool send_ram(struct outgoing *o, enum ram_round kind, struct error **errp)
{
    xbzrle_begin_round(&o->xbzrle, &o->pace);
    bool ok = ram_save_round(&o->saver, kind, errp);
    xbzrle_end_round(&o->xbzrle, &o->pace, kind);
    return ok;
}

bool outgoing_round(struct outgoing *o, enum ram_round kind, struct error **errp)
{
    if (announce_round(o, errp) && outgoing_disks_round(o, kind, errp) && send_ram(o, kind, errp)) {
        return true;
    }
    stream_prefer_peers_word(&o->stream, errp);
    return false;
}

struct history_round outgoing_record(const struct outgoing *o)
{
    struct history_round r = {
        .first = atomic_load(&o->job->counters.rounds),
        .count = 1,
        .start_ns = job_elapsed(o->job),
        .transferred = o->stream.sent,
        .pages = job_pages_sent(o->job),
    };
    probe_round_begin(o->job->guest_name, r.first);
    return r;
}

void outgoing_record_sent(const struct outgoing *o, struct history_round *r)
{
    r->end_ns = job_elapsed(o->job);
    r->transferred = o->stream.sent - r->transferred;
    r->pages = job_pages_sent(o->job) - r->pages;
    r->throttle = atomic_load(&o->job->counters.throttle);
}

void outgoing_record_add(struct outgoing *o, struct history_round *r)
{
    struct job *job = o->job;
    r->dirtied = atomic_load(&job->counters.ram.remaining);
    r->remaining = outgoing_remaining(o);
    history_add(&job->history, r);
    probe_round_end(job->guest_name, r->first, r->transferred, r->dirtied);
}

/* ---- when to stop ---- */

/* Requests to the VMM while its guest stands still: to stop, to save, to hand over. */
#define STOP_REQUESTS 3u
/* Exchanges with the peer meanwhile: END and READY, GO and RUNNING. */
#define STOP_EXCHANGES 2u

/*
 * What stopping, loading and starting cost besides the bytes.  All of it is measured anew in each
 * round: one slow answer is not held against a job for the rest of its life.
 */
static double fixed_downtime_ms(const struct outgoing *o)
{
    uint64_t request_ns = o->job->guest->request_ns;
    uint64_t listing_ns = ram_has_returned(o->ram) ? o->saver.listing_ns : 0;
    return ns_to_ms(o->sync_ns + listing_ns +
                    STOP_REQUESTS * (request_ns == UINT64_MAX ? 0 : request_ns) +
                    STOP_EXCHANGES * channel_round_trip_ns(o->stream.channel));
}

static double expect_downtime(struct outgoing *o)
{
    struct job_counters *c = &o->job->counters;
    struct page_cost cost = xbzrle_page_cost(&o->xbzrle);
    double pages = (double)atomic_load(&c->ram.remaining);
    uint64_t bytes = (uint64_t)(pages * cost.bytes) + atomic_load(&c->disk.remaining);
    double ms = estimate_downtime_ms(bytes, pace_bandwidth(&o->pace),
                                     fixed_downtime_ms(o) + pages * cost.ms);
    job_store_double(&c->expected_downtime_bits, ms);
    return ms;
}

/* A guest that is held back is let go before it is stopped, and writes the more meanwhile. */
static bool may_send_early(const struct outgoing *o, double expected, double sending, double limit)
{
    return outgoing_remaining(o) && !atomic_load(&o->job->counters.throttle) &&
           sending <= EARLY_MAX_MS && expected + sending <= limit;
}

/* Whether the guest should be stopped now; sets *within when that would keep to the limit. */
static bool should_stop(struct outgoing *o, bool *within)
{
    uint64_t left = outgoing_remaining(o);
    double limit = (double)param_get(o->job->params, PARAM_DOWNTIME_LIMIT);
    double expected = expect_downtime(o);
    double sending = expected - fixed_downtime_ms(o);
    *within = !left || expected <= limit;
    o->sends_early = may_send_early(o, expected, sending, limit);
    return *within && switchover_is_due(&o->switchover, left, sending, clock_ns());
}

bool outgoing_prepare(struct outgoing *o, struct error **errp)
{
    struct wait w = job_guest_wait(o->job);
    struct guest_announce announce = params_announce(o->job->params);
    if (!o->prepared && !o->job->guest->ops->prepare(o->job->guest, &announce, &w, errp)) {
        return false;
    }
    o->prepared = true;
    return true;
}

/*
 * Listing holes to find pages that the guest has returned takes long in a large guest.  It is done
 * in one more round while the guest runs, so that after the stop it is done only for a guest that
 * returns pages all the time.
 */
static bool should_find_returned(struct outgoing *o)
{
    o->finds_returned = !o->finds_returned && ram_has_returned(o->ram);
    return o->finds_returned;
}

/* What is due between two rounds. */
static bool between_rounds(struct outgoing *o, bool within, struct error **errp)
{
    return within ? outgoing_prepare(o, errp) : throttle_update(&o->throttle, errp);
}

/* One round while the guest runs, and what it has written meanwhile. */
static bool live_round(struct outgoing *o, enum ram_round kind, struct error **errp)
{
    struct history_round record = outgoing_record(o);
    o->job->guest->request_ns = UINT64_MAX;
    if (!outgoing_round(o, kind, errp) || !outgoing_sync(o, errp)) {
        return false;
    }
    outgoing_record_sent(o, &record);
    outgoing_record_add(o, &record);
    pace_publish(&o->pace);
    return true;
}

static void begin(struct outgoing *o)
{
    pace_init(&o->pace, o->job, &o->stream);
    throttle_init(&o->throttle, o->job);
    switchover_init(&o->switchover);
    o->saver = (struct ram_saver){
        .ram = o->ram,
        .tracker = {.sync = tracker_sync, .clear = tracker_clear, .opaque = o},
        .pacer = pace_pacer(&o->pace),
        .sink = o->stream.sink,
        .counters = &o->job->counters.ram,
        .delta = o->xbzrle.delta,
        .exact = o->job->capabilities[CAPABILITY_VERIFY],
    };
    outgoing_disks_begin(o);
    ram_save_begin(&o->saver); /* whoever sees `active` sees what remains */
}

bool outgoing_rounds(struct outgoing *o, struct error **errp)
{
    begin(o);
    job_set_status(o->job, JOB_ACTIVE);
    o->synced_ns = clock_ns();
    if (!tracker_sync(o, o->ram, errp)) {
        return false;
    }
    count_pass(o);
    for (enum ram_round kind = RAM_ROUND_FIRST;; kind = RAM_ROUND_LATER) {
        bool within;
        if (!live_round(o, kind, errp)) {
            return false;
        }
        if (should_stop(o, &within) && !should_find_returned(o)) {
            return true;
        }
        if (!between_rounds(o, within, errp)) {
            return false;
        }
    }
}
