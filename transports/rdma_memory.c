/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Registering guest memory with the device: what is registered is pinned, for as long as the
 * registration lasts, and counts against RLIMIT_MEMLOCK.
 */
#include "transports/rdma_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool map_region(struct rdma_region *mine, const struct channel_region *given,
                       struct error **errp)
{
    void *map = mmap(NULL, given->length, PROT_READ | PROT_WRITE, MAP_SHARED, given->fd,
                     (off_t)given->offset);
    if (map == MAP_FAILED) {
        error_set(errp, "rdma-register", "RAM block '%s' can't be mapped for RDMA: %s", given->name,
                  strerror(errno));
        return false;
    }
    madvise(map, given->length, MADV_DONTFORK); /* both as in ram/block.c */
    madvise(map, given->length, MADV_DONTDUMP);
    *mine = (struct rdma_region){
        .fd = given->fd, .offset = given->offset, .length = given->length, .map = map};
    snprintf(mine->name, sizeof(mine->name), "%s", given->name);
    return true;
}

bool rdma_regions_map(struct rdma_regions *r, const struct channel_sharing *sharing,
                      struct error **errp)
{
    r->list = calloc(sharing->count, sizeof(*r->list));
    if (!r->list) {
        abort();
    }
    for (; r->count < sharing->count; r->count++) {
        if (!map_region(&r->list[r->count], &sharing->regions[r->count], errp)) {
            return false;
        }
    }
    return true;
}

void rdma_regions_unmap(struct rdma_regions *r)
{
    for (unsigned i = 0; i < r->count; i++) {
        munmap(r->list[i].map, r->list[i].length);
    }
    free(r->list);
    *r = (struct rdma_regions){0};
}

/* ---- RLIMIT_MEMLOCK ---- */

/* The limit does not hold who has CAP_IPC_LOCK. */
static bool may_lock_anything(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
    return syscall(SYS_capget, &head, data) == 0 && (data[0].effective & (1u << CAP_IPC_LOCK)) != 0;
}

static rlim_t memlock_limit(void)
{
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    return limit.rlim_cur;
}

bool rdma_check_memlock(const struct channel_sharing *sharing, struct error **errp)
{
    rlim_t limit = memlock_limit();
    uint64_t bytes = 0;
    for (unsigned i = 0; i < sharing->count; i++) {
        bytes += sharing->regions[i].length;
    }
    if (bytes <= limit || may_lock_anything()) {
        return true;
    }
    error_set(errp, "memlock-limit",
              "rdma-pin-all pins all of RAM, %" PRIu64 " bytes, and RLIMIT_MEMLOCK allows ferryd "
              "%" PRIu64 ": raise the limit, or turn rdma-pin-all off",
              bytes, (uint64_t)limit);
    return false;
}

/* ---- registrations ---- */

static void set_failed(const struct rdma_regions *r, const struct rdma_region *region,
                       uint64_t length, int why, struct error **errp)
{
    rlim_t limit = memlock_limit();
    if (why == ENOMEM && limit != RLIM_INFINITY && !may_lock_anything()) {
        error_set(errp, "memlock-limit",
                  "RAM block '%s': %" PRIu64 " bytes can't be pinned besides %" PRIu64
                  " that are: RLIMIT_MEMLOCK allows ferryd %" PRIu64,
                  region->name, length, r->registered, (uint64_t)limit);
        return;
    }
    error_set(errp, "rdma-register",
              "RAM block '%s': the RDMA device can't register %" PRIu64 " bytes: %s", region->name,
              length, strerror(why));
}

struct ibv_mr *rdma_register(struct rdma_channel *c, struct rdma_regions *r, unsigned region,
                             uint64_t offset, uint64_t length, int access, struct error **errp)
{
    struct rdma_region *of = &r->list[region];
    struct ibv_mr *mr = ibv_reg_mr(c->pd, of->map + offset, length, access);
    if (!mr) {
        set_failed(r, of, length, errno, errp);
        return NULL;
    }
    r->registered += length;
    return mr;
}

void rdma_deregister(struct rdma_regions *r, struct ibv_mr *mr)
{
    r->registered -= mr->length;
    ibv_dereg_mr(mr);
}
