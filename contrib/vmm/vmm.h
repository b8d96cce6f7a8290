/* SPDX-License-Identifier: BSD-3-Clause */
/* The whole of one ferry-vmm process. */
#ifndef FERRY_VMM_VMM_H
#define FERRY_VMM_VMM_H

#include "console.h"
#include "kvm.h"
#include "memory.h"
#include "options.h"
#include "ports.h"
#include "throttle.h"
#include "vcpu.h"

#include <libferry.h>
#include <stdatomic.h>

/* Why the process is to end; the first reason counts. */
enum vmm_end { END_NOT_YET, END_GUEST_DONE, END_GUEST_BROKEN, END_RELEASED, END_TOLD };

struct vmm {
    struct options options;
    struct machine machine;
    struct memory memory;
    struct console console;
    struct ports ports;
    struct vcpus vcpus;
    struct throttle throttle;
    struct ferry *ferry;
    int end_fd; /* an eventfd that wakes the main thread up */
    _Atomic int end;
};

/* Makes the main thread end the process; from any thread. */
void vmm_end(struct vmm *vmm, enum vmm_end reason);

#endif
