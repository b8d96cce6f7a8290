/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The destination's side of the handover.
 *
 * From READY on it listens in two places at once: on the channel that the stream came by, and, in
 * case that one is broken without our noticing, for a source that comes back with a question.
 */
#include "daemon/handover.h"

#include "common/clock.h"
#include "common/log.h"
#include "daemon/incoming.h"
#include "daemon/probes.h"

#include <poll.h>
#include <string.h>

/* How long one place is listened to before the other is looked at. */
#define SLICE_MS 100
/* A caller has a question at once, or is no source of ours. */
#define QUESTION_MS 2000
/* A source first waits for its answer as long as it may, then comes back: longer than that. */
#define PATIENCE_FACTOR   2
#define PATIENCE_EXTRA_MS 5000

static uint64_t patience_deadline(struct incoming *in)
{
    uint64_t ms = (uint64_t)job_patient_wait(in->job).timeout_ms * PATIENCE_FACTOR;
    return clock_ns() + (ms + PATIENCE_EXTRA_MS) * NS_PER_MS;
}

/* ---- listening in two places ---- */

struct hearing {
    struct incoming *in;
    uint32_t type;               /* the record that is waited for */
    enum handover_answer answer; /* to a source that asks */
    int cancel_fd;
    uint64_t deadline_ns;
    bool broken; /* the stream's own channel is gone */
};

static bool link_is_broken(const struct error *err)
{
    return strcmp(err->code, "channel-closed") == 0 || strcmp(err->code, "stream-truncated") == 0;
}

/* Answers one caller.  The source's channel takes the place of the broken one. */
static void answer_caller(const struct hearing *h, struct channel *channel)
{
    struct incoming *in = h->in;
    struct wait w = {.cancel_fd = h->cancel_fd, .timeout_ms = QUESTION_MS, .what = "the caller"};
    struct stream caller;
    struct handshake hello;
    stream_open(&caller, channel, &w, &w);
    bool ours = handshake_receive(&caller, NULL, &hello, NULL) &&
                hello.kind == HANDSHAKE_QUESTION &&
                memcmp(hello.uuid, in->peer.uuid, sizeof(hello.uuid)) == 0;
    stream_write_u64(&caller, RECORD_ANSWER, ours ? h->answer : ANSWER_UNKNOWN, NULL);
    if (ours) {
        stream_take(&in->stream, &caller);
    } else {
        stream_close(&caller);
    }
}

static bool hear_caller(const struct hearing *h, struct error **errp)
{
    struct incoming *in = h->in;
    struct wait w = {.cancel_fd = h->cancel_fd, .timeout_ms = SLICE_MS, .what = "the source"};
    struct error *err = NULL;
    if (!in->listener->ops->again) {
        /* Nobody can call; with a broken link there is just the operator to wait for. */
        return in->stream.channel || wait_ns(SLICE_MS * NS_PER_MS, &w, errp);
    }
    if (in->stream.channel && !in->listener->ops->ready(in->listener)) {
        return true;
    }
    struct channel *channel = listener_accept(in->listener, &w, &err);
    if (channel) {
        answer_caller(h, channel);
    } else if (strcmp(err->code, "timeout") != 0) {
        error_move(errp, err);
        return false;
    }
    error_free(err);
    return true;
}

enum heard { HEARD_NOTHING, HEARD_IT, HEARD_THE_END };

static enum heard hear_stream(const struct hearing *h, struct error **errp)
{
    struct incoming *in = h->in;
    struct record rec;
    struct error *err = NULL;
    if (!in->stream.channel) {
        return HEARD_NOTHING;
    }
    in->stream.read_wait =
        (struct wait){.cancel_fd = h->cancel_fd, .timeout_ms = SLICE_MS, .what = "the source"};
    if (record_expect(in->stream.reader, h->type, &rec, &err)) {
        return HEARD_IT;
    }
    if (link_is_broken(err)) {
        stream_close(&in->stream);
    } else if (strcmp(err->code, "timeout") != 0) {
        error_move(errp, err);
        return HEARD_THE_END;
    }
    error_free(err);
    return HEARD_NOTHING;
}

/* The link is broken: from now on the source, which notices too, has less time to come back. */
static void note_broken(struct hearing *h)
{
    if (h->answer == ANSWER_WAITING && !h->broken) {
        uint64_t deadline = clock_ns() + (uint64_t)job_peer_wait(h->in->job).timeout_ms * NS_PER_MS;
        h->deadline_ns = deadline < h->deadline_ns ? deadline : h->deadline_ns;
        job_set_handover(h->in->job, HANDOVER_UNDECIDED);
        log_warning("guest %s: the link broke before GO: waiting for the source to come back",
                    h->in->job->guest_name);
    }
    h->broken = true;
}

/* Until the record has come, on this channel or on that of a source that came back. */
static bool hear(struct hearing *h, struct error **errp)
{
    for (;;) {
        enum heard heard = hear_stream(h, errp);
        if (heard != HEARD_NOTHING) {
            return heard == HEARD_IT;
        }
        if (!hear_caller(h, errp)) {
            return false;
        }
        if (!h->in->stream.channel) {
            note_broken(h);
        }
        bool hopeless = h->broken && !h->in->listener->ops->again && h->answer != ANSWER_WAITING;
        if (hopeless || clock_ns() > h->deadline_ns) {
            error_set(errp, "timeout", "The source did not come back in the handover");
            return false;
        }
    }
}

/* ---- waiting for GO ---- */

static bool operator_gave_it_to_us(struct job *job)
{
    return atomic_load(&job->resolution) == RESOLVE_DESTINATION;
}

/* GO; or the source's word that it keeps the guest; or an operator's decision. */
static bool await_go(struct incoming *in, struct error **errp)
{
    struct hearing h = {.in = in,
                        .type = RECORD_GO,
                        .answer = ANSWER_WAITING,
                        .cancel_fd = in->job->cancel_fd,
                        .deadline_ns = patience_deadline(in)};
    struct error *err = NULL;
    if (hear(&h, &err)) {
        return true;
    }
    if (operator_gave_it_to_us(in->job)) {
        error_free(err);
        return true;
    }
    job_set_handover(in->job, HANDOVER_SOURCE);
    error_move(errp, err);
    return false;
}

/*
 * Tells the VMM to run, and waits for its word as long as it lives: who gave up would have to say
 * that the guest does not run, and the VMM might run it all the same.
 */
static bool start_guest(struct incoming *in, uint64_t *ns, struct error **errp)
{
    struct job *job = in->job;
    struct error *err = NULL;
    struct wait quick = job_guest_wait(job);
    if (!operator_gave_it_to_us(job) && wait_cancelled(&quick, errp)) {
        return false;
    }
    uint64_t start = clock_ns();
    probe_handover(job->guest_name, "start");
    job_set_handover(job, HANDOVER_UNDECIDED);
    struct wait w = {.cancel_fd = -1, .timeout_ms = -1, .what = "the VMM"};
    struct guest_announce announce = params_announce(job->params);
    bool paused = in->paused || job->options.stay_paused;
    if (!job->guest->ops->start(job->guest, paused, &announce, &w, &err)) {
        in->in_doubt = strcmp(err->code, "guest-in-doubt") == 0;
        job_set_handover(job, in->in_doubt ? HANDOVER_UNDECIDED : HANDOVER_SOURCE);
        error_move(errp, err);
        return false;
    }
    *ns = clock_ns() - start;
    probe_handover(job->guest_name, "started");
    atomic_store(&job->downtime.start, *ns);
    in->running = true;
    job_set_handover(job, HANDOVER_DESTINATION);
    return true;
}

/* A one-way stream ends with its GO, and its command with status 0. */
static bool finish_one_way(struct incoming *in, struct error **errp)
{
    uint8_t byte;
    uint64_t ns;
    struct record rec;
    struct wait w = job_peer_wait(in->job);
    if (!record_expect(in->stream.reader, RECORD_GO, &rec, errp)) {
        return false;
    }
    bool more = record_reader_buffered(in->stream.reader);
    ssize_t n = more ? 1 : channel_read(in->stream.channel, &byte, 1, &w, errp);
    if (n > 0) {
        error_set(errp, "stream-corrupt", "The stream goes on after its end");
    }
    return n == 0 && channel_finish(in->stream.channel, &w, errp) && start_guest(in, &ns, errp);
}

bool handover_destination(struct incoming *in, struct error **errp)
{
    uint64_t ns = 0;
    if (!in->peer.two_way) {
        return finish_one_way(in, errp);
    }
    in->offered = true;
    probe_handover(in->job->guest_name, "loaded");
    /* A READY that can't be written is a broken link: the source never gives the guest away. */
    if (!stream_write_u64(&in->stream, RECORD_READY, atomic_load(&in->job->downtime.load), errp) ||
        !await_go(in, errp) || !start_guest(in, &ns, errp)) {
        return false;
    }
    /* The guest runs, whether this arrives or not: the source can ask. */
    if (in->stream.channel) {
        stream_write_u64(&in->stream, RECORD_RUNNING, ns, NULL);
    }
    return true;
}

void handover_linger(struct incoming *in)
{
    struct hearing h = {.in = in,
                        .type = RECORD_DONE,
                        .answer = in->running ? ANSWER_RUNNING : ANSWER_FORGOTTEN,
                        .cancel_fd = in->job->quit_fd,
                        .deadline_ns = patience_deadline(in)};
    if (in->in_doubt) {
        return; /* there is nothing to tell: an operator decides, at the source */
    }
    struct error *err = NULL;
    hear(&h, &err);
    error_free(err);
}
