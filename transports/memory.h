/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Two channels that lead to each other through bounded buffers in memory, for tests: each end
 * belongs to one thread, and either may be made to break on the way.  Bytes are taken with a system
 * call, so that RAM which vanishes is noticed as a socket would notice it.
 */
#ifndef FERRY_TRANSPORTS_MEMORY_H
#define FERRY_TRANSPORTS_MEMORY_H

#include "transports/channel.h"

#include <stdint.h>

/* What goes wrong with the bytes that one end writes; zero-initialised: nothing. */
struct memory_faults {
    bool cut; /* the link breaks when cut_at bytes were taken: reads end, writes fail */
    uint64_t cut_at;
    uint8_t flip_mask; /* these bits of byte flip_at arrive inverted */
    uint64_t flip_at;
    size_t piece; /* a read returns at most this many bytes; 0: as many as there are */
};

/* Makes both ends, each to be closed by its thread; `room` bytes may be under way each way. */
void memory_pair(size_t room, struct channel *ends[2]);

/* For what `end` writes from its beginning on; before its first write. */
void memory_set_faults(struct channel *end, const struct memory_faults *faults);

/* Breaks the link both ways at once; any thread, while `end` is open. */
void memory_break(struct channel *end);

#endif
