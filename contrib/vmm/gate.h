/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_GATE_H
#define FERRY_VMM_GATE_H

#include <pthread.h>
#include <stdbool.h>

/* Why vCPUs are kept out of KVM_RUN; any one of them is enough. */
enum gate_reason {
    GATE_STOPPED = 1 << 0,   /* by a migration, or not yet arrived by one */
    GATE_PAUSED = 1 << 1,    /* by the operator */
    GATE_THROTTLED = 1 << 2, /* for a part of each period */
    GATE_EXAMINED = 1 << 3,  /* for a look at the vCPUs' registers */
    GATE_SUSPENDED = 1 << 4, /* by the guest itself, until it is woken */
    GATE_ENDING = 1 << 5,    /* for good */
};

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    pthread_cond_t arrived;
    unsigned reasons;
    unsigned parked;
    unsigned vcpus;
    void (*kick)(void *opaque); /* makes every vCPU come to the gate soon */
    void *opaque;
};

void gate_init(struct gate *gate, unsigned reasons, void (*kick)(void *opaque), void *opaque);
void gate_destroy(struct gate *gate);

/* Closes the gate for `reason`; gate_close_wait returns when every vCPU stands before it. */
void gate_close(struct gate *gate, enum gate_reason reason);
void gate_close_wait(struct gate *gate, enum gate_reason reason);
void gate_open(struct gate *gate, unsigned reasons);
unsigned gate_reasons(struct gate *gate);

/*
 * A vCPU's side.  gate_pass waits until the gate is open and then calls `ready` under the gate's
 * lock; false: the vCPU's thread is to end.  gate_leave: this vCPU will never run again.
 */
bool gate_pass(struct gate *gate, void (*ready)(void *opaque), void *opaque);
void gate_leave(struct gate *gate);

#endif
