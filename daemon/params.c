/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/params.h"

#include <stdlib.h>
#include <string.h>

const struct param_info param_infos[PARAM_COUNT] = {
    [PARAM_MAX_BANDWIDTH] = {"max-bandwidth", 0, 0, INT64_MAX},
    [PARAM_DOWNTIME_LIMIT] = {"downtime-limit", 300, 0, 2000000},
    [PARAM_XBZRLE_CACHE_SIZE] = {"xbzrle-cache-size", 64 << 20, 4096, INT64_MAX},
    [PARAM_AVAIL_SWITCHOVER_BANDWIDTH] = {"avail-switchover-bandwidth", 0, 0, INT64_MAX},
    [PARAM_THROTTLE_TRIGGER_THRESHOLD] = {"throttle-trigger-threshold", 50, 1, 100},
    [PARAM_CPU_THROTTLE_INITIAL] = {"cpu-throttle-initial", 20, 1, 99},
    [PARAM_CPU_THROTTLE_INCREMENT] = {"cpu-throttle-increment", 10, 1, 99},
    [PARAM_MAX_CPU_THROTTLE] = {"max-cpu-throttle", 99, 1, 99},
    [PARAM_GUEST_TIMEOUT] = {"guest-timeout", 30000, 1, 3600000},
    [PARAM_PEER_TIMEOUT] = {"peer-timeout", 30000, 1, 3600000},
    [PARAM_ANNOUNCE_INITIAL] = {"announce-initial", GUEST_ANNOUNCE_INITIAL, 0, 100000},
    [PARAM_ANNOUNCE_MAX] = {"announce-max", GUEST_ANNOUNCE_MAX, 0, 100000},
    [PARAM_ANNOUNCE_ROUNDS] = {"announce-rounds", GUEST_ANNOUNCE_ROUNDS, 0, 1000},
    [PARAM_ANNOUNCE_STEP] = {"announce-step", GUEST_ANNOUNCE_STEP, 1, 10000},
    [PARAM_RDMA_CHUNK_SIZE] = {"rdma-chunk-size", 1 << 20, 64 << 10, 16 << 20},
};

const struct capability_info capability_infos[CAPABILITY_COUNT] = {
    [CAPABILITY_AUTO_CONVERGE] = {"auto-converge", false},
    [CAPABILITY_PAUSE_BEFORE_SWITCHOVER] = {"pause-before-switchover", false},
    [CAPABILITY_VERIFY] = {"verify", true},
    [CAPABILITY_RDMA_PIN_ALL] = {"rdma-pin-all", true},
    [CAPABILITY_XBZRLE] = {"xbzrle", true},
    [CAPABILITY_ZERO_BLOCKS] = {"zero-blocks", true},
};

struct params *params_new(void)
{
    struct params *params = calloc(1, sizeof(*params));
    if (!params) {
        abort();
    }
    params->refs = 1;
    for (int i = 0; i < PARAM_COUNT; i++) {
        param_set(params, (enum param)i, param_infos[i].initial);
    }
    return params;
}

struct params *params_ref(struct params *params)
{
    atomic_fetch_add(&params->refs, 1);
    return params;
}

void params_unref(struct params *params)
{
    if (atomic_fetch_sub(&params->refs, 1) == 1) {
        free(params);
    }
}

struct guest_announce params_announce(const struct params *params)
{
    return (struct guest_announce){
        .initial = (uint32_t)param_get(params, PARAM_ANNOUNCE_INITIAL),
        .max = (uint32_t)param_get(params, PARAM_ANNOUNCE_MAX),
        .rounds = (uint32_t)param_get(params, PARAM_ANNOUNCE_ROUNDS),
        .step = (uint32_t)param_get(params, PARAM_ANNOUNCE_STEP),
    };
}

enum capability capability_from_name(const char *name)
{
    int i = 0;
    while (i < CAPABILITY_COUNT && strcmp(capability_infos[i].name, name) != 0) {
        i++;
    }
    return (enum capability)i;
}
