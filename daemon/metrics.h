/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The daemon's figures for Prometheus: GET /metrics over HTTP, in its text format 0.0.4, at a unix
 * socket or at a loopback address.  Main thread.
 */
#ifndef FERRY_DAEMON_METRICS_H
#define FERRY_DAEMON_METRICS_H

#include "daemon/ferryd.h"
#include "daemon/options.h"

struct evbuffer;

/* Whether it is unix:PATH, or 127.x.x.x:PORT or [::1]:PORT; "option-invalid". */
bool metrics_check(const char *address, struct error **errp);

/* At o->path, such an address.  "listen-failed". */
bool metrics_serve(struct ferryd *d, const struct socket_options *o, struct error **errp);
void metrics_end(void);

/* metrics_text.c: all of them. */
void metrics_write(struct ferryd *d, struct evbuffer *to);

#endif
