/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_KVM_H
#define FERRY_VMM_KVM_H

#include "log.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVM_CPUID_MAX 256

/* The VM with its in-kernel chips, and what this host's KVM can do. */
struct machine {
    int kvm_fd;
    int vm_fd;
    size_t run_size;         /* of a vCPU's mapped struct kvm_run */
    size_t xsave_size;       /* of a vCPU's XSAVE area */
    bool has_xsave2;         /* KVM_GET_XSAVE2 is there */
    bool has_sregs2;         /* KVM_GET_SREGS2 is there */
    bool has_clock_realtime; /* KVM_SET_CLOCK advances the clock by the real time that passed */
    struct kvm_cpuid2 *supported; /* what a guest may be shown here */
    struct kvm_msr_list *msrs;    /* what must be saved */
};

/* -ENODEV: there is no usable KVM here; other codes are failures. */
int machine_create(struct machine *machine, struct fault *fault);
void machine_free(struct machine *machine);

/* The CPUID entries that vCPU `index` is shown; `to` has room for KVM_CPUID_MAX. */
void machine_cpuid(const struct machine *machine, unsigned index, struct kvm_cpuid2 *to);

struct kvm_cpuid2 *machine_cpuid_alloc(void);

#endif
