/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The gate that every vCPU passes before it enters KVM_RUN.  It is shut for reasons, which are kept
 * apart so that they do not undo one another: a throttle's pause that ends must not let a guest run
 * that a migration has stopped.  A vCPU comes here only after KVM_RUN returned EINTR, and KVM gives
 * EINTR only after it has finished a pending port or MMIO access; so a parked vCPU's state is
 * whole.
 */
#include "gate.h"

void gate_init(struct gate *gate, unsigned reasons, void (*kick)(void *opaque), void *opaque)
{
    *gate = (struct gate){.reasons = reasons, .kick = kick, .opaque = opaque};
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->opened, NULL);
    pthread_cond_init(&gate->arrived, NULL);
}

void gate_destroy(struct gate *gate)
{
    pthread_cond_destroy(&gate->arrived);
    pthread_cond_destroy(&gate->opened);
    pthread_mutex_destroy(&gate->lock);
}

static void close_locked(struct gate *gate, enum gate_reason reason)
{
    bool was_open = gate->reasons == 0;

    gate->reasons |= reason;
    if (reason == GATE_ENDING) {
        pthread_cond_broadcast(&gate->opened);
    }
    if (was_open || reason == GATE_ENDING) {
        gate->kick(gate->opaque);
    }
}

void gate_close(struct gate *gate, enum gate_reason reason)
{
    pthread_mutex_lock(&gate->lock);
    close_locked(gate, reason);
    pthread_mutex_unlock(&gate->lock);
}

void gate_close_wait(struct gate *gate, enum gate_reason reason)
{
    pthread_mutex_lock(&gate->lock);
    close_locked(gate, reason);
    while (gate->parked < gate->vcpus) {
        pthread_cond_wait(&gate->arrived, &gate->lock);
    }
    pthread_mutex_unlock(&gate->lock);
}

void gate_open(struct gate *gate, unsigned reasons)
{
    pthread_mutex_lock(&gate->lock);
    gate->reasons &= ~reasons;
    if (gate->reasons == 0) {
        pthread_cond_broadcast(&gate->opened);
    }
    pthread_mutex_unlock(&gate->lock);
}

unsigned gate_reasons(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    unsigned reasons = gate->reasons;
    pthread_mutex_unlock(&gate->lock);
    return reasons;
}

bool gate_pass(struct gate *gate, void (*ready)(void *opaque), void *opaque)
{
    pthread_mutex_lock(&gate->lock);
    gate->parked++;
    pthread_cond_broadcast(&gate->arrived);
    while (gate->reasons != 0 && (gate->reasons & GATE_ENDING) == 0) {
        pthread_cond_wait(&gate->opened, &gate->lock);
    }
    bool run = gate->reasons == 0;
    if (run) {
        gate->parked--;
        ready(opaque);
    }
    pthread_mutex_unlock(&gate->lock);
    return run;
}

void gate_leave(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->parked++;
    pthread_cond_broadcast(&gate->arrived);
    pthread_mutex_unlock(&gate->lock);
}
