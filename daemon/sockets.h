/* SPDX-License-Identifier: BSD-3-Clause */
/* The sockets that the daemon listens on: its own, or those that it was started with. */
#ifndef FERRY_DAEMON_SOCKETS_H
#define FERRY_DAEMON_SOCKETS_H

#include "common/error.h"
#include "daemon/options.h"

/*
 * Listens on a unix socket, non-blocking, close-on-exec; `type` as for socket().  One left by a
 * daemon that is gone is replaced.  Who may connect is its mode's and group's matter.  -1 with
 * "listen-failed".
 */
int socket_listen(const struct socket_options *o, int type, struct error **errp);

/*
 * The listening socket that a service manager passed under this name (sd_listen_fds(3), whose names
 * are control, guests and read-only), checked to be of that type; else socket_listen.  *own tells
 * which.
 */
int socket_take_or_listen(const char *name, const struct socket_options *o, int type, bool *own,
                          struct error **errp);

#endif
