/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A listener that can't accept, for want of descriptors or memory, rests for a while: the
 * connection that waits keeps its socket readable, and trying on would spin.  On the thread of the
 * event base.
 */
#ifndef FERRY_PROTOCOL_PAUSE_H
#define FERRY_PROTOCOL_PAUSE_H

#include <stdbool.h>

struct event;
struct event_base;
struct evconnlistener;

struct accept_pause {
    struct evconnlistener *listener; /* the user's */
    struct event *resume;
    const char *what; /* that can't be accepted: "a control session" */
};

/* False: no memory. */
bool accept_pause_init(struct accept_pause *p, struct event_base *base, const char *what);
/* Before the listener is freed. */
void accept_pause_destroy(struct accept_pause *p);

/* From the listener's error callback: errno says why. */
void accept_pause_begin(struct accept_pause *p);

#endif
