/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/kvmlog.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

bool kvmlog_enable_manual_protect(int vm_fd)
{
    int have = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    if (have <= 0) {
        return false;
    }
    struct kvm_enable_cap cap = {
        .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        .args[0] =
            (uint64_t)have & (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET),
    };
    return ioctl(vm_fd, KVM_ENABLE_CAP, &cap) == 0;
}

int kvmlog_set(int vm_fd, const struct kvmlog_slot *slot, bool logging)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot->slot,
        .flags = slot->flags | (logging ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = slot->gpa,
        .memory_size = slot->length,
        .userspace_addr = slot->hva,
    };
    return ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

int kvmlog_get(int vm_fd, const struct kvmlog_slot *slot, uint64_t *bitmap)
{
    struct kvm_dirty_log log = {.slot = slot->slot, .dirty_bitmap = bitmap};
    return ioctl(vm_fd, KVM_GET_DIRTY_LOG, &log) < 0 ? -errno : 0;
}

int kvmlog_clear(int vm_fd, const struct kvmlog_slot *slot, uint64_t *bitmap, uint64_t first,
                 uint64_t count)
{
    struct kvm_clear_dirty_log clear = {
        .slot = slot->slot,
        .first_page = first,
        .num_pages = (uint32_t)count,
        .dirty_bitmap = bitmap + first / 64,
    };
    return ioctl(vm_fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0 ? -errno : 0;
}
