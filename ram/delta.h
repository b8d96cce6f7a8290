/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pages as deltas: what the saver asks about each page with content, from the second round on.
 *
 * A cache keeps what the destination holds of the pages that are written again and again.  What is
 * sent of such a page is never taken from the guest's memory, where it may change meanwhile, but
 * from a copy, and the cache becomes just what the destination will hold.  Pages that the cache
 * does not take on are not copied, and go as they would without it.
 *
 * Owned by the job's thread.
 */
#ifndef FERRY_RAM_DELTA_H
#define FERRY_RAM_DELTA_H

#include "ram/save.h"

enum delta_kind {
    DELTA_NOT_CACHED, /* goes from the guest's memory */
    DELTA_EQUAL,      /* the destination has it as it is */
    DELTA_CHANGES,    /* goes as a delta */
    DELTA_COPY,       /* goes whole, as it is in the cache */
};

struct delta_page {
    enum delta_kind kind;
    uint8_t *bytes; /* the delta, valid until the next page; or the copy, until the round's end */
    size_t length;
};

/* `*wanted` is the size of the cache, a power of two, which anybody may change at any time.
 * Fails with "no-memory". */
struct ram_delta *ram_delta_new(const struct ram *ram, const _Atomic uint64_t *wanted,
                                struct ram_counters *counters, struct error **errp);
void ram_delta_free(struct ram_delta *d); /* NULL is allowed */

/* After the last round nothing is sent any more: the cache takes on nothing new in it. */
void ram_delta_begin_round(struct ram_delta *d, bool last);

/* Whether another size of the cache is wanted. */
bool ram_delta_must_resize(const struct ram_delta *d);

/*
 * Gives the cache the wanted size, keeping what fits.  No copy that was answered may still be in
 * use.  Without memory for it the cache stays as it is, which is logged.  Fails when the pacer's
 * check does.
 */
bool ram_delta_resize(struct ram_delta *d, const struct record_pacer *pacer, struct error **errp);

/* How page `page` of a block is to go.  Each page at most once in a round.  "ram-vanished". */
bool ram_delta_take(struct ram_delta *d, unsigned block, uint64_t page, struct delta_page *out,
                    struct error **errp);

/* These pages go as zeroes. */
void ram_delta_forget(struct ram_delta *d, unsigned block, uint64_t first, uint64_t end);

/*
 * The record of a page that goes as a delta, in memory that is the caller's until the next
 * ram_delta_sent.  All records in between take at most RECORD_PAYLOAD_MAX bytes.
 */
struct iovec ram_delta_record(struct ram_delta *d, unsigned block, uint64_t page,
                              const struct delta_page *changes);
void ram_delta_sent(struct ram_delta *d);

#endif
