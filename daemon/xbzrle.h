/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What deltas (ram/delta.h) mean for an outgoing job: a cache for its life, the rates that it
 * tells, and that a dirty page costs less than its bytes, which the decision to stop has to know.
 *
 * Part of struct outgoing; the job's thread only.
 */
#ifndef FERRY_DAEMON_XBZRLE_H
#define FERRY_DAEMON_XBZRLE_H

#include "daemon/pace.h"
#include "ram/delta.h"

/* What sending one dirty page takes. */
struct page_cost {
    double bytes; /* on the wire, at most a page */
    double ms;    /* of looking at it, besides the sending */
};

struct xbzrle {
    struct job *job;
    struct ram_delta *delta; /* NULL: the capability is off */
    struct page_cost cost;   /* in the last round */
    /* As the round began: */
    uint64_t start_ns, sending_ns;
    uint64_t sent; /* bytes */
    uint64_t pages, deltas, delta_bytes, hits, misses;
};

/*
 * Makes the cache, if the job has the capability and the channel is one for deltas: where pages are
 * placed nothing is sent of them.  Fails with "no-memory".
 */
bool xbzrle_open(struct xbzrle *x, struct job *job, const struct ram *ram, bool useful,
                 struct error **errp);
void xbzrle_close(struct xbzrle *x);

void xbzrle_begin_round(struct xbzrle *x, const struct pace *pace);
/* Publishes the round's rates. */
void xbzrle_end_round(struct xbzrle *x, const struct pace *pace, enum ram_round kind);

/* Without the capability, and before there were deltas: the page itself, and no time. */
struct page_cost xbzrle_page_cost(const struct xbzrle *x);

#endif
