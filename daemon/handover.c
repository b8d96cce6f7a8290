/* SPDX-License-Identifier: BSD-3-Clause */
/* The source's side of the handover. */
#include "daemon/handover.h"

#include "common/clock.h"
#include "common/log.h"
#include "daemon/handshake.h"
#include "daemon/outgoing.h"

#include <poll.h>
#include <string.h>

/* How often an undecided source reconnects to ask. */
#define ASK_INTERVAL_MS 500

/* What the source knows about where the guest runs. */
enum fate {
    FATE_UNKNOWN,     /* the link broke */
    FATE_DESTINATION, /* it runs there */
    FATE_SOURCE,      /* it does not run there and never will */
};

/* The parts are measured here, on one clock, and add up to the total. */
static void note_started(struct outgoing *o)
{
    struct job_downtime *d = &o->job->downtime;
    uint64_t now = clock_ns();
    atomic_store(&d->start, now - o->ready_ns);
    atomic_store(&d->total, now - o->stopped_ns);
}

/* `load_ns` is the destination's word of what loading the state took there. */
static void note_ready(struct outgoing *o, uint64_t load_ns)
{
    struct job_downtime *d = &o->job->downtime;
    o->ready_ns = clock_ns();
    uint64_t since = o->ready_ns - o->ram_done_ns;
    load_ns = load_ns < since ? load_ns : since;
    atomic_store(&d->load, load_ns);
    atomic_store(&d->state, since - load_ns);
}

static bool await_ready(struct outgoing *o, struct error **errp)
{
    struct record rec;
    if (!record_expect(o->stream.reader, RECORD_READY, &rec, errp)) {
        return false;
    }
    note_ready(o, get_le64(rec.body));
    /* A destination that found a difference would have answered FAIL. */
    atomic_store(&o->job->counters.verified, o->job->capabilities[CAPABILITY_VERIFY]);
    return true;
}

/*
 * From here on a failure is no reason to resume.  Before it a cancel still is: it is looked for
 * once more after the VMM has answered, and not again.
 */
static bool give_away(struct outgoing *o, struct error **errp)
{
    struct wait w = job_guest_wait(o->job);
    struct guest *g = o->job->guest;
    o->given_away = true; /* also when the answer is lost: take_back sorts it out */
    return g->ops->give_away(g, o->job->uuid, &w, errp) && !wait_cancelled(&w, errp);
}

static enum fate fate_from_answer(const struct record *rec)
{
    static const enum fate fates[] = {
        [ANSWER_RUNNING] = FATE_DESTINATION,
        [ANSWER_FORGOTTEN] = FATE_SOURCE,
    };
    uint64_t answer = get_le64(rec->body);
    return answer <= ANSWER_FORGOTTEN ? fates[answer] : FATE_UNKNOWN;
}

/* Sends GO and reads what comes of it.  A FAIL is the destination's word that it never ran. */
static enum fate send_go(struct outgoing *o, struct error **errp)
{
    struct record rec;
    struct error *err = NULL;
    if (stream_write(&o->stream, RECORD_GO, NULL, 0, &err) &&
        record_expect(o->stream.reader, RECORD_RUNNING, &rec, &err)) {
        note_started(o);
        stream_write(&o->stream, RECORD_DONE, NULL, 0, NULL);
        return FATE_DESTINATION;
    }
    enum fate fate = strcmp(err->code, "peer-failed") == 0 ? FATE_SOURCE : FATE_UNKNOWN;
    error_move(errp, err);
    return fate;
}

/* Puts a new channel in the place of the broken one. */
static bool reconnect(struct outgoing *o, const struct wait *w)
{
    struct channel *channel = endpoint_connect(o->job->endpoint, w, NULL);
    if (!channel) {
        return false;
    }
    stream_close(&o->stream);
    stream_open(&o->stream, channel, w, w);
    return true;
}

static enum fate ask_once(struct outgoing *o, const struct wait *w, struct error **errp)
{
    struct record rec;
    if (!reconnect(o, w) || !handshake_ask(&o->stream, o->job->uuid, NULL) ||
        !record_expect(o->stream.reader, RECORD_ANSWER, &rec, NULL)) {
        return FATE_UNKNOWN;
    }
    if (get_le64(rec.body) == ANSWER_WAITING) {
        return send_go(o, errp);
    }
    enum fate fate = fate_from_answer(&rec);
    if (fate == FATE_DESTINATION) {
        note_started(o);
        stream_write(&o->stream, RECORD_DONE, NULL, 0, NULL);
    } else if (fate == FATE_SOURCE) {
        error_set(errp, "peer-failed", "The destination gave the guest up before it ran");
    }
    return fate;
}

static enum fate resolved_fate(struct job *job, struct error **errp)
{
    if (atomic_load(&job->resolution) == RESOLVE_DESTINATION) {
        return FATE_DESTINATION;
    }
    error_set(errp, "handover-resolved",
              "The link broke in the handover, and an operator gave the guest to the source");
    return FATE_SOURCE;
}

/* Asks until somebody knows.  Only an operator, or the end of the daemon, cuts it short. */
static enum fate decide(struct outgoing *o, struct error **errp)
{
    struct job *job = o->job;
    struct wait w = job_peer_wait(job);
    struct pollfd fd = {.fd = job->resolve_fd, .events = POLLIN};
    enum fate fate = FATE_UNKNOWN;
    w.cancel_fd = job->resolve_fd;
    job_set_handover(job, HANDOVER_UNDECIDED);
    log_warning("guest %s: the link broke in the handover: it is undecided where the guest runs",
                job->guest_name);
    while (fate == FATE_UNKNOWN) {
        if (poll(&fd, 1, ASK_INTERVAL_MS) > 0) {
            return resolved_fate(job, errp);
        }
        if (job->endpoint->ops->reconnects) {
            fate = ask_once(o, &w, errp);
        }
    }
    return fate;
}

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
    g->ops->log_stop(g);
    return true;
}

/* No READY, GO or RUNNING: whoever took the bytes has the guest. */
static bool finish_one_way(struct outgoing *o, struct error **errp)
{
    struct wait w = job_patient_wait(o->job);
    if (!channel_finish(o->stream.channel, &w, errp) || !give_away(o, errp)) {
        return false;
    }
    note_ready(o, 0);
    note_started(o);
    return conclude(o, FATE_DESTINATION);
}

bool handover_source(struct outgoing *o, struct error **errp)
{
    if (!o->stream.channel->two_way) {
        return finish_one_way(o, errp);
    }
    if (!await_ready(o, errp) || !give_away(o, errp)) {
        return false;
    }
    struct wait w = job_patient_wait(o->job);
    w.cancel_fd = o->job->resolve_fd; /* too late to cancel */
    o->stream.read_wait = o->stream.write_wait = w;
    struct error *err = NULL;
    enum fate fate = send_go(o, &err);
    if (fate == FATE_UNKNOWN) {
        error_free(err);
        err = NULL;
        fate = decide(o, &err);
    }
    bool completed = conclude(o, fate);
    if (completed) {
        error_free(err);
    } else {
        error_move(errp, err);
    }
    return completed;
}
