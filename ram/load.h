/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Receiving RAM into an incoming guest's blocks, which ram_wipe has emptied before.
 *
 * Payload is taken from the reader's warm buffer and put into its place with pwrite: filling fresh
 * shared memory that way is about half again as fast as through a mapping, which faults on each
 * page.  Zero ranges free what was received before and cost nothing where nothing was.
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
};

/* Each handles one record of its type; the stream's fault is "stream-corrupt". */
bool ram_load_pages(struct ram *ram, struct record_reader *reader, struct record *rec,
                    struct ram_load_counters *counters, struct error **errp);
bool ram_load_zero(struct ram *ram, const struct record *rec, struct ram_load_counters *counters,
                   struct error **errp);
/* The delta is checked whole before the page is touched; a page that does not exist is zeroes. */
bool ram_load_delta(struct ram *ram, const struct record *rec, struct ram_load_counters *counters,
                    struct error **errp);

#endif
