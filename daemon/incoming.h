/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The destination of a migration, on the job's thread: listen, accept, introduce (setup); take what
 * comes (active, and device once the source's guest is stopped); load, handover.
 *
 * Whatever fails, the VMM is left waiting with empty RAM, ready for another migration.  (After a
 * cancel it is that one which empties the RAM.)
 */
#ifndef FERRY_DAEMON_INCOMING_H
#define FERRY_DAEMON_INCOMING_H

#include "daemon/handshake.h"
#include "daemon/job.h"
#include "daemon/stream.h"
#include "disk/load.h"
#include "ram/verify.h"

struct incoming {
    struct job *job;
    struct ram *ram;
    struct listener *listener;
    struct stream stream;
    struct handshake peer;
    struct verify_progress verified;
    bool verify_begun;
    struct disk_loader disks; /* its disks NULL: none come */
    bool disks_ended;
    bool stopped; /* the source said so */
    bool paused;  /* the guest was paused there, and stays so */
    int state_fd; /* the device state, collected */
    uint64_t state_bytes;
    void *state_hash; /* XXH3_state_t */
    bool state_complete;
    bool ended;   /* END was read */
    bool offered; /* READY was sent: the source may ask what became of it */
    bool running;
    bool told;     /* the source knows why this end gives up */
    bool in_doubt; /* the VMM was told to run, and went away before it said whether it does */
};

/* A job's whole life; for job_start. */
void incoming_run(struct job *job);

#endif
