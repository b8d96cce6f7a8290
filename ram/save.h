/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sending RAM, a round at a time.
 *
 * The first round walks what exists; later ones what the tracker reported.  A block is taken in
 * chunks: first the chunk's log is cleared, then its pages are read, so that a write that we do not
 * see is always reported again.  Within a chunk pages are looked at in units: which of them are
 * zero, then runs of equal kind become records.  Payload is not copied by us: the kernel takes it
 * from the mapping in the same writev that carries the heads.  With deltas (delta.h) pages that
 * were sent before go as what has changed in them.  Where the sink places pages at the peer itself,
 * only the heads go into the stream; a page that was placed stays so, and is zeroed by placing
 * zeroes.  Pages that the guest has returned to its host since go as zeroes, too (returned.h).
 *
 * Everything runs on the job's thread; only the counters are read by others.
 */
#ifndef FERRY_RAM_SAVE_H
#define FERRY_RAM_SAVE_H

#include "ram/block.h"
#include "ram/records.h"

#include <stdatomic.h>

/* Pages whose log is cleared together: small, so that few pages are written between the clearing
 * and the sending; a multiple of 64 as KVM_CLEAR_DIRTY_LOG wants. */
#define RAM_CHUNK_PAGES 4096u

/* How the saver learns what the guest writes; outgoing fills it in. */
struct ram_tracker {
    /* Adds what was written since the last clear to the blocks' dirty bitmaps. */
    bool (*sync)(void *opaque, struct ram *ram, struct error **errp);
    /* From now on writes to these pages of a block are news.  Chunk-aligned. */
    bool (*clear)(void *opaque, unsigned block, uint64_t first, uint64_t count,
                  struct error **errp);
    void *opaque;
};

/* Written by the job's thread, read by any. */
struct ram_counters {
    _Atomic uint64_t normal;    /* pages sent with payload, or placed */
    _Atomic uint64_t duplicate; /* zero pages sent as ranges */
    /* Pages that need not be sent: they do not exist at the source, or are at the destination. */
    _Atomic uint64_t skipped;
    _Atomic uint64_t remaining; /* pages still to be sent in this round */
    /* With deltas (delta.h): */
    _Atomic uint64_t delta;       /* pages sent as what has changed in them */
    _Atomic uint64_t delta_bytes; /* bytes of these records */
    _Atomic uint64_t cache_bytes; /* size of the cache; 0: there is none */
    _Atomic uint64_t cache_hits, cache_misses;
    _Atomic uint64_t overflows; /* pages in the cache of which too much has changed */
};

struct ram_delta;

struct ram_saver {
    struct ram *ram;
    struct ram_tracker tracker;
    struct record_pacer pacer;
    struct record_sink sink;
    struct ram_counters *counters;
    struct ram_delta *delta; /* NULL: pages go whole */
    bool exact; /* the last round lists holes in any case, for what was returned (returned.h) */
    uint64_t listing_ns; /* what that took the last time */
};

enum ram_round {
    RAM_ROUND_FIRST,   /* everything that exists */
    RAM_ROUND_LATER,   /* what is dirty, the guest runs */
    RAM_ROUND_STOPPED, /* what is dirty, the guest is stopped: nothing is tracked any more */
};

/* Marks all pages dirty: what a first round begins with. */
void ram_save_begin(struct ram_saver *saver);

/* Takes over what the tracker reports; counters->remaining is then exact. */
bool ram_save_sync(struct ram_saver *saver, struct error **errp);

/* Sends every dirty page once. */
bool ram_save_round(struct ram_saver *saver, enum ram_round kind, struct error **errp);

#endif
