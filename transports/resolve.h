/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_TRANSPORTS_RESOLVE_H
#define FERRY_TRANSPORTS_RESOLVE_H

#include "common/error.h"
#include "common/wait.h"

#include <stdbool.h>

struct addrinfo;

/*
 * Splits HOST:PORT or [HOST]:PORT into copies, *host NULL where it is empty.  False, and both NULL,
 * when it is neither: an IPv6 address without brackets, a port that is no number up to 65535, a
 * host with a character that no name or address has ("//host").
 */
bool host_port_split(const char *text, char **host, char **port);

/*
 * getaddrinfo for a stream socket, cancellable: a name is looked up by a thread of its own, which
 * is left to end by itself when the wait is over before.  `host` NULL is the wildcard for
 * listening.  The result is the caller's to freeaddrinfo; NULL with "resolve-failed" or the wait's.
 */
struct addrinfo *resolve(const char *host, const char *port, bool listening, const struct wait *w,
                         struct error **errp);

#endif
