/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The agent driver inside: agent.c has the connection and its calls, agent_introduce.c the
 * introduction of a guest (agent_disks.c that of its disks), agent_ops.c what jobs ask,
 * agent_blockers.c why a guest may not leave.
 */
#ifndef FERRY_GUEST_AGENT_INTERNAL_H
#define FERRY_GUEST_AGENT_INTERNAL_H

#include "guest/agent.h"
#include "guest/dirtymap.h"
#include "guest/wire.h"

#include <pthread.h>
#include <sys/queue.h>

/* One request under way.  A job's lives on its stack, the main thread's on the heap. */
struct agent_call {
    uint32_t type;
    uint64_t seq;
    bool sent; /* the VMM may have got it */
    bool done; /* reply is filled */
    struct wire_reply reply;
    guest_done *done_fn; /* NULL: a job's thread waits for it */
    void *opaque;
    uint64_t deadline_ns;
    TAILQ_ENTRY(agent_call) link;
};

struct agent {
    struct guest guest; /* first: agent_of */
    struct guest_events events;
    int sock;
    int reply_fd; /* eventfd: a reply for the job's thread, or the loss of the VMM */

    pthread_mutex_t lock; /* calls and their done, last_seq, lost */
    TAILQ_HEAD(agent_calls, agent_call) calls;
    uint64_t last_seq;
    bool lost;

    /* The main thread's. */
    bool attached;
    unsigned told; /* news since the last agent_expire */
    bool hello_seen;
    unsigned blocks_due;
    unsigned disks_due; /* images */
    bool base_due;      /* of the last of them */
    uint32_t features;

    /* The job's thread's. */
    struct dirtymap map;
    uint64_t pages[GUEST_BLOCKS_MAX + GUEST_DISKS_MAX]; /* the disks' chunks behind the blocks */
};

static inline struct agent *agent_of(struct guest *g)
{
    return (struct agent *)g;
}

static inline struct wire_announce agent_wire_announce(const struct guest_announce *how)
{
    return (struct wire_announce){
        .initial = how->initial, .max = how->max, .rounds = how->rounds, .step = how->step};
}

extern const struct guest_ops agent_ops;

/* Entries of `pages`. */
static inline unsigned agent_mapped(const struct agent *a)
{
    return a->guest.nblocks + a->guest.ndisks;
}

/* Asks and waits; `call` has its type set and gets the reply.  The job's thread. */
bool agent_call(struct agent *a, struct agent_call *call, const void *body, int fd,
                const struct wait *w, struct error **errp);

/* Handles a message of an introduction; takes *fd where it needs it (leaving -1). */
bool agent_introduce(struct agent *a, const struct wire_message *msg, int *fd, struct error **errp);

/* Handles a BLOCKER.  False: one that the VMM can't add, or remove. */
bool agent_take_blocker(struct agent *a, const struct wire_blocker *told, struct error **errp);

/* A VMM's words go into logs and JSON, which take no stray bytes. */
void agent_make_printable(char text[WIRE_TEXT_SIZE]);

/* Handles a DISK of an introduction; takes *fd (leaving -1). */
bool agent_on_disk(struct agent *a, const struct wire_message *msg, int *fd, struct error **errp);

/* guest_ops.disk_sync */
void agent_disk_sync(struct guest *g, uint64_t *const dirty[]);

/* Adds the marks of entry `index` of the dirty map to `dirty` and takes them out of it. */
void agent_take_marks(const struct agent *a, unsigned index, uint64_t *dirty);

void agent_wake(struct agent *a);
void agent_free(struct guest *g);

#endif
