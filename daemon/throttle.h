/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Auto-converge: a guest that writes its RAM faster than the link takes it is slowed down, a step
 * at a time, until the rounds become shorter.
 *
 * The measure is that of a period: the rounds of at least 100 ms.  It is a bad one when the guest
 * wrote more pages than throttle-trigger-threshold percent of those that were sent.  After two bad
 * periods in a row the guest is throttled by cpu-throttle-initial percent, after each further one
 * by cpu-throttle-increment more, up to max-cpu-throttle.  Pages are compared, not bytes: what
 * compresses well converges without a throttle.
 *
 * A guest is slowed down by its VMM, which keeps the vCPUs out for that share of the time; the
 * guest's stop ends it (guest.h), and so does the loss of this daemon.  All on the job's thread.
 */
#ifndef FERRY_DAEMON_THROTTLE_H
#define FERRY_DAEMON_THROTTLE_H

#include "daemon/job.h"

struct throttle {
    struct job *job;
    unsigned bad;      /* periods in a row */
    uint64_t begun_ns; /* the period's begin */
    uint64_t sent;     /* pages sent up to then */
    uint64_t written;  /* pages that the guest wrote in it */
};

void throttle_init(struct throttle *t, struct job *job);

/*
 * After each synchronisation: what remains is what the guest wrote.  Does nothing without the
 * capability auto-converge.  Follows changed parameters at once.
 */
bool throttle_update(struct throttle *t, struct error **errp);

/* The guest was stopped, which has ended it. */
void throttle_stopped(struct throttle *t);

/* Lets a guest that was not stopped run freely again. */
void throttle_end(struct throttle *t, const struct wait *w);

#endif
