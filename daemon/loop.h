/* SPDX-License-Identifier: BSD-3-Clause */
/* The main thread's event loop, and the queue by which other threads hand it work. */
#ifndef FERRY_DAEMON_LOOP_H
#define FERRY_DAEMON_LOOP_H

#include "common/error.h"

#include <stdbool.h>

struct event_base;
struct loop;

struct loop *loop_new(struct error **errp);
void loop_free(struct loop *loop);

struct event_base *loop_base(struct loop *loop);

/* Has the main thread call fn(arg), in the order of posting.  Any thread; never blocks. */
void loop_post(struct loop *loop, void (*fn)(void *arg), void *arg);

/* Runs until loop_quit; then whatever is still queued. */
void loop_run(struct loop *loop);
void loop_quit(struct loop *loop);

#endif
