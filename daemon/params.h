/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest's migration parameters and capabilities.  The main thread sets them, the guest's job
 * reads parameters as it runs: each is one atomic word and takes effect by itself.
 */
#ifndef FERRY_DAEMON_PARAMS_H
#define FERRY_DAEMON_PARAMS_H

#include "guest/guest.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum param {
    PARAM_MAX_BANDWIDTH,              /* bytes/s; 0: unlimited */
    PARAM_DOWNTIME_LIMIT,             /* ms */
    PARAM_XBZRLE_CACHE_SIZE,          /* bytes */
    PARAM_AVAIL_SWITCHOVER_BANDWIDTH, /* bytes/s; 0: as measured */
    PARAM_THROTTLE_TRIGGER_THRESHOLD, /* percent of the pages sent that may be written anew */
    PARAM_CPU_THROTTLE_INITIAL,       /* percent of the time */
    PARAM_CPU_THROTTLE_INCREMENT,
    PARAM_MAX_CPU_THROTTLE,
    PARAM_GUEST_TIMEOUT,    /* ms that a VMM may take to answer */
    PARAM_PEER_TIMEOUT,     /* ms that a peer may be silent */
    PARAM_ANNOUNCE_INITIAL, /* ms; these four: struct guest_announce */
    PARAM_ANNOUNCE_MAX,     /* ms */
    PARAM_ANNOUNCE_ROUNDS,
    PARAM_ANNOUNCE_STEP,   /* ms */
    PARAM_RDMA_CHUNK_SIZE, /* bytes registered together, a power of two */
    PARAM_COUNT,
};

struct param_info {
    const char *name;
    uint64_t initial, min, max;
};

extern const struct param_info param_infos[PARAM_COUNT];

/* Shared by a guest's entry and its jobs, some of which may outlive it. */
struct params {
    _Atomic int refs;
    _Atomic uint64_t values[PARAM_COUNT];
};

struct params *params_new(void); /* with the initial values */
struct params *params_ref(struct params *params);
void params_unref(struct params *params);

static inline uint64_t param_get(const struct params *params, enum param param)
{
    return atomic_load_explicit(&params->values[param], memory_order_relaxed);
}

static inline void param_set(struct params *params, enum param param, uint64_t value)
{
    atomic_store_explicit(&params->values[param], value, memory_order_relaxed);
}

/* How a guest that has arrived is announced. */
struct guest_announce params_announce(const struct params *params);

enum capability {
    CAPABILITY_AUTO_CONVERGE,
    CAPABILITY_PAUSE_BEFORE_SWITCHOVER,
    CAPABILITY_VERIFY,
    CAPABILITY_RDMA_PIN_ALL,
    CAPABILITY_XBZRLE,
    CAPABILITY_ZERO_BLOCKS,
    CAPABILITY_COUNT,
};

struct capability_info {
    const char *name;
    bool must_match; /* the peer has to know it */
};

extern const struct capability_info capability_infos[CAPABILITY_COUNT];

/* CAPABILITY_COUNT when there is none of that name. */
enum capability capability_from_name(const char *name);

#endif
