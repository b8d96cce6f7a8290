/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The messages between libferry (in the VMM) and ferryd, one each per SOCK_SEQPACKET message, in
 * the host's byte order (both ends are on one host).  schema/guest-protocol.md describes them.
 *
 * The VMM connects and introduces itself: HELLO, one BLOCK per RAM block (with its descriptor), one
 * or two DISKs per disk (likewise), its BLOCKERs, READY.  ferryd answers WELCOME or REFUSE.  From
 * then on ferryd sends requests, each answered by one REPLY with the same sequence number, in
 * order; the VMM sends STATE, BLOCKER and SHUTDOWN on its own.
 */
#ifndef FERRY_GUEST_WIRE_H
#define FERRY_GUEST_WIRE_H

#include <stdint.h>

/* Both ends speak one range of versions and use the highest that they share. */
#define WIRE_VERSION      2u
#define WIRE_VERSION_MIN  2u

#define WIRE_MAGIC        0x59525246u /* "FRRY" */

#define WIRE_NAME_SIZE    65  /* with the final NUL */
#define WIRE_TEXT_SIZE    256 /* with the final NUL */
#define WIRE_BLOCKS_MAX   64u /* see FERRY_BLOCKS_MAX */
#define WIRE_DISKS_MAX    16u /* see FERRY_DISKS_MAX */
#define WIRE_BLOCKERS_MAX 16u /* see FERRY_BLOCKERS_MAX */
#define WIRE_UUID_SIZE    16

/* No message is longer: the receiver's buffer. */
#define WIRE_MESSAGE_MAX 1024u

/* What a VMM may save: past it ferryd fails the migration rather than fill the host's memory. */
#define WIRE_STATE_MAX (1ULL << 30)

enum wire_type {
    /* from the VMM */
    WIRE_HELLO = 1,
    WIRE_BLOCK = 2,
    WIRE_READY = 3,
    WIRE_REPLY = 4,
    WIRE_STATE = 5,
    WIRE_SHUTDOWN = 6,
    WIRE_DISK = 7,
    WIRE_BLOCKER = 8,
    /* from ferryd */
    WIRE_WELCOME = 64,
    WIRE_REFUSE = 65,
    WIRE_LOG_START = 66,
    WIRE_LOG_SYNC = 67,
    WIRE_LOG_CLEAR = 68,
    WIRE_LOG_STOP = 69,
    WIRE_STOP = 70,
    WIRE_RESUME = 71,
    WIRE_SAVE = 72,
    WIRE_LOAD = 73,
    WIRE_THROTTLE = 74,
    WIRE_GIVE_AWAY = 75,
    WIRE_TAKE_BACK = 76,
    WIRE_RELEASE = 77,
    WIRE_START = 78,
    WIRE_ANNOUNCE = 79,
    WIRE_NOTIFY = 80,
};

/* A disk's dirty marks have a bit for so many bytes. */
#define WIRE_DISK_CHUNK (64u << 10)

/* Bits of wire_hello.features. */
#define WIRE_FEATURE_KVM_LOG        (1u << 0) /* some block has a KVM slot */
#define WIRE_FEATURE_MANUAL_PROTECT (1u << 1) /* LOG_CLEAR does something */
#define WIRE_FEATURE_THROTTLE       (1u << 2) /* the VMM gave that callback */
#define WIRE_FEATURE_ANNOUNCE       (1u << 3) /* and that one */

struct wire_head {
    uint32_t type;
    uint32_t length; /* of the body behind this head */
    uint64_t seq;    /* of a request and its reply; 0 elsewhere */
};

/* Values of enum ferry_guest_state. */
#define WIRE_STATES 5u

/* enum ferry_guest_state in the first byte; the order of both is the wire's. */
struct wire_hello {
    uint32_t magic;
    uint32_t version;
    uint32_t version_min;
    uint32_t features;
    uint32_t page_size;
    uint32_t blocks;
    uint32_t state;
    uint32_t released;           /* state is given-away and the destination is known to run */
    uint8_t job[WIRE_UUID_SIZE]; /* the job it was given away to */
    char name[WIRE_NAME_SIZE];
    uint32_t disks;
};

struct wire_block {
    uint64_t offset;
    uint64_t length;
    uint64_t gpa;
    uint32_t has_slot;
    char name[WIRE_NAME_SIZE];
};

/* What a DISK message's descriptor is. */
enum wire_disk_part { WIRE_DISK_IMAGE = 0, WIRE_DISK_BASE = 1 };

struct wire_disk {
    uint64_t length;
    uint32_t part;     /* enum wire_disk_part */
    uint32_t has_base; /* of the image: its base is the next message */
    char name[WIRE_NAME_SIZE];
};

struct wire_welcome {
    uint32_t version;
};

struct wire_refuse {
    char text[WIRE_TEXT_SIZE];
};

/* LOG_START carries the descriptor of the dirty map (dirtymap.h). */

struct wire_log_clear {
    uint32_t block;
    uint32_t reserved;
    uint64_t first; /* page within the block, a multiple of 64 */
    uint64_t count; /* pages; a multiple of 64 unless it reaches the block's end */
};

struct wire_stop {
    uint32_t migration; /* 1: for a migration, undone when that fails; 0: an operator's pause */
};

struct wire_resume {
    uint32_t migration; /* 1: undoes a migration's stop; 0: an operator's cont */
};

/* SAVE and LOAD carry the descriptor of the state's file. */

struct wire_throttle {
    uint32_t percent;
};

struct wire_give_away {
    uint8_t job[WIRE_UUID_SIZE];
};

/* Rounds of announcing the guest to its networks; times in milliseconds. */
struct wire_announce {
    uint32_t initial; /* the pause behind the first round */
    uint32_t max;     /* no pause is longer */
    uint32_t rounds;
    uint32_t step; /* each pause is longer by it than the one before */
};

/* START: an incoming guest, its state loaded, begins to run (or stays paused). */
struct wire_start {
    uint32_t paused;
    struct wire_announce announce; /* once it runs */
};

/* NOTIFY: how a migration of the guest goes; no request, it has no reply. */
struct wire_notify {
    uint32_t status;   /* enum ferry_migration_status */
    uint32_t outgoing; /* 1: the guest leaves; 0: it comes */
};

struct wire_reply {
    int32_t status;      /* 0 or a negative errno */
    uint32_t state;      /* the guest's state after the request */
    uint32_t was_paused; /* STOP: it was paused before */
    char text[WIRE_TEXT_SIZE];
};

struct wire_state {
    uint32_t state;
};

/* A reason why the guest may not leave its host. */
struct wire_blocker {
    uint64_t id;    /* not 0; of one connection's blockers */
    uint32_t added; /* 1: it counts from now on; 0: it is gone, text is empty */
    char text[WIRE_TEXT_SIZE];
};

/* Every body that a fixed message may have; checked against length by the receiver. */
union wire_body {
    struct wire_hello hello;
    struct wire_block block;
    struct wire_disk disk;
    struct wire_welcome welcome;
    struct wire_refuse refuse;
    struct wire_log_clear log_clear;
    struct wire_stop stop;
    struct wire_resume resume;
    struct wire_throttle throttle;
    struct wire_give_away give_away;
    struct wire_start start;
    struct wire_announce announce;
    struct wire_notify notify;
    struct wire_reply reply;
    struct wire_state state;
    struct wire_blocker blocker;
};

struct wire_message {
    struct wire_head head;
    union wire_body body;
};

/* The body length that `type` has, or -1 for a type that is none. */
int wire_body_length(uint32_t type);

/*
 * Sends one message; `body` has the length that its type has (NULL where that is 0).  fd -1: none.
 * 0 or -errno.
 */
int wire_send(int sock, uint32_t type, uint64_t seq, const void *body, int fd);

/*
 * Receives one message and checks its shape: 1, 0 at the end of the stream, or -errno (-EBADMSG:
 * not a message of this protocol).  *fd is the caller's, or -1.
 */
int wire_recv(int sock, struct wire_message *msg, int *fd);

#endif
