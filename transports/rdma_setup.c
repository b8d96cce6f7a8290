/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a connection is made of: queue pair, completion queue, and one arena of registered memory
 * for its messages, its stage and its zeroes.
 */
#include "transports/rdma_internal.h"

#include "common/clock.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ARENA_BYTES                                                                                \
    ((size_t)RDMA_BUFFER * (RDMA_RECVS + RDMA_SENDS) + RDMA_STAGE + (size_t)RDMA_ZEROES)

void rdma_hello_mine(struct rdma_hello *hello)
{
    *hello = (struct rdma_hello){.magic = htole64(RDMA_MAGIC),
                                 .version = htole32(RDMA_VERSION),
                                 .buffer = htole32(RDMA_BUFFER),
                                 .credits = htole32(RDMA_RECVS)};
}

static bool make_queues(struct rdma_channel *c, struct error **errp)
{
    c->pd = ibv_alloc_pd(c->id->verbs);
    c->completions = ibv_create_comp_channel(c->id->verbs);
    if (c->completions) {
        fcntl(c->completions->fd, F_SETFL, fcntl(c->completions->fd, F_GETFL) | O_NONBLOCK);
        c->cq = ibv_create_cq(c->id->verbs, RDMA_QUEUE + RDMA_RECVS, NULL, c->completions, 0);
    }
    struct ibv_qp_init_attr attr = {
        .send_cq = c->cq,
        .recv_cq = c->cq,
        .cap = {.max_send_wr = RDMA_QUEUE,
                .max_recv_wr = RDMA_RECVS,
                .max_send_sge = 1,
                .max_recv_sge = 1},
        .qp_type = IBV_QPT_RC,
    };
    if (!c->pd || !c->cq || rdma_create_qp(c->id, c->pd, &attr) != 0) {
        error_set(errp, "rdma-device", "%s: the RDMA device made no queues: %s", c->peer,
                  strerror(errno));
        return false;
    }
    return true;
}

/* Not copied into a child that exec: starts: the device writes to these very pages. */
static bool make_arena(struct rdma_channel *c, struct error **errp)
{
    void *arena =
        mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED) {
        error_set(errp, "no-memory", "No memory for the messages of %s", c->peer);
        return false;
    }
    c->arena = arena;
    madvise(arena, ARENA_BYTES, MADV_DONTFORK);
    c->arena_mr = ibv_reg_mr(c->pd, arena, ARENA_BYTES, IBV_ACCESS_LOCAL_WRITE);
    if (!c->arena_mr) {
        error_set(errp, "rdma-register",
                  "%s: the RDMA device can't register %zu bytes for messages: %s%s", c->peer,
                  ARENA_BYTES, strerror(errno),
                  errno == ENOMEM ? " (RLIMIT_MEMLOCK may be too low)" : "");
        return false;
    }
    return true;
}

struct rdma_channel *rdma_channel_new(struct rdma_cm_id *id, const char *peer, struct error **errp)
{
    struct rdma_channel *c = calloc(1, sizeof(*c));
    if (!c) {
        abort();
    }
    c->channel.ops = &rdma_channel_ops;
    c->channel.two_way = true;
    c->id = id;
    snprintf(c->peer, sizeof(c->peer), "%s", peer);
    if (!make_queues(c, errp) || !make_arena(c, errp)) {
        rdma_channel_free(c);
        return NULL;
    }
    for (unsigned i = 0; i < RDMA_RECVS; i++) {
        rdma_post_receive(c, i);
    }
    return c;
}

void rdma_channel_open(struct rdma_channel *c, const struct rdma_hello *peers)
{
    uint32_t buffer = le32toh(peers->buffer);
    c->events = c->id->channel;
    c->peer_buffer = buffer < RDMA_BUFFER ? buffer : RDMA_BUFFER;
    c->credits = c->credits_max = le32toh(peers->credits);
    c->confirmed_ns = c->heard_ns = clock_ns();
}

void rdma_channel_free(struct rdma_channel *c)
{
    rdma_placer_free(c);
    rdma_offer_free(c);
    if (c->id->qp) {
        rdma_destroy_qp(c->id);
    }
    if (c->arena_mr) {
        ibv_dereg_mr(c->arena_mr);
    }
    if (c->cq) {
        ibv_destroy_cq(c->cq);
    }
    if (c->completions) {
        ibv_destroy_comp_channel(c->completions);
    }
    if (c->pd) {
        ibv_dealloc_pd(c->pd);
    }
    if (c->arena) {
        munmap(c->arena, ARENA_BYTES);
    }
    error_free(c->refusal);
    free(c);
}
