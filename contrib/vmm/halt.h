/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_HALT_H
#define FERRY_VMM_HALT_H

#include "vcpu.h"

#define HALT_LOOK_MS 1000

/* What the vCPU threads had used of their processors at the last look. */
struct halt_watch {
    uint64_t used_ns[GUEST_CPUS_MAX];
};

/* To be called every HALT_LOOK_MS; true: every vCPU is halted with interrupts off, for good. */
bool halt_watch_look(struct halt_watch *watch, struct vcpus *vcpus);

#endif
