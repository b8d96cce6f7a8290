/* SPDX-License-Identifier: BSD-3-Clause */
/* The helper of vcpus.c. */
#ifndef FERRY_GUEST_VCPUS_HOLDER_H
#define FERRY_GUEST_VCPUS_HOLDER_H

#include "guest/vcpus.h"

#include <stdint.h>

struct vcpus_plan {
    pid_t pid;
    unsigned count;
    pid_t tids[VCPUS_MAX];
};

/* The one message to the helper. */
struct vcpus_order {
    uint32_t percent;
};

/* A helper_main; `plan` is a struct vcpus_plan. */
void vcpus_main(int sock, const void *plan);

#endif
