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
    struct channel *channel = endpoint_connect(o->job->endpoint, &peer, errp);
    if (!channel) {
        return false;
    }
    stream_open(&o->stream, channel, &patient, &peer);
    o->stream.written = &o->job->counters.transferred;
    o->stream.placed = &o->job->counters.placed;
    return handshake_offer(o->job, &o->stream, o->ram, o->disks.disks, errp);
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

/* ---- the stop ---- */

/*
 * A VMM that takes its time to stop its guest is told first.  What is left is sent while it does,
 * if it is little: the last round has then only what the guest still writes meanwhile.
 */
static bool begin_stop(struct outgoing *o, struct error **errp)
{
    struct guest *g = o->job->guest;
    struct wait w = job_guest_wait(o->job);
    if (!outgoing_prepare(o, errp)) {
        return false;
    }
    o->stopped = true;
    o->pace.unlimited = true;
    probe_handover(o->job->guest_name, "stop");
    if (!g->ops->begin_stop) {
        return true;
    }
    if (!g->ops->begin_stop(g, &w, errp)) {
        return false;
    }
    if (!o->sends_early) {
        return true;
    }
    o->last_live = outgoing_record(o);
    if (!outgoing_round(o, RAM_ROUND_LATER, errp)) {
        return false;
    }
    outgoing_record_sent(o, &o->last_live);
    return true;
}

static bool stop_guest(struct outgoing *o, struct error **errp)
{
    struct job *job = o->job;
    struct wait w = job_guest_wait(job);
    if (!begin_stop(o, errp)) {
        return false;
    }
    uint64_t asked_ns = o->stopped_ns = clock_ns();
    if (!job->guest->ops->stop(job->guest, &o->was_paused, &o->stopped_ns, &w, errp)) {
        return false;
    }
    /* What was sent while it stood still already is the last round's part of the downtime. */
    o->early_ns = asked_ns > o->stopped_ns ? asked_ns - o->stopped_ns : 0;
    atomic_store(&job->downtime.stop, clock_ns() - o->stopped_ns - o->early_ns);
    atomic_store(&job->times.stop, o->stopped_ns - atomic_load(&job->times.start));
    probe_handover(job->guest_name, "stopped");
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
    if (!outgoing_sync(o, errp)) {
        return false;
    }
    if (o->last_live.count) {
        outgoing_record_add(o, &o->last_live);
    }
    if (!stream_write_u64(&o->stream, RECORD_STOPPED, o->was_paused, errp) ||
        !outgoing_round(o, RAM_ROUND_STOPPED, errp) || !outgoing_disks_end(o, errp)) {
        return false;
    }
    atomic_store(&o->job->downtime.ram, clock_ns() - start + o->early_ns);
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

/*
 * The last round and the state, which is the caller's as a file (-1: failed).  A VMM may write RAM,
 * or tell of writes, as it saves: then the round waits for that.
 */
static int save_and_send_ram(struct outgoing *o, struct error **errp)
{
    struct guest *g = o->job->guest;
    struct wait w = job_guest_wait(o->job);
    if (g->ops->begin_save) {
        bool sent = g->ops->begin_save(g, &w, errp) && send_last_round(o, errp);
        return sent ? outgoing_save_state(o, errp) : -1;
    }
    CLEANUP_CLOSE int state = outgoing_save_state(o, errp);
    return state >= 0 && send_last_round(o, errp) ? fd_steal(&state) : -1;
}

static bool send_device(struct outgoing *o, struct error **errp)
{
    struct job_counters *c = &o->job->counters;
    uint64_t sent = o->stream.sent - atomic_load(&c->disk.transferred);
    job_set_status(o->job, JOB_DEVICE);
    bool verify = o->job->capabilities[CAPABILITY_VERIFY];
    CLEANUP_CLOSE int state = save_and_send_ram(o, errp);
    bool ok = state >= 0 && outgoing_send_state(o, state, errp) &&
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
        g->ops->log_stop(g, &w);
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
    if (!outgoing_rounds(o, errp) || !stop_guest(o, errp)) {
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
