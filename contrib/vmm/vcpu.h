/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_VCPU_H
#define FERRY_VMM_VCPU_H

#include "gate.h"
#include "guest_abi.h"
#include "kvm.h"
#include "ports.h"

struct vcpu {
    struct vcpus *all;
    unsigned index;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
};

struct vcpus {
    struct vcpu list[GUEST_CPUS_MAX];
    unsigned count;   /* made */
    unsigned started; /* with a thread */
    struct gate gate;
    struct ports *ports;
    size_t run_size;
    /* Called once or more, on a vCPU's thread: the guest is done (0) or broken (1). */
    void (*ended)(void *opaque, int exit_code);
    void *opaque;
};

/* Makes the vCPUs, with CPUID and the registers a guest starts with; none runs. */
int vcpus_create(struct vcpus *vcpus, const struct machine *machine, unsigned count,
                 struct fault *fault);

/* Starts the threads, which wait at the gate as long as it is closed for `reasons`. */
int vcpus_start(struct vcpus *vcpus, unsigned reasons, struct fault *fault);

/* Ends the threads, whatever the vCPUs are at; again is allowed. */
void vcpus_end(struct vcpus *vcpus);

/* The same, and frees the vCPUs. */
void vcpus_free(struct vcpus *vcpus);

#endif
