/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One client's connection: bytes in, requests in their order, replies and events out.
 *
 * In-band requests run one at a time, in the order in which they came.  Without the capability oob
 * the next one is not even looked at before the last was answered; with it, parsing goes on so that
 * an exec-oob request can overtake, up to a number of waiting requests.  When that is reached, or
 * the client does not read what it was sent, the session stops reading: the kernel's buffer fills
 * and the client has to wait.  Events can't wait; a client with too many unread is closed.
 *
 * Lifetime: the session belongs to its server until session_close, and to each request that has not
 * been answered.  After session_close it is only a place where late answers are dropped.
 *
 * Handlers are called from the event loop only, never from inside qmp_return or qmp_fail.
 */
#ifndef FERRY_PROTOCOL_SESSION_H
#define FERRY_PROTOCOL_SESSION_H

#include "protocol/framing.h"
#include "protocol/receive.h"
#include "protocol/request.h"
#include "protocol/server.h"

#include <stdbool.h>

struct event;
struct evbuffer;

/* In-band requests that may wait behind the running one when oob is on, as clients know it. */
#define SESSION_MAX_WAITING 8

/* With this many bytes unread by the client no further request is started. */
#define SESSION_OUTPUT_PAUSE ((size_t)1024 * 1024)

/* With this many the client is taken for stuck and closed. */
#define SESSION_OUTPUT_MAX ((size_t)16 * 1024 * 1024)

TAILQ_HEAD(request_queue, qmp_request);

/* Whose session it is, and what it may do. */
struct session_client {
    uid_t uid;
    bool read_only;
};

struct session {
    struct qmp_server *server; /* NULL once closed */
    struct session_client client;
    LIST_ENTRY(session) link;
    unsigned references;
    int fd;
    bool negotiated;
    bool oob;
    bool ended;   /* the client sends no more */
    bool reading; /* read_event is added */
    bool pumping; /* session_pump is on the stack */
    bool more;    /* it stopped with requests left, for the sake of others */
    struct event *read_event;
    struct event *write_event;
    struct event *pump_event; /* only ever activated by hand */
    struct evbuffer *input;
    struct evbuffer *output;
    struct framing framing;
    struct fd_queue fds;
    struct qmp_request *running; /* the in-band one */
    struct request_queue waiting;
    unsigned waiting_count;
    unsigned unanswered; /* started, in-band or not */
};

/* Takes over `fd`, also when it fails; greets the client. */
bool session_new(struct qmp_server *server, int fd, const struct session_client *client);

/* Frees what it can, at once; unanswered requests stay valid. */
void session_close(struct session *session);

/* Ends the negotiation. */
void session_negotiated(struct session *session, bool oob);

/* Append to what the client will read: bytes, or a line of JSON.  May close the session. */
void session_send(struct session *session, const void *bytes, size_t len);
void session_send_json(struct session *session, const json_t *json);

/* The rest is between session.c and pump.c. */

bool session_is_open(const struct session *session);

/* Drops a reference, which the caller must have. */
void session_unref(struct session *session);

/* Frees a request that was admitted, and its reference to its session. */
void session_release(struct qmp_request *req);

/* Whether it must wait before another request can be looked at. */
bool session_is_stalled(const struct session *session);

/* Does what can be done with what was received.  May close the session. */
void session_pump(struct session *session);

#endif
