/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The daemon's figures for Prometheus: GET /metrics over HTTP, in its text format 0.0.4, at a unix
 * socket or at a loopback address.  Main thread.
 */
#ifndef FERRY_DAEMON_METRICS_H
#define FERRY_DAEMON_METRICS_H

#include "daemon/ferryd.h"

struct evbuffer;

/* `address`: unix:PATH, or 127.x.x.x:PORT or [::1]:PORT.  "option-invalid", "listen-failed". */
bool metrics_serve(struct ferryd *d, const char *address, struct error **errp);
void metrics_end(void);

/* metrics_text.c: all of them. */
void metrics_write(struct ferryd *d, struct evbuffer *to);

#endif
