/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The rate of a job: the limit is kept within each window of 100 ms, rates are measured over the
 * same windows, and a peer that gives up or a request to cancel is noticed in between.
 */
#ifndef FERRY_DAEMON_PACE_H
#define FERRY_DAEMON_PACE_H

#include "daemon/job.h"
#include "daemon/stream.h"
#include "ram/estimate.h"

struct pace {
    struct job *job;
    struct stream *stream;
    bool unlimited;                  /* the guest stands still: the limit is off */
    uint64_t window_start_ns;        /* of the rate limit */
    double spent;                    /* bytes sent in it, with what the last ones overdrew */
    uint64_t counted;                /* stream->sent up to which bytes were added to spent */
    uint64_t waited_ns;              /* time spent waiting for the next window */
    uint64_t alive_ns;               /* when something was last sent */
    struct rate_window bandwidth;    /* bytes, over time spent sending or waiting to */
    struct rate_window bytes, pages; /* over wall time, for the statistics */
    double bytes_per_ms;             /* what the last rounds reached */
};

void pace_init(struct pace *p, struct job *job, struct stream *stream);
struct record_pacer pace_pacer(struct pace *p);

/* What to count on for the last round, in bytes per millisecond. */
double pace_bandwidth(struct pace *p);

/* Between two sends: cancelled?  Has the peer given up?  Also keeps the peer from timing out. */
bool pace_check(struct pace *p, struct error **errp);

/* Nanoseconds spent so far in sending and in waiting for leave to send. */
uint64_t pace_sending_ns(const struct pace *p);

/* Publishes the last window's figures. */
void pace_publish(struct pace *p);

#endif
