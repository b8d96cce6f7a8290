/* SPDX-License-Identifier: BSD-3-Clause */
/* The inside of the server, for the files of this directory. */
#ifndef FERRY_PROTOCOL_SERVER_H
#define FERRY_PROTOCOL_SERVER_H

#include "protocol/dispatch.h"
#include "protocol/qmp.h"
#include "protocol/schema.h"

#include <sys/queue.h>

/* As much as a client usually has under way, taken with one system call. */
#define SERVER_READ_SIZE ((size_t)64 * 1024)

/*
 * Of each kind, more than any set of tools needs; each session costs a descriptor and up to some
 * MiB. Pollers, on a read-only socket, are counted apart: they are not to keep out whoever has to
 * act.
 */
#define SERVER_MAX_SESSIONS 256

struct session;
struct listener;

LIST_HEAD(session_list, session);
LIST_HEAD(listener_list, listener);

struct qmp_server {
    struct event_base *base;
    struct schema schema;
    struct dispatch dispatch;
    bool (*admit)(void *opaque, uid_t uid, bool read_only, struct error **errp);
    void *opaque;
    json_t *version; /* VersionInfo */
    /* What the introspection commands answer; made once, it never changes. */
    json_t *schema_info;
    json_t *command_list;
    json_t *event_list;
    struct listener_list listeners;
    struct session_list sessions;
    size_t session_count, read_only_count; /* the second are no part of the first */
    char scratch[SERVER_READ_SIZE]; /* where sessions read to before they know how much there is */
};

/* Those with which a session is counted. */
static inline size_t *server_session_count(struct qmp_server *server, bool read_only)
{
    return read_only ? &server->read_only_count : &server->session_count;
}

#endif
