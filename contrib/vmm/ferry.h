/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_FERRY_H
#define FERRY_VMM_FERRY_H

#include "vmm.h"

/* Tells libferry of the guest and starts it; the vCPUs have threads by now. */
int ferry_link_start(struct vmm *vmm, struct fault *fault);

/* Ends libferry's thread; no callback runs afterwards. */
void ferry_link_end(struct vmm *vmm);

#endif
