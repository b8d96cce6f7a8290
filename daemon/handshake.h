/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The introduction: both ends compare what they are about to do before a page is sent.  A
 * difference is refused by the destination, with what differs.
 */
#ifndef FERRY_DAEMON_HANDSHAKE_H
#define FERRY_DAEMON_HANDSHAKE_H

#include "daemon/handshake_disks.h"
#include "daemon/job.h"
#include "daemon/stream.h"
#include "ram/block.h"

/*
 * The source's part: preamble, HELLO, BLOCKs, DISKs, MACHINE, CAPABILITYs, OPEN; then awaits ACCEPT
 * on two ways.  `disks` NULL: none move.
 */
bool handshake_offer(struct job *job, struct stream *s, const struct ram *ram,
                     const struct disks *disks, struct error **errp);

/* What a stream begins with: a migration, or a question about one. */
enum handshake_kind { HANDSHAKE_MIGRATION, HANDSHAKE_QUESTION };

struct handshake {
    enum handshake_kind kind;
    bool two_way;
    uint8_t uuid[GUEST_UUID_SIZE]; /* of the source's job */
    char name[GUEST_NAME_SIZE];    /* the guest's, at the source */
    bool capabilities[CAPABILITY_COUNT];
    char machine[GUEST_NAME_SIZE]; /* the source guest's; "": its driver knows of one kind only */
    struct disk_offers disks;
};

/*
 * The destination's part, up to where it would answer; nothing was answered yet.  `ram` NULL takes
 * questions only.
 */
bool handshake_receive(struct stream *s, const struct ram *ram, struct handshake *h,
                       struct error **errp);

/* Whether the device state that comes is of the kind that this guest's VMM loads. */
bool handshake_check_machine(const struct handshake *h, const struct guest *guest,
                             struct error **errp);
bool handshake_accept(struct stream *s, struct error **errp);

/* A name out of a body: `length` bytes behind its fixed part; false if it is none. */
bool handshake_take_name(const struct record *rec, size_t fixed, uint32_t length, char *name,
                         size_t size);

/* Asks about the job `uuid` on a fresh channel. */
bool handshake_ask(struct stream *s, const uint8_t uuid[GUEST_UUID_SIZE], struct error **errp);

#endif
