/* SPDX-License-Identifier: BSD-3-Clause */
/* The source's side of the handover. */
#include "daemon/handover.h"

#include "common/clock.h"
#include "common/log.h"
#include "daemon/handshake.h"
#include "daemon/messages.h"
#include "daemon/outgoing.h"
#include "daemon/probes.h"

#include <poll.h>
#include <string.h>

/* How often an undecided source reconnects to ask. */
#define ASK_INTERVAL_MS 500

/* What the source knows about where the guest runs. */
enum fate {
    FATE_UNKNOWN,     /* GO was sent, or may have been, and nothing came back */
    FATE_DESTINATION, /* it runs there */
    FATE_SOURCE,      /* it does not run there and never will */
};

/* The parts are measured here, on one clock, and add up to the total. */
static void note_started(struct outgoing *o, const char *step)
{
    struct job_downtime *d = &o->job->downtime;
    uint64_t now = clock_ns();
    atomic_store(&d->start, now - o->ready_ns);
    atomic_store(&d->total, now - o->stopped_ns);
    probe_handover(o->job->guest_name, step);
}

/* `load_ns` is the destination's word of what loading the state took there. */
static void note_ready(struct outgoing *o, uint64_t load_ns)
{
    struct job_downtime *d = &o->job->downtime;
    o->ready_ns = clock_ns();
    uint64_t known = atomic_load(&d->stop) + atomic_load(&d->ram);
    uint64_t rest = o->ready_ns - o->stopped_ns;
    rest = rest > known ? rest - known : 0;
    load_ns = load_ns < rest ? load_ns : rest;
    atomic_store(&d->load, load_ns);
    atomic_store(&d->state, rest - load_ns);
}

static bool await_ready(struct outgoing *o, struct error **errp)
{
    struct record rec;
    if (!record_expect(o->stream.reader, RECORD_READY, &rec, errp)) {
        return false;
    }
    note_ready(o, get_le64(rec.body));
    probe_handover(o->job->guest_name, "ready");
    /* A destination that found a difference would have answered FAIL. */
    atomic_store(&o->job->counters.verified, o->job->capabilities[CAPABILITY_VERIFY]);
    return true;
}

/*
 * The last moment for a cancel: it is looked for once more after the VMM has answered, and not
 * again. The guest counts as given away even when the answer is lost: take_back sorts it out.
 */
static bool give_away(struct outgoing *o, struct error **errp)
{
    struct wait w = job_guest_wait(o->job);
    struct guest *g = o->job->guest;
    o->given_away = true;
    probe_handover(g->name, "given-away");
    return g->ops->give_away(g, o->job->uuid, &w, errp) && !wait_cancelled(&w, errp);
}

/* Waits that nothing but the end of their patience cuts short: GO is out. */
static void wait_for_fate(struct outgoing *o)
{
    struct wait w = job_patient_wait(o->job);
    w.cancel_fd = -1;
    o->stream.read_wait = o->stream.write_wait = w;
}

/* Sends GO and reads what comes of it.  A FAIL is the destination's word that it never ran. */
static enum fate send_go(struct outgoing *o, struct error **errp)
{
    struct record rec;
    struct error *err = NULL;
    wait_for_fate(o);
    if (stream_write(&o->stream, RECORD_GO, NULL, 0, &err) &&
        record_expect(o->stream.reader, RECORD_RUNNING, &rec, &err)) {
        note_started(o, "running");
        stream_write(&o->stream, RECORD_DONE, NULL, 0, NULL);
        return FATE_DESTINATION;
    }
    if (strcmp(err->code, "peer-failed") == 0) {
        error_move(errp, err);
        return FATE_SOURCE;
    }
    log_info("guest %s: after GO: %s", o->job->guest_name, err->text);
    error_free(err);
    return FATE_UNKNOWN;
}

/* ---- an undecided handover ---- */

static void set_undecided(struct job *job)
{
    job_set_handover(job, HANDOVER_UNDECIDED);
    probe_handover(job->guest_name, "undecided");
}

/* Puts a new channel in the place of the broken one; it is only for asking. */
static bool reconnect(struct outgoing *o)
{
    struct wait w = job_peer_wait(o->job);
    w.cancel_fd = o->job->resolve_fd;
    struct channel *channel = endpoint_connect(o->job->endpoint, &w, NULL);
    if (!channel) {
        return false;
    }
    stream_close(&o->stream);
    stream_open(&o->stream, channel, &w, &w);
    return true;
}

static enum fate ask_once(struct outgoing *o, struct error **errp)
{
    struct record rec;
    if (!reconnect(o) || !handshake_ask(&o->stream, o->job->uuid, NULL) ||
        !record_expect(o->stream.reader, RECORD_ANSWER, &rec, NULL)) {
        return FATE_UNKNOWN;
    }
    switch (get_le64(rec.body)) {
    case ANSWER_WAITING:
        return send_go(o, errp);
    case ANSWER_RUNNING:
        note_started(o, "running");
        stream_write(&o->stream, RECORD_DONE, NULL, 0, NULL);
        return FATE_DESTINATION;
    case ANSWER_FORGOTTEN:
        stream_write(&o->stream, RECORD_DONE, NULL, 0, NULL);
        error_set(errp, "peer-failed", "The destination gave the guest up before it ran");
        return FATE_SOURCE;
    default:
        return FATE_UNKNOWN;
    }
}

static bool is_resolved(struct job *job, int timeout_ms)
{
    struct pollfd fd = {.fd = job->resolve_fd, .events = POLLIN};
    return poll(&fd, 1, timeout_ms) > 0;
}

static enum fate resolved_fate(struct outgoing *o, struct error **errp)
{
    struct job *job = o->job;
    if (atomic_load(&job->resolution) == RESOLVE_DESTINATION) {
        note_started(o, "resolved");
        return FATE_DESTINATION;
    }
    error_set(errp, "handover-resolved",
              "The link broke in the handover, and an operator gave the guest to the source");
    return FATE_SOURCE;
}

/*
 * Asks until somebody knows.  Only an operator cuts it short.  One who says that the guest is the
 * destination's may find it still waiting for GO there: migrate-resolve there starts it.
 */
static enum fate decide(struct outgoing *o, struct error **errp)
{
    struct job *job = o->job;
    enum fate fate = FATE_UNKNOWN;
    set_undecided(job);
    job_log(job, LOG_LEVEL_WARNING, MESSAGE_UNDECIDED, NULL,
            "the link broke in the handover: it is undecided where the guest runs");
    while (fate == FATE_UNKNOWN) {
        if (is_resolved(job, ASK_INTERVAL_MS)) {
            return resolved_fate(o, errp);
        }
        if (job->endpoint->ops->reconnects) {
            fate = ask_once(o, errp);
        }
    }
    return fate;
}

/* ---- one way ---- */

/* Whoever took the bytes has the guest; a command that failed has not. */
static enum fate finish_one_way(struct outgoing *o, struct error **errp)
{
    struct job *job = o->job;
    struct wait w = job_patient_wait(job);
    w.cancel_fd = job->resolve_fd;
    for (;;) {
        struct error *err = NULL;
        if (channel_finish(o->stream.channel, &w, &err)) {
            note_started(o, "running");
            return FATE_DESTINATION;
        }
        if (strcmp(err->code, "exec-failed") == 0) {
            error_move(errp, err);
            return FATE_SOURCE;
        }
        bool silent = strcmp(err->code, "timeout") == 0;
        job_log(job, LOG_LEVEL_WARNING, MESSAGE_UNDECIDED, err->code,
                "the stream is out, its taker has not ended well: %s", err->text);
        error_free(err);
        set_undecided(job);
        if (is_resolved(job, silent ? 0 : -1)) {
            return resolved_fate(o, errp);
        }
    }
}

/* A pipe that breaks before GO is whole has given nothing away; its command may say why. */
static enum fate go_one_way(struct outgoing *o, struct error **errp)
{
    struct error *err = NULL;
    note_ready(o, 0);
    wait_for_fate(o);
    if (stream_write(&o->stream, RECORD_GO, NULL, 0, &err)) {
        return finish_one_way(o, errp);
    }
    error_move(errp, err);
    return FATE_SOURCE;
}

/* ---- the whole ---- */

static bool conclude(struct outgoing *o, enum fate fate)
{
    struct guest *g = o->job->guest;
    struct wait w = job_guest_wait(o->job);
    struct error *err = NULL;
    w.cancel_fd = -1;
    job_set_handover(o->job, fate == FATE_SOURCE ? HANDOVER_SOURCE : HANDOVER_DESTINATION);
    if (fate == FATE_SOURCE) {
        return false;
    }
    if (!g->ops->release(g, &w, &err)) {
        /* A VMM that ends as soon as it hears it is as good. */
        log_info("guest %s: runs at its destination; here: %s", o->job->guest_name, err->text);
        error_free(err);
    }
    g->ops->log_stop(g, &w);
    return true;
}

bool handover_source(struct outgoing *o, struct error **errp)
{
    bool two_way = o->stream.channel->two_way;
    if ((two_way && !await_ready(o, errp)) || !give_away(o, errp)) {
        return false;
    }
    enum fate fate = two_way ? send_go(o, errp) : go_one_way(o, errp);
    if (fate == FATE_UNKNOWN) {
        fate = decide(o, errp);
    }
    return conclude(o, fate);
}
