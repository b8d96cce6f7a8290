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
#include "daemon/switchover.h"
#include "daemon/throttle.h"
#include "daemon/xbzrle.h"
#include "disk/save.h"

struct outgoing {
    struct job *job;
    struct ram *ram;
    struct stream stream;
    struct pace pace;
    struct throttle throttle;
    struct switchover switchover;
    struct ram_saver saver;
    struct xbzrle xbzrle;
    struct disk_saver disks; /* its disks NULL: none move */
    uint64_t synced_ns;      /* of the last dirty bitmap synchronisation; 0: none */
    uint64_t sync_ns;        /* what the last synchronisation took */
    uint64_t stopped_ns;     /* when the guest stopped */
    uint64_t early_ns;       /* of the time since then, what the round before the last one took */
    uint64_t ready_ns;       /* when the destination was ready */
    uint64_t state_bytes;
    struct history_round last_live; /* the round sent while the guest is being stopped, if any */
    bool finds_returned;            /* this round is to find pages that were returned */
    bool logging;
    bool sends_early; /* what is left goes while the VMM is stopping its guest */
    bool prepared;    /* the VMM is, to stop its guest */
    bool stopped;     /* a stop was asked for: the guest must be resumed */
    bool was_paused;
    bool given_away;
};

/*
 * The rounds (outgoing_rounds.c): all of them up to the moment at which the guest should be
 * stopped.
 */
bool outgoing_rounds(struct outgoing *o, struct error **errp);

/* One round; a failed write whose reason the peer has told is reported with that reason. */
bool outgoing_round(struct outgoing *o, enum ram_round kind, struct error **errp);

/* Takes over what was written, and with it the rate at which the guest writes. */
bool outgoing_sync(struct outgoing *o, struct error **errp);

/* Bytes of RAM and disks that are still to be sent. */
uint64_t outgoing_remaining(const struct outgoing *o);

/* Has the VMM get ready to stop, once: while the guest goes on writing, so that rounds follow. */
bool outgoing_prepare(struct outgoing *o, struct error **errp);

/* The record of a round: begun, when its last byte was sent, and behind the sync that follows. */
struct history_round outgoing_record(const struct outgoing *o);
void outgoing_record_sent(const struct outgoing *o, struct history_round *r);
void outgoing_record_add(struct outgoing *o, struct history_round *r);

/*
 * The device state (outgoing_state.c): has the VMM save it, into a memory file that is the caller's
 * (-1: failed), and sends that, state_bytes of it.
 */
int outgoing_save_state(struct outgoing *o, struct error **errp);
bool outgoing_send_state(struct outgoing *o, int fd, struct error **errp);

/* A job's whole life; for job_start. */
void outgoing_run(struct job *job);

#endif
