/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the rdma: transport share.
 *
 *   rdma.c          URIs, the connection manager: connecting, listening, accepting
 *   rdma_setup.c    what a connection is made of: queues, registered buffers
 *   rdma_channel.c  one connection: messages with credits, and the byte stream made of them
 *   rdma_place.c    the source's side of direct placement: own registrations, the peer's keys
 *   rdma_offer.c    the destination's side: registers what is asked for, and tells the keys
 *   rdma_memory.c   registering memory, and why it can't be done
 *
 * schema/rdma.md has the messages byte by byte.  Everything runs on the job's thread, which never
 * blocks but in rdma_await: on completions, on the connection manager and on the cancel descriptor,
 * all at once.
 */
#ifndef FERRY_TRANSPORTS_RDMA_INTERNAL_H
#define FERRY_TRANSPORTS_RDMA_INTERNAL_H

#include "transports/channel.h"

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#define RDMA_MAGIC   0x4d44525952524546ULL /* "FERRYRDM" */
#define RDMA_VERSION 1u

/* Of the buffers that messages are received into and sent from. */
#define RDMA_BUFFER     32768u
#define RDMA_BUFFER_MIN 4096u
#define RDMA_RECVS      32u
#define RDMA_SENDS      16u
/* Work requests in flight at most: messages, writes and probes. */
#define RDMA_QUEUE 256u
/* Bytes placed and not confirmed at most: enough for the fastest links, and a cancel is quick. */
#define RDMA_WINDOW (4u << 20)
/* Small runs are copied here and placed from here. */
#define RDMA_STAGE (1u << 20)
/* Zeroes to be placed. */
#define RDMA_ZEROES    (64u << 10)

#define RDMA_PAGE      4096u
#define RDMA_CHUNK_MIN (64ULL << 10)
#define RDMA_CHUNK_MAX (16ULL << 20) /* what takes tens of milliseconds to pin */
/* Pinned at once by rdma-pin-all, so that a cancel is seen. */
#define RDMA_PIN_PIECE (16ULL << 20)
/* Keys that may be asked for and not answered. */
#define RDMA_ASKS 64u

/* ---- messages ---- */

/* In the private data of the connection manager, both ways.  All numbers are little-endian. */
struct rdma_hello {
    uint64_t magic;
    uint32_t version;
    uint32_t buffer;  /* bytes of a message that this end takes, head included */
    uint32_t credits; /* messages that may be sent to it at first */
    uint32_t reserved;
} __attribute__((packed));

enum rdma_message {
    RDMA_DATA = 1,   /* bytes of the stream */
    RDMA_CREDIT = 2, /* nothing but its credits */
    RDMA_END = 3,    /* the end of the stream */
    RDMA_SHARE = 4,  /* source: rdma_share */
    RDMA_REGION = 5, /* destination: rdma_region_offer, one for each region in order */
    RDMA_SHARED = 6, /* destination: all is offered */
    RDMA_ASK = 7,    /* source: rdma_asks */
    RDMA_KEYS = 8,   /* destination: rdma_keys */
};

struct rdma_head {
    uint16_t type;
    uint16_t credits; /* messages that the receiver may send in addition */
    uint32_t length;  /* bytes that follow */
} __attribute__((packed));

struct rdma_share {
    uint64_t chunk;
    uint32_t pin_all;
    uint32_t regions;
} __attribute__((packed));

struct rdma_region_offer {
    uint32_t region;
    uint32_t reserved;
    uint64_t unit; /* bytes that one key is for */
    uint64_t base; /* the region's remote address */
    uint64_t length;
} __attribute__((packed));

struct rdma_ask {
    uint32_t region;
    uint32_t reserved;
    uint64_t unit; /* its number */
} __attribute__((packed));

struct rdma_key {
    uint32_t region;
    uint32_t rkey;
    uint64_t unit;
} __attribute__((packed));

/* ---- a channel ---- */

/* A work request in flight; they complete in the order of posting. */
enum rdma_work_kind { RDMA_WORK_MESSAGE, RDMA_WORK_WRITE, RDMA_WORK_STAGED, RDMA_WORK_PROBE };

struct rdma_work {
    enum rdma_work_kind kind;
    uint32_t bytes; /* placed by it */
};

/* A message with stream bytes that were not all read yet. */
struct rdma_received {
    unsigned buffer;
    uint32_t at, end;
};

struct rdma_channel {
    struct channel channel;
    struct rdma_event_channel *events;
    struct rdma_cm_id *id;
    struct ibv_pd *pd;
    struct ibv_comp_channel *completions;
    struct ibv_cq *cq;
    char peer[80]; /* for error texts: "rdma:10.0.0.1:4444" */

    uint8_t *arena; /* receive buffers, send buffers, stage, zeroes: one registration */
    struct ibv_mr *arena_mr;

    /* sending */
    uint32_t peer_buffer;
    uint32_t credits_max; /* that the peer can ever give */
    uint32_t credits;     /* messages that the peer has room for */
    unsigned sends_used;  /* buffers, taken in turn */
    unsigned send_next;
    bool end_wanted, end_sent;

    /* in flight, a ring */
    struct rdma_work work[RDMA_QUEUE];
    unsigned work_first, work_count;
    uint32_t flying;       /* bytes of writes among them */
    uint32_t staged;       /* bytes of the stage among them */
    uint32_t stage_next;   /* where the stage goes on */
    uint64_t confirmed_ns; /* when one was last confirmed, or posted into an empty queue */

    /* receiving */
    struct rdma_received received[RDMA_RECVS];
    unsigned received_first, received_count;
    uint32_t owed; /* buffers that are free again, and the peer was not told */
    bool ended;    /* the peer's END came */
    uint64_t heard_ns;

    /* the end */
    char fault[160];       /* why the link is gone; "": it is not */
    struct error *refusal; /* why this end will not go on, though the link is up */
    uint64_t hung_up_ns;   /* when the peer disconnected; 0: it did not */

    struct rdma_placer *placer; /* source; NULL: nothing is shared */
    struct rdma_offer *offer;   /* destination */
    struct rdma_share wish;     /* the source's, which may come before the offer is made */
    bool wished;
};

extern const struct channel_ops rdma_channel_ops;

/* (rdma_setup.c) Makes queue pair and buffers on a connection that is being made; owns nothing of
 * it yet. */
struct rdma_channel *rdma_channel_new(struct rdma_cm_id *id, const char *peer, struct error **errp);
/* Takes over id and its event channel, once connected. */
void rdma_channel_open(struct rdma_channel *c, const struct rdma_hello *peers);
/* Gives back what rdma_channel_new made, before the id is destroyed. */
void rdma_channel_free(struct rdma_channel *c);

void rdma_hello_mine(struct rdma_hello *hello);

/* ---- waiting, sending; rdma_channel.c ---- */

/*
 * Until done(c, n); works on what comes meanwhile.  Errors: "channel-closed", the channel's
 * refusal, "timeout" after w's silence, "cancelled".
 */
bool rdma_await(struct rdma_channel *c, bool (*done)(const struct rdma_channel *c, uint64_t n),
                uint64_t n, const struct wait *w, struct error **errp);

/* Gives buffer `buffer` to the device, for the next message that comes. */
void rdma_post_receive(struct rdma_channel *c, unsigned buffer);

/* Works on what has come and sends what is due, without waiting: for who is busy for long. */
void rdma_serve(struct rdma_channel *c);

bool rdma_send(struct rdma_channel *c, enum rdma_message type, const void *body, size_t length,
               const struct wait *w, struct error **errp);
/* Whether rdma_post would find room now. */
bool rdma_can_post(const struct rdma_channel *c, uint64_t unused);
/* Sends without waiting; the caller has seen that there is room. */
void rdma_post(struct rdma_channel *c, enum rdma_message type, const void *body, size_t length);

/* Room for a write of n more bytes, of which none are staged. */
bool rdma_can_write(const struct rdma_channel *c, uint64_t n);
void rdma_write(struct rdma_channel *c, enum rdma_work_kind kind, const void *from, uint32_t lkey,
                uint32_t length, uint64_t to, uint32_t rkey);
/* All that was posted is confirmed. */
bool rdma_is_idle(const struct rdma_channel *c, uint64_t unused);

/* This end gives up because of what the peer did: "stream-corrupt". */
void rdma_refuse(struct rdma_channel *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* This end gives up because of `err`, which is taken over. */
void rdma_give_up(struct rdma_channel *c, struct error *err);

static inline uint8_t *rdma_stage(const struct rdma_channel *c)
{
    return c->arena + (size_t)RDMA_BUFFER * (RDMA_RECVS + RDMA_SENDS);
}

static inline uint8_t *rdma_zeroes(const struct rdma_channel *c)
{
    return rdma_stage(c) + RDMA_STAGE;
}

/* ---- memory; rdma_memory.c ---- */

/* A region, mapped once more, for registering only: nothing else touches this mapping. */
struct rdma_region {
    char name[72];
    int fd; /* the sharer's; used while pages are placed */
    uint64_t offset, length;
    uint8_t *map;
};

struct rdma_regions {
    struct rdma_region *list;
    unsigned count;
    uint64_t registered; /* bytes */
};

bool rdma_regions_map(struct rdma_regions *r, const struct channel_sharing *sharing,
                      struct error **errp);
void rdma_regions_unmap(struct rdma_regions *r);

/* Errors: "memlock-limit" when RLIMIT_MEMLOCK is the reason, "rdma-register". */
struct ibv_mr *rdma_register(struct rdma_channel *c, struct rdma_regions *r, unsigned region,
                             uint64_t offset, uint64_t length, int access, struct error **errp);
void rdma_deregister(struct rdma_regions *r, struct ibv_mr *mr);

/* Whether all of the regions may be pinned: "memlock-limit" with both figures. */
bool rdma_check_memlock(const struct channel_sharing *sharing, struct error **errp);

/* ---- placing; rdma_place.c ---- */

bool rdma_placer_share(struct rdma_channel *c, const struct channel_sharing *sharing,
                       const struct wait *w, struct error **errp);
bool rdma_place(struct channel *channel, unsigned region, uint64_t offset, uint64_t length,
                bool zeroes, const struct wait *w, struct error **errp);
void rdma_placer_free(struct rdma_channel *c);

void rdma_on_region(struct rdma_channel *c, const void *body, size_t length);
void rdma_on_shared(struct rdma_channel *c, const void *body, size_t length);
void rdma_on_keys(struct rdma_channel *c, const void *body, size_t length);

/* ---- offering; rdma_offer.c ---- */

bool rdma_offer_share(struct rdma_channel *c, const struct channel_sharing *sharing,
                      const struct wait *w, struct error **errp);
void rdma_offer_free(struct rdma_channel *c);

void rdma_on_share(struct rdma_channel *c, const void *body, size_t length);
void rdma_on_ask(struct rdma_channel *c, const void *body, size_t length);
/* Tells the keys that are due, when there is room for a message. */
void rdma_offer_answer(struct rdma_channel *c);

#endif
