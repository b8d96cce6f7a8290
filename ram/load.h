/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Receiving RAM into an incoming guest's blocks, which ram_wipe has emptied before.
 *
 * Payload for fresh memory is taken from the reader's warm buffer and put into its place with
 * pwrite: that is about half again as fast as through a mapping, which faults on each page.  Pages
 * that come again will come more often, and in the downtime: they are mapped, once, and read into
 * their place, at a third of the cost of pwrite to memory that exists.  Zero ranges free what was
 * received before and cost nothing where nothing was.
 */
#ifndef FERRY_RAM_LOAD_H
#define FERRY_RAM_LOAD_H

#include "ram/block.h"
#include "ram/records.h"

#include <stdatomic.h>

struct ram_load_counters {
    _Atomic uint64_t normal;    /* pages with payload */
    _Atomic uint64_t duplicate; /* pages of zero ranges */
    _Atomic uint64_t delta;     /* pages changed by deltas */
    _Atomic uint64_t placed;    /* bytes that the source has placed; their pages are normal ones */
};

/* Each handles one record of its type; the stream's fault is "stream-corrupt". */
bool ram_load_pages(struct ram *ram, struct record_reader *reader, struct record *rec,
                    struct ram_load_counters *counters, struct error **errp);
bool ram_load_zero(struct ram *ram, const struct record *rec, struct ram_load_counters *counters,
                   struct error **errp);
/* The delta is checked whole before the page is touched; a page that does not exist is zeroes. */
bool ram_load_delta(struct ram *ram, const struct record *rec, struct ram_load_counters *counters,
                    struct error **errp);

/*
 * Pages that the source has put in their place.  Such a page is held by the device: it must not be
 * freed, or what is placed there later is lost, so that the source places zeroes instead.
 */
bool ram_load_placed(struct ram *ram, const struct record *rec, struct ram_load_counters *counters,
                     struct error **errp);

/* Frees what exists and was not received: a device allocates more than is placed. */
bool ram_load_trim(struct ram *ram, const struct wait *w, struct error **errp);

#endif
