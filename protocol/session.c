/* SPDX-License-Identifier: BSD-3-Clause */
#include "protocol/session.h"

#include "common/log.h"
#include "protocol/encode.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Pieces of output per system call; a reply is one. */
#define WRITE_PIECES 16

bool session_is_open(const struct session *s)
{
    return s->server != NULL;
}

void session_unref(struct session *s)
{
    if (--s->references == 0) {
        free(s);
    }
}

void session_release(struct qmp_request *req)
{
    struct session *s = req->session;
    request_free(req);
    session_unref(s);
}

static void free_event(struct event *event)
{
    if (event) {
        event_free(event);
    }
}

static void free_buffer(struct evbuffer *buffer)
{
    if (buffer) {
        evbuffer_free(buffer);
    }
}

/* Everything but the struct; also for one that was made only half. */
static void free_parts(struct session *s)
{
    free_event(s->read_event);
    free_event(s->write_event);
    free_event(s->pump_event);
    free_buffer(s->input);
    free_buffer(s->output);
    fd_queue_clear(&s->fds);
    close(s->fd);
}

void session_close(struct session *s)
{
    if (!session_is_open(s)) {
        return;
    }
    LIST_REMOVE(s, link);
    --*server_session_count(s->server, s->client.read_only);
    s->server = NULL;
    free_parts(s);
    struct qmp_request *req;
    while ((req = TAILQ_FIRST(&s->waiting))) {
        TAILQ_REMOVE(&s->waiting, req, link);
        session_release(req);
    }
    session_unref(s);
}

/* Writes what the socket takes now; false when the connection is broken. */
static bool flush(struct session *s)
{
    while (evbuffer_get_length(s->output) > 0) {
        struct evbuffer_iovec pieces[WRITE_PIECES];
        int count = evbuffer_peek(s->output, -1, NULL, pieces, WRITE_PIECES);
        struct msghdr msg = {
            .msg_iov = pieces,
            .msg_iovlen = (size_t)(count < WRITE_PIECES ? count : WRITE_PIECES),
        };
        ssize_t sent = sendmsg(s->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            evbuffer_drain(s->output, (size_t)sent);
        } else if (errno == EAGAIN) {
            return event_add(s->write_event, NULL) == 0;
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

/* Sends on what was appended to the output, unless a full socket is being waited for. */
static void push(struct session *s)
{
    if (!event_pending(s->write_event, EV_WRITE, NULL) && !flush(s)) {
        session_close(s);
    } else if (evbuffer_get_length(s->output) > SESSION_OUTPUT_MAX) {
        log_warning("control session closed: its client has %zu bytes unread",
                    evbuffer_get_length(s->output));
        session_close(s);
    }
}

void session_send(struct session *s, const void *bytes, size_t len)
{
    if (evbuffer_add(s->output, bytes, len) < 0) {
        session_close(s);
        return;
    }
    push(s);
}

void session_send_json(struct session *s, const json_t *json)
{
    if (!encode_line(s->output, json)) {
        log_error("control session closed: a reply could not be encoded");
        session_close(s);
        return;
    }
    push(s);
}

static void stop_reading(struct session *s)
{
    event_del(s->read_event);
    s->reading = false;
}

static void on_readable(evutil_socket_t fd, short what, void *opaque)
{
    (void)what;
    struct session *s = opaque;
    /* Reading is stopped only now, when it would matter: most stalls end before more comes. */
    if (s->more || session_is_stalled(s)) {
        stop_reading(s);
        return;
    }
    ssize_t got = receive(fd, s->server->scratch, sizeof(s->server->scratch), &s->fds);
    if (got < 0 && errno == EAGAIN) {
        return;
    }
    if (got < 0 || evbuffer_add(s->input, s->server->scratch, (size_t)got) < 0) {
        session_close(s);
        return;
    }
    if (got == 0) {
        /* The client may have closed its sending side only: it still gets its answers. */
        s->ended = true;
        stop_reading(s);
    }
    session_pump(s);
}

static void on_writable(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    struct session *s = opaque;
    if (!flush(s)) {
        session_close(s);
        return;
    }
    session_pump(s);
}

static void on_pump(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    session_pump(opaque);
}

static void greet(struct session *s)
{
    json_t *greeting =
        json_pack("{s:{s:O, s:[s]}}", "QMP", "version", s->server->version, "capabilities", "oob");
    session_send_json(s, greeting);
    json_decref(greeting);
}

static bool make_parts(struct session *s, struct event_base *base)
{
    s->read_event = event_new(base, s->fd, EV_READ | EV_PERSIST, on_readable, s);
    s->write_event = event_new(base, s->fd, EV_WRITE, on_writable, s);
    s->pump_event = event_new(base, -1, 0, on_pump, s);
    s->input = evbuffer_new();
    s->output = evbuffer_new();
    if (!s->read_event || !s->write_event || !s->pump_event || !s->input || !s->output) {
        return false;
    }
    s->reading = event_add(s->read_event, NULL) == 0;
    return s->reading;
}

bool session_new(struct qmp_server *server, int fd, const struct session_client *client)
{
    struct session *s = calloc(1, sizeof(*s));
    if (!s) {
        close(fd);
        return false;
    }
    s->fd = fd;
    s->client = *client;
    s->references = 1;
    TAILQ_INIT(&s->waiting);
    if (!make_parts(s, server->base)) {
        free_parts(s);
        free(s);
        return false;
    }
    s->server = server;
    LIST_INSERT_HEAD(&server->sessions, s, link);
    ++*server_session_count(server, client->read_only);
    greet(s);
    return true;
}
