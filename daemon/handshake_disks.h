/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The disks' part of the introduction: one DISK record each, which says what a destination must
 * have for it.
 */
#ifndef FERRY_DAEMON_HANDSHAKE_DISKS_H
#define FERRY_DAEMON_HANDSHAKE_DISKS_H

#include "daemon/stream.h"
#include "disk/disk.h"

/* A disk that a source is about to send; bounds are checked, nothing else is. */
struct disk_offer {
    char name[DISK_NAME_MAX + 1];
    uint64_t length;
    bool inc; /* the next two say over which base */
    uint64_t base_length;
    uint8_t base_hash[DISK_HASH_SIZE];
};

struct disk_offers {
    struct disk_offer list[DISKS_MAX];
    unsigned count; /* as HELLO says: 0, no disk moves */
};

/* Writes the DISK records; the bases' hashes are known. */
bool handshake_offer_disks(struct stream *s, const struct disks *disks, struct error **errp);

/* Reads `count` DISK records, a number that HELLO gave. */
bool handshake_receive_disks(struct stream *s, uint32_t count, struct disk_offers *offers,
                             struct error **errp);

#endif
