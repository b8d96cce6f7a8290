/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * KVM's dirty log, from inside the VMM (Linux Documentation/virt/kvm/api.rst: KVM_GET_DIRTY_LOG,
 * KVM_CLEAR_DIRTY_LOG, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2).  Functions return 0 or -errno.
 */
#ifndef FERRY_GUEST_KVMLOG_H
#define FERRY_GUEST_KVMLOG_H

#include <stdbool.h>
#include <stdint.h>

/* A memory slot as the VMM registered it. */
struct kvmlog_slot {
    uint32_t slot;
    uint32_t flags; /* without KVM_MEM_LOG_DIRTY_PAGES */
    uint64_t gpa;
    uint64_t length;
    uint64_t hva;
};

/*
 * Turns manual protection on where KVM has it, with all pages initially set where it has that too.
 * False: KVM_GET_DIRTY_LOG clears by itself.
 */
bool kvmlog_enable_manual_protect(int vm_fd);

int kvmlog_set(int vm_fd, const struct kvmlog_slot *slot, bool logging);

/* Fills `bitmap`, one bit per page of the slot, rounded up to 64 bits. */
int kvmlog_get(int vm_fd, const struct kvmlog_slot *slot, uint64_t *bitmap);

/*
 * Clears and write-protects the pages of [first, first + count) that are set in `bitmap`, which is
 * the whole slot's.  first is a multiple of 64; count too, unless it reaches the slot's end.
 */
int kvmlog_clear(int vm_fd, const struct kvmlog_slot *slot, uint64_t *bitmap, uint64_t first,
                 uint64_t count);

#endif
