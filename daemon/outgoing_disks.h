/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The source's disks, where they move with the guest (migrate's blk and inc).  All of these do
 * nothing, and succeed, where none does.
 */
#ifndef FERRY_DAEMON_OUTGOING_DISKS_H
#define FERRY_DAEMON_OUTGOING_DISKS_H

#include "daemon/outgoing.h"

/* Opens them and hashes the bases that inc needs; may take long, can be cancelled. */
bool outgoing_disks_open(struct outgoing *o, struct error **errp);

/* Once the stream is open and accepted. */
void outgoing_disks_begin(struct outgoing *o);

/* Takes over what was written. */
void outgoing_disks_sync(struct outgoing *o);
bool outgoing_disks_round(struct outgoing *o, enum ram_round kind, struct error **errp);
/* After the last round. */
bool outgoing_disks_end(struct outgoing *o, struct error **errp);

#endif
