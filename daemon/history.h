/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a job has done in each of its rounds, for those who ask afterwards why it went as it did.
 *
 * It takes the same memory for a job of any length: when it is full, each two neighbours become one
 * entry, so that the older rounds are told the more coarsely and none is left out.
 */
#ifndef FERRY_DAEMON_HISTORY_H
#define FERRY_DAEMON_HISTORY_H

#include <pthread.h>
#include <stdint.h>

#define HISTORY_MAX 512u /* even: neighbours are joined in pairs */

/* One round, or several in a row.  Times in nanoseconds since the job's start. */
struct history_round {
    uint64_t first; /* the number of the first, from 1 */
    uint64_t count;
    uint64_t start_ns, end_ns;
    uint64_t transferred; /* bytes sent in it */
    uint64_t pages;       /* pages sent in it, in whatever form */
    uint64_t dirtied;     /* pages that the guest wrote meanwhile, found at its end */
    uint64_t remaining;   /* bytes left at its end */
    unsigned throttle;    /* percent, at its end */
};

struct history {
    pthread_mutex_t lock; /* all that follows */
    unsigned count;
    struct history_round rounds[HISTORY_MAX];
};

void history_init(struct history *h);
void history_destroy(struct history *h);

/* The rounds are added in their order.  Any thread. */
void history_add(struct history *h, const struct history_round *round);

/* Copies what there is into `rounds`, room for HISTORY_MAX; how many.  Any thread. */
unsigned history_copy(struct history *h, struct history_round *rounds);

#endif
