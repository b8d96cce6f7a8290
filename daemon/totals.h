/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What all jobs of this daemon together have come to: counters that only grow, for those who watch
 * many daemons over a long time.  Main thread; what a job is still counting is read as it goes.
 */
#ifndef FERRY_DAEMON_TOTALS_H
#define FERRY_DAEMON_TOTALS_H

#include "daemon/job.h"

#define DIRECTIONS 2

/* The upper bounds of downtimes that are counted together, in seconds; longer ones come last. */
#define DOWNTIME_BOUNDS                                                                            \
    {                                                                                              \
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10                                    \
    }
#define DOWNTIME_BUCKETS 12

/* As many error codes as are told apart; there are fewer. */
#define CODES_MAX 256

/* What jobs of one direction have moved. */
struct traffic {
    uint64_t transferred;                           /* bytes on the wire, all kinds */
    uint64_t normal_bytes, delta_bytes, disk_bytes; /* of these */
    uint64_t placed_bytes;                          /* of the normal ones: by RDMA WRITE */
    uint64_t normal, zero, delta;                   /* pages */
    uint64_t rounds;
};

struct totals {
    struct traffic traffic[DIRECTIONS]; /* of jobs whose thread has ended */
    uint64_t ended[DIRECTIONS][JOB_STATUS_COUNT];
    uint64_t downtime[DOWNTIME_BUCKETS]; /* of completed outgoing jobs */
    double downtime_sum;                 /* seconds */
    struct {
        const char *code;
        uint64_t count;
    } codes[CODES_MAX]; /* of jobs that failed */
    unsigned ncodes;
};

/* What a job has moved so far, added to `t`. */
void traffic_add(struct traffic *t, struct job *job);

/* A job has reached its last status.  Once for each. */
void totals_count_end(struct totals *t, struct job *job);

#endif
