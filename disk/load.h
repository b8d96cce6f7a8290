/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Receiving disks into an incoming guest's, which disk_empty has emptied before.
 *
 * Nothing is synchronised to the disk: that would cost downtime, and the VMM, which comes after us
 * on the same host, sees what was written in any case.  A host that crashes right after a migration
 * may have lost what the source's disk had: whoever wants to be safe from that syncs in the VMM.
 */
#ifndef FERRY_DISK_LOAD_H
#define FERRY_DISK_LOAD_H

#include "common/wait.h"
#include "disk/save.h"

struct disk_loader {
    struct disks *disks;
    bool zero_blocks; /* the capability was agreed on */
    struct disk_counters *counters;
    struct disk_tally tally; /* zero-initialised */
};

/*
 * Each handles one record of its type.  "stream-corrupt": what was not agreed on, or lies outside
 * the disk; "disk-io": the disk can't be written.
 */
bool disk_load_data(struct disk_loader *loader, struct record_reader *reader, struct record *rec,
                    struct error **errp);
bool disk_load_zero(struct disk_loader *loader, const struct record *rec, const struct wait *w,
                    struct error **errp);

/* Compares what the source has sent with what has come. */
bool disk_load_end(struct disk_loader *loader, const struct record *rec, struct error **errp);

#endif
