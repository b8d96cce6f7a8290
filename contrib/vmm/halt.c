/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest that ends by halting with interrupts off: with the in-kernel irqchip KVM waits inside
 * KVM_RUN and tells nobody.  Asking the vCPUs means taking them out of KVM_RUN, so that is done
 * only when none of their threads has used any processor time since the last look, which costs a
 * running guest nothing.
 */
#include "halt.h"

#include <sys/ioctl.h>
#include <time.h>

#define RFLAGS_IF (1u << 9)

static uint64_t used_ns(const struct vcpu *vcpu)
{
    clockid_t clock;
    struct timespec used = {0};

    if (pthread_getcpuclockid(vcpu->thread, &clock) == 0) {
        clock_gettime(clock, &used);
    }
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

static bool all_asleep(struct halt_watch *watch, const struct vcpus *vcpus)
{
    bool asleep = true;

    for (unsigned i = 0; i < vcpus->started; i++) {
        uint64_t now = used_ns(&vcpus->list[i]);
        asleep = asleep && now == watch->used_ns[i];
        watch->used_ns[i] = now;
    }
    return asleep;
}

static bool is_dead(const struct vcpu *vcpu)
{
    struct kvm_mp_state state = {0};
    struct kvm_regs regs = {0};

    return ioctl(vcpu->fd, KVM_GET_MP_STATE, &state) == 0 &&
           ioctl(vcpu->fd, KVM_GET_REGS, &regs) == 0 && state.mp_state == KVM_MP_STATE_HALTED &&
           (regs.rflags & RFLAGS_IF) == 0;
}

bool halt_watch_look(struct halt_watch *watch, struct vcpus *vcpus)
{
    bool dead = true;

    if (!all_asleep(watch, vcpus) || gate_reasons(&vcpus->gate) != 0) {
        return false;
    }
    gate_close_wait(&vcpus->gate, GATE_EXAMINED);
    for (unsigned i = 0; i < vcpus->count; i++) {
        dead = dead && is_dead(&vcpus->list[i]);
    }
    gate_open(&vcpus->gate, GATE_EXAMINED);
    return dead;
}
