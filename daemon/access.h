/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who may do what, as the configuration says; all of it can be changed while the daemon runs.  The
 * kernel tells whose process a client is (SO_PEERCRED); the sockets' modes and groups come before
 * all this.  Main thread.
 */
#ifndef FERRY_DAEMON_ACCESS_H
#define FERRY_DAEMON_ACCESS_H

#include "common/error.h"
#include "transports/allow.h"

#include <stdbool.h>
#include <sys/types.h>

#define USERS_MAX 64u

/* A list of users. */
struct users {
    unsigned count;
    uid_t uids[USERS_MAX];
    bool any; /* whoever it is */
};

/* A user's name or number, "any", or "none", which empties the list.  "option-invalid". */
bool users_add(struct users *users, const char *text, struct error **errp);
bool users_has(const struct users *users, uid_t uid);

struct access {
    struct users control;      /* the control socket's, besides root and the daemon's own user */
    struct users exec, fd;     /* exec: and fd: in URIs */
    struct allow_list *listen; /* where incoming migrations may listen; NULL: anywhere */
};

/* "session-forbidden"; a read-only session is its socket's matter. */
bool access_check_session(const struct access *a, uid_t uid, bool read_only, struct error **errp);

/* "uri-forbidden". */
bool access_check_uri(const struct access *a, uid_t uid, const char *uri, struct error **errp);

#endif
