/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_STATE_H
#define FERRY_VMM_STATE_H

#include "vmm.h"

/* Writes the state of all devices and vCPUs, which are parked, to fd. */
int state_save(struct vmm *vmm, int fd, struct fault *fault);

/*
 * Reads it back.  Everything is checked before the VM is touched; when KVM refuses a part of it
 * nevertheless, the vCPUs have not run and another load writes all of it anew.
 */
int state_load(struct vmm *vmm, int fd, struct fault *fault);

/* Tells the guest's clock that a pause was none of the guest's doing. */
void state_tell_resumed(struct vmm *vmm);

#endif
