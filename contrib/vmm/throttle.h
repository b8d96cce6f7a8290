/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_THROTTLE_H
#define FERRY_VMM_THROTTLE_H

#include "gate.h"

struct throttle {
    struct gate *gate;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned percent;
    bool started;
    bool ending;
};

int throttle_start(struct throttle *throttle, struct gate *gate);
void throttle_end(struct throttle *throttle);

/* Keeps the vCPUs out of KVM_RUN for `percent` (0 to 99) of each period, from now on. */
void throttle_set(struct throttle *throttle, unsigned percent);

#endif
