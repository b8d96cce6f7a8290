/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/outgoing.h"

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "daemon/handover.h"
#include "daemon/handshake.h"
#include "daemon/outgoing_disks.h"
#include "daemon/probes.h"
#include "ram/verify.h"

#include <poll.h>
#include <string.h>

/* A cancelled job waits no longer than this for the VMM to say that its guest runs again. */
#define CANCEL_RESUME_MS 50

/* How often a paused job looks after its peer. */
#define PAUSE_CHECK_NS (100 * NS_PER_MS)

/* ---- setup ---- */

static bool connect_peer(struct outgoing *o, struct error **errp)
{
    struct wait peer = job_peer_wait(o->job);
    struct wait patient = job_patient_wait(o->job);
    uint64_t start = clock_ns();
    struct channel *channel = endpoint_connect(o->job->endpoint, &peer, errp);
    if (!channel) {
        return false;
    }
    o->peer_ns = clock_ns() - start;
    stream_open(&o->stream, channel, &patient, &peer);
    o->stream.written = &o->job->counters.transferred;
    o->stream.placed = &o->job->counters.placed;
    start = clock_ns();
    bool ok = handshake_offer(o->job, &o->stream, o->ram, o->disks.disks, errp);
    if (!o->disks.disks) { /* an answer that waits for disks tells nothing of the link */
        o->peer_ns = clock_ns() - start;
    }
    return ok;
}

static bool share_ram(struct outgoing *o, struct error **errp)
{
    const struct job *job = o->job;
    return stream_share(&o->stream, o->ram, false, job->capabilities[CAPABILITY_RDMA_PIN_ALL],
                        param_get(job->params, PARAM_RDMA_CHUNK_SIZE), errp);
}

static bool start_logging(struct outgoing *o, struct error **errp)
{
    struct wait w = job_guest_wait(o->job);
    o->logging = true; /* also when it fails half-way: log_stop undoes all of it */
    return o->job->guest->ops->log_start(o->job->guest, &w, errp);
}

/* ---- rounds ---- */

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
    o->request_ns = clock_ns() - start;
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

static uint64_t remaining_bytes(const struct outgoing *o)
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

/* Takes over what was written, and with it the rate at which the guest writes. */
static bool sync_dirty(struct outgoing *o, struct error **errp)
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

/* A failed write whose reason the peer has told is reported with that reason. */
static bool run_round(struct outgoing *o, enum ram_round kind, struct error **errp)
{
    if (announce_round(o, errp) && outgoing_disks_round(o, kind, errp) && send_ram(o, kind, errp)) {
        return true;
    }
    stream_prefer_peers_word(&o->stream, errp);
    return false;
}

/* The record of a round, begun. */
static struct history_round begin_record(struct outgoing *o)
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

/* What remains after a synchronisation is what the guest wrote meanwhile. */
static void end_record(struct outgoing *o, struct history_round *r)
{
    struct job *job = o->job;
    r->end_ns = job_elapsed(job);
    r->transferred = o->stream.sent - r->transferred;
    r->pages = job_pages_sent(job) - r->pages;
    r->dirtied = atomic_load(&job->counters.ram.remaining);
    r->remaining = remaining_bytes(o);
    r->throttle = atomic_load(&job->counters.throttle);
    history_add(&job->history, r);
    probe_round_end(job->guest_name, r->first, r->transferred, r->dirtied);
}

/* What stopping, loading and starting cost besides the bytes: a request or two to each end. */
static double fixed_downtime_ms(const struct outgoing *o)
{
    return ns_to_ms(4 * o->request_ns + 2 * o->peer_ns);
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

/*
 * Whether the guest should be stopped now.  Within the limit it pays to go on only while each round
 * at least halves what is left: a guest that writes little is then stopped for less than allowed.
 */
static bool should_stop(struct outgoing *o, uint64_t before)
{
    uint64_t left = remaining_bytes(o);
    double limit = (double)param_get(o->job->params, PARAM_DOWNTIME_LIMIT);
    double expected = expect_downtime(o);
    if (left && expected > limit) {
        return false;
    }
    return left > before / 2 || expected - fixed_downtime_ms(o) < 1;
}

static bool run_rounds(struct outgoing *o, struct error **errp)
{
    o->synced_ns = clock_ns();
    if (!tracker_sync(o, o->ram, errp)) {
        return false;
    }
    count_pass(o);
    uint64_t before = remaining_bytes(o);
    for (enum ram_round kind = RAM_ROUND_FIRST;; kind = RAM_ROUND_LATER) {
        struct history_round record = begin_record(o);
        if (!run_round(o, kind, errp) || !sync_dirty(o, errp)) {
            return false;
        }
        end_record(o, &record);
        pace_publish(&o->pace);
        if (should_stop(o, before)) {
            return true;
        }
        before = remaining_bytes(o);
        if (!throttle_update(&o->throttle, errp)) {
            return false;
        }
    }
}

/* ---- the stop ---- */

static bool stop_guest(struct outgoing *o, struct error **errp)
{
    struct wait w = job_guest_wait(o->job);
    if (!o->job->guest->ops->prepare(o->job->guest, &w, errp)) {
        return false;
    }
    o->stopped = true;
    o->stopped_ns = clock_ns();
    probe_handover(o->job->guest_name, "stop");
    if (!o->job->guest->ops->stop(o->job->guest, &o->was_paused, &o->stopped_ns, &w, errp)) {
        return false;
    }
    atomic_store(&o->job->downtime.stop, clock_ns() - o->stopped_ns);
    atomic_store(&o->job->times.stop, o->stopped_ns - atomic_load(&o->job->times.start));
    probe_handover(o->job->guest_name, "stopped");
    throttle_stopped(&o->throttle);
    return true;
}

static bool continue_asked(const struct job *job)
{
    struct pollfd fd = {.fd = job->continue_fd, .events = POLLIN};
    return poll(&fd, 1, 0) > 0;
}

/* pause-before-switchover: until migrate-continue, a cancel, or the peer's end. */
static bool await_continue(struct outgoing *o, struct error **errp)
{
    job_set_status(o->job, JOB_PRE_SWITCHOVER);
    struct wait w = {.cancel_fd = o->job->cancel_fd};
    while (!continue_asked(o->job)) {
        struct pollfd fds[2] = {{.fd = o->job->continue_fd, .events = POLLIN},
                                {.fd = o->job->cancel_fd, .events = POLLIN}};
        poll(fds, 2, (int)(PAUSE_CHECK_NS / NS_PER_MS));
        if (wait_cancelled(&w, errp) || !pace_check(&o->pace, errp)) {
            return false;
        }
    }
    return true;
}

static bool send_last_round(struct outgoing *o, struct error **errp)
{
    uint64_t start = clock_ns();
    o->pace.unlimited = true;
    if (!sync_dirty(o, errp) ||
        !stream_write_u64(&o->stream, RECORD_STOPPED, o->was_paused, errp) ||
        !run_round(o, RAM_ROUND_STOPPED, errp) || !outgoing_disks_end(o, errp)) {
        return false;
    }
    atomic_store(&o->job->downtime.ram, clock_ns() - start);
    return true;
}

/* ---- the end ---- */

static bool send_end(struct outgoing *o, struct error **errp)
{
    struct job_counters *c = &o->job->counters;
    uint8_t body[24];
    put_le64(body, atomic_load(&c->ram.normal) + atomic_load(&c->ram.delta));
    put_le64(body + 8, atomic_load(&c->ram.duplicate));
    put_le64(body + 16, o->state_bytes);
    return stream_write(&o->stream, RECORD_END, body, sizeof(body), errp);
}

static bool send_device(struct outgoing *o, struct error **errp)
{
    struct job_counters *c = &o->job->counters;
    uint64_t sent = o->stream.sent - atomic_load(&c->disk.transferred);
    job_set_status(o->job, JOB_DEVICE);
    bool verify = o->job->capabilities[CAPABILITY_VERIFY];
    /* Saved first: a VMM may write RAM, or tell of writes, as it does. */
    CLEANUP_CLOSE int state = outgoing_save_state(o, errp);
    bool ok = state >= 0 && send_last_round(o, errp) && outgoing_send_state(o, state, errp) &&
              (!verify || verify_send(o->ram, &o->stream.sink, errp)) && send_end(o, errp);
    if (!ok) {
        stream_prefer_peers_word(&o->stream, errp);
    }
    probe_handover(o->job->guest_name, ok ? "sent" : "not-sent");
    atomic_store(&c->downtime_bytes, o->stream.sent - atomic_load(&c->disk.transferred) - sent);
    return ok;
}

/* ---- the whole ---- */

/* Puts the source's guest back to what it was.  Also runs when the job was cancelled. */
static void undo(struct outgoing *o, const struct error *why)
{
    struct guest *g = o->job->guest;
    struct error *err = NULL;
    bool cancelled = strcmp(why->code, "cancelled") == 0;
    struct wait w = job_guest_wait(o->job);
    w.cancel_fd = -1; /* it may be set, and what follows must be done all the same */
    w.timeout_ms = cancelled && w.timeout_ms > CANCEL_RESUME_MS ? CANCEL_RESUME_MS : w.timeout_ms;
    if (o->throttle.job) {
        throttle_end(&o->throttle, &w);
    }
    if (o->given_away) {
        g->ops->take_back(g, &w, &err);
    }
    if (o->stopped && !g->ops->resume(g, &w, err ? NULL : &err)) {
        log_warning("guest %s: %s", o->job->guest_name, err ? err->text : "not resumed");
    }
    error_free(err);
    if (o->logging) {
        g->ops->log_stop(g);
    }
}

static bool migrate(struct outgoing *o, struct error **errp)
{
    if (!job_map_ram(o->job, o->ram, errp) || !outgoing_disks_open(o, errp) ||
        !connect_peer(o, errp) || !share_ram(o, errp) ||
        !xbzrle_open(&o->xbzrle, o->job, o->ram, !o->stream.sink.place, errp) ||
        !start_logging(o, errp)) {
        return false;
    }
    pace_init(&o->pace, o->job, &o->stream);
    throttle_init(&o->throttle, o->job);
    o->saver = (struct ram_saver){
        .ram = o->ram,
        .tracker = {.sync = tracker_sync, .clear = tracker_clear, .opaque = o},
        .pacer = pace_pacer(&o->pace),
        .sink = o->stream.sink,
        .counters = &o->job->counters.ram,
        .delta = o->xbzrle.delta,
    };
    outgoing_disks_begin(o);
    ram_save_begin(&o->saver); /* whoever sees `active` sees what remains */
    job_set_status(o->job, JOB_ACTIVE);
    if (!run_rounds(o, errp) || !stop_guest(o, errp)) {
        return false;
    }
    if (o->job->capabilities[CAPABILITY_PAUSE_BEFORE_SWITCHOVER] && !await_continue(o, errp)) {
        return false;
    }
    return send_device(o, errp) && handover_source(o, errp);
}

void outgoing_run(struct job *job)
{
    struct outgoing *o = calloc(1, sizeof(*o));
    struct error *err = NULL, *word = NULL;
    if (!o) {
        abort();
    }
    o->job = job;
    o->ram = ram_new();
    if (!migrate(o, &err)) {
        err = job_begin_end(job, err);
        word = error_copy(err);
        undo(o, err);
    }
    if (o->stream.channel && !o->stream.channel->two_way) {
        stream_close(&o->stream); /* nobody to tell; a command ends here */
    }
    disks_free(o->disks.disks); /* whoever sees the end may bring the guest back to them */
    job_end(job, err);
    if (word) {
        stream_give_up(&o->stream, word);
        stream_drain(&o->stream);
    }
    error_free(word);
    stream_close(&o->stream);
    xbzrle_close(&o->xbzrle);
    ram_free(o->ram);
    free(o);
}
