/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sending disks, a round at a time, beside the RAM: to the same sink and at the same pace.
 *
 * The first round sends what is to move of each disk, later ones the chunks that were written
 * since. Marks are taken out of the VMM's map before a chunk is read, so that a write which we do
 * not see is always reported again.  The order on the stream keeps a disk from being older than the
 * RAM that arrives with it: the last round of both comes after the guest has stopped.
 *
 * Runs on the job's thread; only the counters are read by others.
 */
#ifndef FERRY_DISK_SAVE_H
#define FERRY_DISK_SAVE_H

#include "disk/disk.h"
#include "ram/records.h"

#include <stdatomic.h>

/* Written by the job's thread, read by any; bytes. */
struct disk_counters {
    _Atomic uint64_t transferred; /* on the wire, with the records' heads */
    _Atomic uint64_t remaining;   /* of disk, still to be sent in this round */
    _Atomic uint64_t total;       /* of all disks; 0: none moves */
};

/* Bytes of disk sent or received; both ends compare theirs at the end. */
struct disk_tally {
    uint64_t data, zeroes;
};

/* What a DISK_ZERO record makes of its range. */
enum disk_zero_kind {
    DISK_ZERO_ZEROES, /* zeroes: with the capability zero-blocks */
    DISK_ZERO_BASE,   /* the base again: of a disk that moves incrementally */
};

struct disk_saver {
    struct disks *disks;
    bool zero_blocks; /* runs of zeroes go as ranges; without it, as data */
    struct record_pacer pacer;
    struct record_sink sink;
    struct disk_counters *counters;
    struct disk_tally tally; /* zero-initialised */
};

/* Everything is to be sent: what a first round begins with. */
void disk_save_begin(struct disk_saver *saver);
bool disk_save_first(struct disk_saver *saver, struct error **errp);

/* After the dirty bitmaps were filled: counters->remaining is then exact. */
void disk_save_count(struct disk_saver *saver);
/* Sends every dirty chunk once. */
bool disk_save_dirty(struct disk_saver *saver, struct error **errp);

/* After the last round: what was sent in all. */
bool disk_save_end(struct disk_saver *saver, struct error **errp);

#endif
