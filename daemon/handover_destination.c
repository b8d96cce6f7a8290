/* SPDX-License-Identifier: BSD-3-Clause */
/* The destination's side of the handover. */
#include "daemon/handover.h"

#include "common/clock.h"
#include "common/log.h"
#include "daemon/incoming.h"

#include <string.h>

static bool start_guest(struct incoming *in, uint64_t *ns, struct error **errp)
{
    struct wait w = job_guest_wait(in->job);
    uint64_t start = clock_ns();
    w.cancel_fd = -1; /* too late to cancel: the guest is ours */
    struct error *err = NULL;
    if (!in->job->guest->ops->start(in->job->guest, in->paused, &w, &err)) {
        /* Only a VMM's own refusal says that the guest does not run: all else leaves it in doubt.
         */
        in->in_doubt = strcmp(err->code, "guest-refused") != 0;
        error_move(errp, err);
        return false;
    }
    *ns = clock_ns() - start;
    atomic_store(&in->job->downtime.start, *ns);
    in->running = true;
    return true;
}

/* The guest runs when the source knows it, and also when it does not: it can ask. */
static bool on_go(struct incoming *in, struct error **errp)
{
    uint64_t ns = 0;
    if (!start_guest(in, &ns, errp)) {
        return false;
    }
    job_set_handover(in->job, HANDOVER_DESTINATION);
    stream_write_u64(&in->stream, RECORD_RUNNING, ns, NULL);
    return true;
}

/*
 * The source has come back, or somebody else has come.  Answers a question about this job; true
 * when the channel is the source's and is now in->stream.
 */
static bool take_question(struct incoming *in, struct channel *channel, enum handover_answer answer)
{
    struct wait w = job_peer_wait(in->job);
    struct handshake h;
    stream_close(&in->stream);
    stream_open(&in->stream, channel, &w, &w);
    bool ours = handshake_receive(&in->stream, NULL, &h, NULL) && h.kind == HANDSHAKE_QUESTION &&
                memcmp(h.uuid, in->peer.uuid, sizeof(h.uuid)) == 0;
    stream_write_u64(&in->stream, RECORD_ANSWER, ours ? answer : ANSWER_UNKNOWN, NULL);
    return ours;
}

/* Waits, until `deadline_ns`, for the source to come back and ask. */
static bool await_question(struct incoming *in, enum handover_answer answer, uint64_t deadline_ns,
                           struct error **errp)
{
    while (in->listener->ops->again) {
        uint64_t now = clock_ns();
        struct wait w = job_peer_wait(in->job);
        w.timeout_ms = now < deadline_ns ? (int)((deadline_ns - now) / NS_PER_MS) + 1 : 0;
        struct channel *channel = listener_accept(in->listener, &w, errp);
        if (!channel) {
            return false;
        }
        if (take_question(in, channel, answer)) {
            return true;
        }
    }
    error_set(errp, "channel-closed", "The link to the source broke in the handover");
    return false;
}

static uint64_t patience_deadline(struct incoming *in)
{
    return clock_ns() + (uint64_t)job_patient_wait(in->job).timeout_ms * NS_PER_MS;
}

/* GO, or the source's word that it keeps the guest. */
static bool await_go(struct incoming *in, struct error **errp)
{
    uint64_t deadline = patience_deadline(in);
    for (;;) {
        struct record rec;
        struct error *err = NULL;
        if (record_expect(in->stream.reader, RECORD_GO, &rec, &err)) {
            return true;
        }
        bool broken =
            strcmp(err->code, "channel-closed") == 0 || strcmp(err->code, "stream-truncated") == 0;
        if (!broken) {
            error_move(errp, err);
            return false;
        }
        error_free(err);
        log_warning("guest %s: the link broke before GO: waiting for the source to come back",
                    in->job->guest_name);
        if (!await_question(in, ANSWER_WAITING, deadline, errp)) {
            return false;
        }
    }
}

/* A one-way stream ends with its END, and its command with status 0; then nobody else has the
 * guest. */
static bool finish_one_way(struct incoming *in, struct error **errp)
{
    uint8_t byte;
    uint64_t ns;
    struct wait w = job_peer_wait(in->job);
    long n = in->stream.channel ? channel_read(in->stream.channel, &byte, 1, &w, errp) : 0;
    if (n < 0) {
        return false;
    }
    if (n > 0 || record_reader_buffered(in->stream.reader)) {
        error_set(errp, "stream-corrupt", "The stream goes on after its end");
        return false;
    }
    return channel_finish(in->stream.channel, &w, errp) && start_guest(in, &ns, errp);
}

bool handover_destination(struct incoming *in, struct error **errp)
{
    if (!in->peer.two_way) {
        return finish_one_way(in, errp);
    }
    uint64_t load_ns = atomic_load(&in->job->downtime.load);
    in->offered = true;
    /* A READY that can't be written is a broken link: the source never gives the guest away. */
    return stream_write_u64(&in->stream, RECORD_READY, load_ns, errp) && await_go(in, errp) &&
           on_go(in, errp);
}

void handover_linger(struct incoming *in)
{
    struct record rec;
    uint64_t deadline = patience_deadline(in);
    enum handover_answer answer = in->running ? ANSWER_RUNNING : ANSWER_FORGOTTEN;
    answer = in->in_doubt ? ANSWER_UNKNOWN : answer;
    /* Either DONE, or the end of the channel: a source that got our word closes it, too. */
    while (!record_expect(in->stream.reader, RECORD_DONE, &rec, NULL)) {
        if (!await_question(in, answer, deadline, NULL) || answer != ANSWER_RUNNING) {
            return;
        }
    }
}
