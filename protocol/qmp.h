/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The QMP server: sessions over a unix socket, framing, dispatch by schema, events.
 *
 * It knows no migration.  The schema (schema/control.json, compiled in) says which commands exist
 * and what arguments they take; a request reaches its handler only after its arguments were checked
 * against it.  qmp_capabilities, query-commands, query-events, query-qmp-schema and query-version
 * are answered here.  All functions run on the thread of the event base, handlers too.
 */
#ifndef FERRY_PROTOCOL_QMP_H
#define FERRY_PROTOCOL_QMP_H

#include "common/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

struct event_base;
struct qmp_server;
struct qmp_request;

/*
 * A handler answers its request exactly once, at once or later, with qmp_return or qmp_fail.  Until
 * then the session starts no further in-band command (exec-oob ones it does).  When the client has
 * gone away meanwhile, the answer is dropped.  `args` is valid until the answer.
 */
typedef void qmp_handler(struct qmp_request *req, json_t *args, void *opaque);

struct qmp_command {
    const char *name;
    qmp_handler *run;
};

struct qmp_config {
    struct event_base *base;
    int version[3];                     /* major, minor, micro */
    const char *package;                /* "ferryd 0.1.0" */
    const struct qmp_command *commands; /* ends with a NULL name; must match the schema exactly */
    void *opaque;                       /* for the handlers, and for admit */
    /* Whether that user's client may have a session; NULL: whoever can connect may. */
    bool (*admit)(void *opaque, uid_t uid, bool read_only, struct error **errp);
};

struct qmp_server *qmp_server_new(const struct qmp_config *config, struct error **errp);

/* Closes all sessions and sockets; answers pending are dropped when they come. */
void qmp_server_free(struct qmp_server *server);

/*
 * Takes over `fd`, a listening unix stream socket.  Sessions on a read-only one are answered the
 * commands that the schema calls so ("reads"), and hear the events.
 */
bool qmp_server_listen(struct qmp_server *server, int fd, bool read_only, struct error **errp);

/* How many there are now. */
size_t qmp_server_sessions(const struct qmp_server *server);

/* Takes over `value`; NULL answers an empty object. */
void qmp_return(struct qmp_request *req, json_t *value);
/* Takes over `err`, which must not be NULL. */
void qmp_fail(struct qmp_request *req, struct error *err);

/*
 * The oldest descriptor that came with this session's bytes and was not taken yet, now the
 * caller's; -1 when there is none.
 */
int qmp_request_take_fd(struct qmp_request *req);

/* The user whose process connected, as the kernel tells it (SO_PEERCRED). */
uid_t qmp_request_uid(const struct qmp_request *req);

/* Sends an event to every session that has negotiated; takes over `data` (NULL: no data member). */
void qmp_event(struct qmp_server *server, const char *name, json_t *data);

#endif
