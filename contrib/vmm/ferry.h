/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_FERRY_H
#define FERRY_VMM_FERRY_H

#include "vmm.h"

/* Tells libferry of the guest; from then on devices can tell it what they write. */
int ferry_link_create(struct vmm *vmm, struct fault *fault);

/* Starts it; the vCPUs have threads by now. */
int ferry_link_start(struct vmm *vmm, struct fault *fault);

/* Ends libferry's thread; no callback runs afterwards, and no vCPU before. */
void ferry_link_end(struct vmm *vmm);

#endif
