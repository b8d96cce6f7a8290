/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The guest's clocks go on while the guest is on its way: its time stays right and a gap it
 * measures is the downtime it really had.  The hosts' clocks are taken to be synchronized
 * (CLOCK_REALTIME is what the saved state carries), as KVM_CLOCK_REALTIME asks as well.
 *
 * The TSC is set through each vCPU's offset from the host's where KVM gives access to it: a written
 * TSC value is subject to a guess of KVM's about what the writer meant, which is a second wide.
 */
#include "sections.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#define SECOND_NS 1000000000ull
#define DAY_NS    (86400ull * SECOND_NS)

static uint64_t realtime_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

/* Time since `then` of a source host; nothing when the hosts' clocks cannot both be right. */
static uint64_t passed_ns(uint64_t then)
{
    uint64_t now = realtime_ns();

    if (now < then || now - then > DAY_NS) {
        log_message(LOG_WARNING, "the source's clock differs: the guest's clocks have stood still");
        return 0;
    }
    return now - then;
}

/* A vCPU's TSC offset, out (KVM_GET_DEVICE_ATTR) or in (KVM_SET_DEVICE_ATTR); false: no access. */
static bool offset_access(const struct vcpu *vcpu, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attribute = {
        .group = KVM_VCPU_TSC_CTRL,
        .attr = KVM_VCPU_TSC_OFFSET,
        .addr = (uintptr_t)offset,
    };

    return ioctl(vcpu->fd, request, &attribute) == 0;
}

ssize_t tsc_save(struct vmm *vmm, unsigned cpu, void *data)
{
    const struct vcpu *first = &vmm->vcpus.list[0];
    struct tsc_state state = {0};
    uint64_t offset0 = 0;

    (void)cpu;
    int khz = ioctl(first->fd, KVM_GET_TSC_KHZ, 0);
    state.khz = khz > 0 ? (uint64_t)khz : 0;
    state.realtime_ns = realtime_ns();
    if (msr_read(first, MSR_TSC, &state.first) != 0) {
        return -EIO;
    }
    bool known = offset_access(first, KVM_GET_DEVICE_ATTR, &offset0);
    for (unsigned i = 1; i < vmm->vcpus.count && known; i++) {
        uint64_t offset = offset0;
        offset_access(&vmm->vcpus.list[i], KVM_GET_DEVICE_ATTR, &offset);
        state.ahead[i] = offset - offset0;
    }
    memcpy(data, &state, sizeof(state));
    return sizeof(state);
}

bool tsc_valid(const struct vmm *vmm, const void *data, size_t length, struct fault *fault)
{
    struct tsc_state state;

    (void)vmm;
    (void)length;
    memcpy(&state, data, sizeof(state));
    /* 100 GHz keeps the products below within 64 bits for a day. */
    if (state.khz == 0 || state.khz > 100000000) {
        fault_set(fault, 0, "the guest's TSC cannot run at %llu kHz",
                  (unsigned long long)state.khz);
        return false;
    }
    return true;
}

static int set_frequencies(struct vmm *vmm, uint64_t khz)
{
    for (unsigned i = 0; i < vmm->vcpus.count; i++) {
        const struct vcpu *vcpu = &vmm->vcpus.list[i];
        if (ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0) == (int)khz) {
            continue;
        }
        /* Without TSC scaling KVM takes only a frequency close to the host's own. */
        if (ioctl(vcpu->fd, KVM_SET_TSC_KHZ, (unsigned long)khz) != 0) {
            return -errno;
        }
    }
    return 0;
}

static uint64_t advanced(const struct tsc_state *state)
{
    uint64_t ns = passed_ns(state->realtime_ns);

    return state->first + ns / 1000000 * state->khz + ns % 1000000 * state->khz / 1000000;
}

/* Moves vCPU 0's TSC to where it belongs and the others' to where they stood beside it. */
static bool set_by_offset(struct vmm *vmm, const struct tsc_state *state)
{
    const struct vcpu *first = &vmm->vcpus.list[0];
    uint64_t now = 0;
    uint64_t offset = 0;

    if (!offset_access(first, KVM_GET_DEVICE_ATTR, &offset) ||
        msr_read(first, MSR_TSC, &now) != 0) {
        return false;
    }
    offset += advanced(state) - now;
    for (unsigned i = 0; i < vmm->vcpus.count; i++) {
        uint64_t own = offset + state->ahead[i];
        if (!offset_access(&vmm->vcpus.list[i], KVM_SET_DEVICE_ATTR, &own)) {
            return false;
        }
    }
    return true;
}

static int set_by_value(struct vmm *vmm, const struct tsc_state *state)
{
    int rc = 0;

    for (unsigned i = 0; i < vmm->vcpus.count && rc == 0; i++) {
        rc = msr_write(&vmm->vcpus.list[i], MSR_TSC, advanced(state) + state->ahead[i]);
    }
    return rc;
}

int tsc_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length)
{
    struct tsc_state state;

    (void)cpu;
    (void)length;
    memcpy(&state, data, sizeof(state));
    int rc = set_frequencies(vmm, state.khz);
    if (rc != 0) {
        return rc;
    }
    return set_by_offset(vmm, &state) ? 0 : set_by_value(vmm, &state);
}

ssize_t clock_save(struct vmm *vmm, unsigned cpu, void *data)
{
    struct kvm_clock_data clock = {0};

    (void)cpu;
    uint64_t before = realtime_ns();
    if (ioctl(vmm->machine.vm_fd, KVM_GET_CLOCK, &clock) != 0) {
        return -errno;
    }
    /* Where KVM can, it gives both clocks as of one instant. */
    struct clock_state state = {
        .realtime_ns = (clock.flags & KVM_CLOCK_REALTIME) != 0 ? clock.realtime : before,
        .guest_ns = clock.clock,
    };
    memcpy(data, &state, sizeof(state));
    return sizeof(state);
}

int clock_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length)
{
    struct clock_state state;
    struct kvm_clock_data clock = {0};

    (void)cpu;
    (void)length;
    memcpy(&state, data, sizeof(state));
    uint64_t passed = passed_ns(state.realtime_ns);
    if (vmm->machine.has_clock_realtime && passed > 0) {
        clock.flags = KVM_CLOCK_REALTIME;
        clock.realtime = state.realtime_ns;
        clock.clock = state.guest_ns;
    } else {
        clock.clock = state.guest_ns + passed;
    }
    return ioctl(vmm->machine.vm_fd, KVM_SET_CLOCK, &clock) == 0 ? 0 : -errno;
}
