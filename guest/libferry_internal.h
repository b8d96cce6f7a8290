/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libferry inside.  One thread per handle does everything that ferryd asks (libferry_serve.c) and
 * is the only caller of the callbacks; the VMM's threads only mark pages and tell about pauses.
 *
 * Locks, in the order they may be taken:
 *   lock      state, was_paused, busy, leaving, blockers, tell_state, tell_shutdown, stopping
 *   map_lock  map (written by the library's thread only: LOG_START, LOG_STOP)
 */
#ifndef FERRY_GUEST_LIBFERRY_INTERNAL_H
#define FERRY_GUEST_LIBFERRY_INTERNAL_H

#include "guest/dirtymap.h"
#include "guest/kvmlog.h"
#include "guest/libferry.h"
#include "guest/wire.h"

#include <poll.h>
#include <pthread.h>

struct ferry_block {
    char name[WIRE_NAME_SIZE];
    int fd;
    uint64_t offset;
    uint64_t length;
    uint64_t gpa;
    bool has_slot;
    struct kvmlog_slot slot;
};

struct ferry_drive {
    char name[WIRE_NAME_SIZE];
    int fd;
    int base_fd; /* -1: none */
    uint64_t length;
};

/* A place for one blocker.  What ferryd knows of it is made to follow, whatever happened meanwhile.
 */
struct ferry_blocker {
    uint64_t id;   /* 0: none */
    uint64_t told; /* the id that ferryd has for this place; 0: none */
    char reason[FERRY_REASON_MAX + 1];
};

/* The rounds of announcing (libferry_announce.c). */
struct ferry_announcer {
    struct wire_announce how;
    bool waiting; /* the guest has arrived paused: they begin when it runs */
    uint32_t done, left;
    uint64_t next_ns; /* CLOCK_MONOTONIC */
};

struct ferry {
    /* Set before ferry_start and constant after it. */
    char *name;
    char *socket_path;
    struct ferry_ops ops;
    void *opaque;
    int vm_fd;
    bool manual_protect;
    bool plain_log; /* never manual_protect */
    struct ferry_block blocks[FERRY_BLOCKS_MAX];
    unsigned nblocks;
    struct ferry_drive disks[FERRY_DISKS_MAX];
    unsigned ndisks;
    /* Of each block; behind them, from ferry_start on, chunks of each disk: as dirtymap.h has it.
     */
    uint64_t pages[FERRY_BLOCKS_MAX + FERRY_DISKS_MAX];
    bool started;
    pthread_t thread;
    int wake_fd; /* eventfd: look at stopping and tell_state */

    pthread_mutex_t lock;
    enum ferry_guest_state state;
    bool was_paused; /* what a STOPPED guest goes back to */
    bool busy;       /* a stop or resume callback runs: the VMM may not resume by itself */
    bool leaving;    /* dirty logging was asked for: no blocker may come any more */
    struct ferry_blocker blockers[FERRY_BLOCKERS_MAX];
    uint64_t last_blocker; /* the last id given */
    bool tell_state;       /* state changed by the VMM, ferryd was not told yet */
    bool tell_shutdown;
    bool stopping; /* ferry_free */

    pthread_rwlock_t map_lock;
    struct dirtymap map;

    /* The library's thread only. */
    int sock;
    bool logging; /* the slots log */
    bool throttled;
    bool loaded; /* an incoming guest whose state was loaded */
    bool released;
    uint8_t job[WIRE_UUID_SIZE]; /* given away to */
    struct ferry_announcer announcer;
    char error[WIRE_TEXT_SIZE]; /* ferry_set_error's words for the running callback */
};

/* Takes over what of the caller's struct both know; false: it has no size. */
bool ferry_copy_sized(void *to, size_t room, const void *from, size_t size);
bool ferry_name_is_good(const char *name);

/* Sets marks of what is block `index` of the dirty map; under map_lock, with a map. */
void ferry_mark_bits(struct ferry *f, unsigned index, uint64_t first, uint64_t end);

/* Says how many bits the disks have in the dirty map; in ferry_start. */
void ferry_size_disks(struct ferry *f);
void ferry_close_disks(struct ferry *f);

/* The thread: connects, serves, cleans up behind a lost connection, until `stopping`. */
void *ferry_thread(void *arg);

/* Sends, waiting for a ferryd that is slow to read, but not longer than the handle lives. */
int ferry_send(struct ferry *f, uint32_t type, uint64_t seq, const void *body, int fd);

/* Makes the thread look at what has changed. */
void ferry_wake(struct ferry *f);

/* Performs one request of ferryd's and fills its reply.  `fd` stays the caller's. */
void ferry_perform(struct ferry *f, const struct wire_message *msg, int fd,
                   struct wire_reply *reply);

/* Passes on how a migration goes. */
void ferry_notified(struct ferry *f, const struct wire_notify *news);

/* ferryd is gone: logging and throttling off, a guest stopped by a migration back to what it was.
 */
void ferry_abandon(struct ferry *f);

/* ---- libferry_blockers.c ---- */

/* Tells what ferryd does not know yet; `anew`: the connection is new, it knows nothing. */
int ferry_tell_blockers(struct ferry *f, bool anew);

/*
 * A migration takes the guest: no blocker can be added until ferry_end_leaving.  -EBUSY with the
 * first reason when there is one already.  Both in one step, so that none slips in between.
 */
int ferry_begin_leaving(struct ferry *f, char reason[FERRY_REASON_MAX + 1]);
void ferry_end_leaving(struct ferry *f);

/* ---- libferry_announce.c ---- */

/* Announces from now on, or once the guest runs.  Rounds that are under way are forgotten. */
void ferry_announce(struct ferry *f, const struct wire_announce *how, bool later);

/* poll, for the library's thread; announces meanwhile when that is due. */
int ferry_poll(struct ferry *f, struct pollfd *fds, nfds_t count, int timeout_ms);

void ferry_set_state(struct ferry *f, enum ferry_guest_state state);

/* ferryd can't know that the guest was given away: its reply was lost.  Nobody else has it. */
void ferry_forget_giving_away(struct ferry *f);

#endif
