/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Waiting, always with a deadline and a way to cancel it.
 *
 * A job's thread blocks only in wait_fd: on a descriptor, for at most the wait's timeout, and it is
 * woken as soon as the wait's cancel descriptor becomes readable (an eventfd that is written once
 * and never drained).
 */
#ifndef FERRY_COMMON_WAIT_H
#define FERRY_COMMON_WAIT_H

#include "common/error.h"

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct wait {
    int cancel_fd;    /* readable: give up with the error "cancelled"; -1: can't be cancelled */
    int timeout_ms;   /* of silence, counted anew by each wait_fd; -1: for ever */
    const char *what; /* "the destination", for the error text */
    const char *peer; /* where it is, "tcp:192.0.2.1:4444", for the same; NULL: not known */
};

/* The error "timeout": no answer within the wait's time, and from whom. */
void wait_set_timeout(const struct wait *w, struct error **errp);

/* True when `events` (of poll) or an error or hang-up showed on fd. */
bool wait_fd(int fd, short events, const struct wait *w, struct error **errp);

/* What wait_any takes at most. */
#define WAIT_ANY_MAX 4u

/*
 * Waits for any of `count` descriptors until `deadline_ns` (CLOCK_MONOTONIC; 0: for ever), not for
 * w->timeout_ms: 1 when something showed (in revents), 0 at the deadline, -1 with the error
 * "cancelled".
 */
int wait_any(struct pollfd *fds, unsigned count, uint64_t deadline_ns, const struct wait *w,
             struct error **errp);

/* The same, whose deadline holds for what always has something to show, too. */
int wait_any_until(struct pollfd *fds, unsigned count, uint64_t deadline_ns, const struct wait *w,
                   struct error **errp);

/* Sleeps for `ns`; false only with the error "cancelled". */
bool wait_ns(uint64_t ns, const struct wait *w, struct error **errp);

/* Whether the wait was cancelled already; sets the error "cancelled". */
bool wait_cancelled(const struct wait *w, struct error **errp);

#endif
