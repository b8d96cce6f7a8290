/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The source of a migration, as a sequence of stages on the job's thread:
 *
 *   connect, introduce    setup
 *   rounds                active: first what exists, then what was written meanwhile; disks that
 *                         move along (outgoing_disks.h) go before the RAM of each round
 *   stop                  the guest stands still (pre-switchover waits here, if asked to)
 *   last round, state     device
 *   handover              READY, given away, GO, RUNNING (handover.h)
 *
 * Whatever fails before the guest was given away, outgoing_undo resumes it.
 */
#ifndef FERRY_DAEMON_OUTGOING_H
#define FERRY_DAEMON_OUTGOING_H

#include "daemon/job.h"
#include "daemon/pace.h"
#include "daemon/stream.h"
#include "daemon/throttle.h"
#include "daemon/xbzrle.h"
#include "disk/save.h"

struct outgoing {
    struct job *job;
    struct ram *ram;
    struct stream stream;
    struct pace pace;
    struct throttle throttle;
    struct ram_saver saver;
    struct xbzrle xbzrle;
    struct disk_saver disks; /* its disks NULL: none move */
    uint64_t synced_ns;      /* of the last dirty bitmap synchronisation; 0: none */
    uint64_t request_ns;     /* what one request to the VMM takes */
    uint64_t peer_ns;        /* what one exchange with the peer takes */
    uint64_t stopped_ns;     /* when the stop was asked for */
    uint64_t ready_ns;       /* when the destination was ready */
    uint64_t state_bytes;
    bool logging;
    bool stopped; /* a stop was asked for: the guest must be resumed */
    bool was_paused;
    bool given_away;
};

/*
 * The device state (outgoing_state.c): has the VMM save it, into a memory file that is the caller's
 * (-1: failed), and sends that, state_bytes of it.
 */
int outgoing_save_state(struct outgoing *o, struct error **errp);
bool outgoing_send_state(struct outgoing *o, int fd, struct error **errp);

/* A job's whole life; for job_start. */
void outgoing_run(struct job *job);

#endif
