/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * When to stop the guest for the last round.
 *
 * What remains may be sent with the guest stopped as soon as that keeps within the downtime limit.
 * But a guest that may stand still for 300 ms need not: a shorter round gives it less time to write
 * in, so that often each of a few more rounds leaves less than the one before, down to a small part
 * of the working set.  The rounds that make that out are no longer than the limit, each, nor go on
 * for more than 2 s, and they end when several in a row have left no less.  Then the guest is
 * stopped at the next moment at which about as little is left as ever was.
 */
#ifndef FERRY_DAEMON_SWITCHOVER_H
#define FERRY_DAEMON_SWITCHOVER_H

#include <stdbool.h>
#include <stdint.h>

struct switchover {
    uint64_t least;    /* bytes that a round has left within the limit; UINT64_MAX: none yet */
    unsigned in_vain;  /* rounds in a row that left no less */
    unsigned patience; /* how many of them there may be */
    uint64_t begun_ns; /* when the first of them had kept within the limit; 0: none yet */
};

void switchover_init(struct switchover *s);

/*
 * Whether the guest is to be stopped now; asked after each round that keeps within the limit.
 * `left`: bytes; `sending_ms`: what they add to the downtime; `now_ns`: of clock_ns.
 */
bool switchover_is_due(struct switchover *s, uint64_t left, double sending_ms, uint64_t now_ns);

#endif
