/* SPDX-License-Identifier: BSD-3-Clause */
/* The way of a session's requests from its input to their handlers, and of the answers back. */
#include "protocol/encode.h"
#include "protocol/session.h"

#include <event2/buffer.h>
#include <event2/event.h>

/* Requests that one session may get done before others have their turn. */
#define PUMP_BATCH 64

void session_negotiated(struct session *s, bool oob)
{
    s->negotiated = true;
    s->oob = oob;
}

/* Answers a request with an object that is complete but for the id, which it takes over. */
static void answer(struct qmp_request *req, json_t *reply)
{
    struct session *s = req->session;
    if (session_is_open(s)) {
        if (req->id) {
            json_object_set(reply, "id", req->id);
        }
        session_send_json(s, reply);
    }
    json_decref(reply);
    if (s->running == req) {
        s->running = NULL;
    }
    s->unanswered--;
    if (session_is_open(s) && !s->pumping) {
        event_active(s->pump_event, 0, 0);
    }
    session_release(req);
}

void qmp_return(struct qmp_request *req, json_t *value)
{
    answer(req, encode_return(value));
}

void qmp_fail(struct qmp_request *req, struct error *err)
{
    json_t *reply = encode_error(err);
    error_free(err);
    answer(req, reply);
}

int qmp_request_take_fd(struct qmp_request *req)
{
    return fd_queue_take(&req->session->fds);
}

uid_t qmp_request_uid(const struct qmp_request *req)
{
    return req->session->client.uid;
}

static void start(struct qmp_request *req)
{
    req->session->unanswered++;
    if (req->err) {
        struct error *err = req->err;
        req->err = NULL;
        qmp_fail(req, err);
    } else {
        req->command->run(req, req->args, req->command->opaque);
    }
}

/* A request that was received: to be run now, or behind those that came before. */
static void admit(struct session *s, struct qmp_request *req)
{
    req->session = s;
    s->references++;
    if (req->oob) {
        start(req);
    } else {
        TAILQ_INSERT_TAIL(&s->waiting, req, link);
        s->waiting_count++;
    }
}

static bool start_next(struct session *s)
{
    struct qmp_request *req = TAILQ_FIRST(&s->waiting);
    if (s->running || !req) {
        return false;
    }
    TAILQ_REMOVE(&s->waiting, req, link);
    s->waiting_count--;
    s->running = req;
    start(req);
    return true;
}

static bool output_paused(const struct session *s)
{
    return evbuffer_get_length(s->output) > SESSION_OUTPUT_PAUSE;
}

bool session_is_stalled(const struct session *s)
{
    bool full = s->oob ? s->waiting_count >= SESSION_MAX_WAITING : s->running != NULL;
    return full || output_paused(s);
}

static struct qmp_request *parse(const struct session *s, const char *bytes, size_t len)
{
    struct request_context context = {
        .schema = &s->server->schema,
        .dispatch = &s->server->dispatch,
        .negotiated = s->negotiated,
        .oob = s->oob,
        .read_only = s->client.read_only,
    };
    return request_parse(&context, bytes, len);
}

/* Makes a request of the first `len` bytes of the input, which the framing says are one or none. */
static bool take_request(struct session *s, enum framing_result result, const char *bytes,
                         size_t len)
{
    struct qmp_request *req =
        result == FRAMING_COMPLETE ? parse(s, bytes, len) : request_unframed(result);
    if (!req) {
        session_close(s);
        return false;
    }
    evbuffer_drain(s->input, len);
    admit(s, req);
    return true;
}

/* Takes a request, or bytes between requests, off the input; false when there is neither. */
static bool take_input(struct session *s)
{
    size_t old = s->framing.length; /* the head of the input that was scanned before */
    size_t have = evbuffer_get_length(s->input);
    if (have == old) {
        return false;
    }
    const char *bytes = (const char *)evbuffer_pullup(s->input, -1);
    if (!bytes) {
        session_close(s);
        return false;
    }
    size_t used;
    enum framing_result result = framing_scan(&s->framing, bytes + old, have - old, &used);
    if (result == FRAMING_PARTIAL) {
        return false;
    }
    if (result == FRAMING_SKIPPED) {
        evbuffer_drain(s->input, used);
        return true;
    }
    return take_request(s, result, bytes, old + used);
}

static bool step(struct session *s)
{
    if (!output_paused(s) && start_next(s)) {
        return true;
    }
    return !session_is_stalled(s) && take_input(s);
}

static bool is_idle(const struct session *s)
{
    return s->unanswered == 0 && TAILQ_EMPTY(&s->waiting) && evbuffer_get_length(s->output) == 0;
}

/* Arranges for what must happen before there is something to do again. */
static void settle(struct session *s)
{
    if (s->more) {
        event_active(s->pump_event, 0, 0);
    } else if (s->ended) {
        if (is_idle(s)) {
            session_close(s);
        }
    } else if (!s->reading && !session_is_stalled(s)) {
        s->reading = event_add(s->read_event, NULL) == 0;
    }
}

void session_pump(struct session *s)
{
    s->references++;
    s->pumping = true;
    int left = PUMP_BATCH;
    while (session_is_open(s) && left > 0 && step(s)) {
        left--;
    }
    s->pumping = false;
    s->more = left == 0;
    if (session_is_open(s)) {
        settle(s);
    }
    session_unref(s);
}
