/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The destination's disks, where the source sends any.  A disk that was begun and not finished is
 * left as it is: the next migration that brings disks empties them first.
 */
#ifndef FERRY_DAEMON_INCOMING_DISKS_H
#define FERRY_DAEMON_INCOMING_DISKS_H

#include "daemon/incoming.h"

/*
 * Compares what the source offers with the guest's disks, opens and empties them.  May take long
 * (bases are hashed, zeroes may have to be written): keeps a source that reads alive meanwhile, and
 * can be cancelled.  "disk-layout-differs", "disk-base-differs", "disk-unusable", "disk-io".
 */
bool incoming_disks_open(struct incoming *in, struct error **errp);

/* The handlers of DISK_DATA, DISK_ZERO and DISK_END. */
bool incoming_disk_data(struct incoming *in, struct record *rec, struct error **errp);
bool incoming_disk_zero(struct incoming *in, struct record *rec, struct error **errp);
bool incoming_disk_end(struct incoming *in, struct record *rec, struct error **errp);

/* At END: whether all disks are complete. */
bool incoming_disks_complete(const struct incoming *in);

#endif
