/* SPDX-License-Identifier: BSD-3-Clause */
#include "protocol/server.h"

#include "common/log.h"
#include "protocol/builtin.h"
#include "protocol/encode.h"
#include "protocol/introspect.h"
#include "protocol/pause.h"
#include "protocol/session.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/listener.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct listener {
    LIST_ENTRY(listener) link;
    struct qmp_server *server;
    bool read_only;
    struct evconnlistener *accepting;
    struct accept_pause pause;
};

static json_t *version_info(const struct qmp_config *config)
{
    return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "major", config->version[0], "minor",
                     config->version[1], "micro", config->version[2], "package", config->package);
}

static bool fill(struct qmp_server *server, const struct qmp_config *config, struct error **errp)
{
    struct schema *schema = &server->schema;
    struct dispatch *dispatch = &server->dispatch;
    if (!schema_init(schema, errp) || !dispatch_init(dispatch, schema, errp) ||
        !dispatch_add(dispatch, schema, builtin_commands, server, errp) ||
        !dispatch_add(dispatch, schema, config->commands, config->opaque, errp) ||
        !dispatch_check(dispatch, schema, errp)) {
        return false;
    }
    server->version = version_info(config);
    server->schema_info = introspect_schema(schema);
    server->command_list = introspect_commands(schema);
    server->event_list = introspect_events(schema);
    if (!server->version || !server->schema_info || !server->command_list || !server->event_list) {
        error_set(errp, "control-setup", "No memory for the control server");
        return false;
    }
    return true;
}

struct qmp_server *qmp_server_new(const struct qmp_config *config, struct error **errp)
{
    struct qmp_server *server = calloc(1, sizeof(*server));
    if (!server) {
        error_set(errp, "control-setup", "No memory for the control server");
        return NULL;
    }
    server->base = config->base;
    server->admit = config->admit;
    server->opaque = config->opaque;
    LIST_INIT(&server->listeners);
    LIST_INIT(&server->sessions);
    if (!fill(server, config, errp)) {
        qmp_server_free(server);
        return NULL;
    }
    return server;
}

static void listener_free(struct listener *listener)
{
    accept_pause_destroy(&listener->pause);
    evconnlistener_free(listener->accepting);
    free(listener);
}

void qmp_server_free(struct qmp_server *server)
{
    if (!server) {
        return;
    }
    while (!LIST_EMPTY(&server->listeners)) {
        struct listener *listener = LIST_FIRST(&server->listeners);
        LIST_REMOVE(listener, link);
        listener_free(listener);
    }
    while (!LIST_EMPTY(&server->sessions)) {
        session_close(LIST_FIRST(&server->sessions));
    }
    json_decref(server->version);
    json_decref(server->schema_info);
    json_decref(server->command_list);
    json_decref(server->event_list);
    dispatch_destroy(&server->dispatch);
    schema_destroy(&server->schema);
    free(server);
}

/* Tells the client why, as well as that can be done without waiting for it. */
static void refuse(int fd, struct error *err)
{
    json_t *reply = encode_error(err);
    struct evbuffer *line = evbuffer_new();
    if (line && encode_line(line, reply)) {
        size_t len = evbuffer_get_length(line);
        const void *bytes = evbuffer_pullup(line, -1);
        if (bytes && send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
            log_debug("a control session was refused and could not be told");
        }
    }
    if (line) {
        evbuffer_free(line);
    }
    json_decref(reply);
    error_free(err);
    close(fd);
}

/* Nobody's where the kernel does not tell. */
static uid_t peer_uid(int fd)
{
    struct ucred cred;
    socklen_t length = sizeof(cred);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &length) == 0 ? cred.uid : (uid_t)-1;
}

static bool admit(struct qmp_server *server, const struct session_client *client,
                  struct error **errp)
{
    if (*server_session_count(server, client->read_only) >= SERVER_MAX_SESSIONS) {
        error_set(errp, "sessions-too-many", "There are %d %s sessions already",
                  SERVER_MAX_SESSIONS, client->read_only ? "read-only" : "control");
        return false;
    }
    return !server->admit || server->admit(server->opaque, client->uid, client->read_only, errp);
}

static void on_connection(struct evconnlistener *accepting, evutil_socket_t fd,
                          struct sockaddr *peer, int peer_len, void *opaque)
{
    (void)accepting;
    (void)peer;
    (void)peer_len;
    struct listener *listener = opaque;
    struct session_client client = {.uid = peer_uid(fd), .read_only = listener->read_only};
    struct error *err = NULL;
    if (!admit(listener->server, &client, &err)) {
        refuse(fd, err);
    } else if (!session_new(listener->server, fd, &client)) {
        log_error("no memory for another control session");
    }
}

static void on_accept_error(struct evconnlistener *accepting, void *opaque)
{
    (void)accepting;
    struct listener *listener = opaque;
    accept_pause_begin(&listener->pause);
}

static struct listener *listener_new(struct qmp_server *server, int fd, bool read_only)
{
    struct listener *listener = calloc(1, sizeof(*listener));
    if (!listener) {
        return NULL;
    }
    listener->server = server;
    listener->read_only = read_only;
    if (!accept_pause_init(&listener->pause, server->base, "a control session")) {
        free(listener);
        return NULL;
    }
    /* A backlog of 0 tells libevent that the socket listens already. */
    listener->accepting = evconnlistener_new(server->base, on_connection, listener,
                                             LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    if (!listener->accepting) {
        accept_pause_destroy(&listener->pause);
        free(listener);
        return NULL;
    }
    listener->pause.listener = listener->accepting;
    evconnlistener_set_error_cb(listener->accepting, on_accept_error);
    return listener;
}

bool qmp_server_listen(struct qmp_server *server, int fd, bool read_only, struct error **errp)
{
    struct listener *listener = NULL;
    if (evutil_make_socket_nonblocking(fd) == 0) {
        listener = listener_new(server, fd, read_only);
    }
    if (!listener) {
        error_set(errp, "control-setup", "Can't accept connections on the control socket");
        close(fd);
        return false;
    }
    LIST_INSERT_HEAD(&server->listeners, listener, link);
    return true;
}

size_t qmp_server_sessions(const struct qmp_server *server)
{
    return server->session_count + server->read_only_count;
}

static void broadcast(struct qmp_server *server, const void *bytes, size_t len)
{
    struct session *next;
    for (struct session *s = LIST_FIRST(&server->sessions); s; s = next) {
        next = LIST_NEXT(s, link);
        if (s->negotiated) {
            session_send(s, bytes, len);
        }
    }
}

void qmp_event(struct qmp_server *server, const char *name, json_t *data)
{
    json_t *event = encode_event(name, data);
    struct evbuffer *line = evbuffer_new();
    if (line && encode_line(line, event)) {
        size_t len = evbuffer_get_length(line);
        const void *bytes = evbuffer_pullup(line, -1);
        if (bytes) {
            broadcast(server, bytes, len);
        }
    } else {
        log_error("the event %s could not be encoded", name);
    }
    if (line) {
        evbuffer_free(line);
    }
    json_decref(event);
}
