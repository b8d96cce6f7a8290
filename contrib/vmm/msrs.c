/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Model-specific registers and CPUID.  KVM lists the MSRs that make up a vCPU's state, but not each
 * can be read on each host, and a batch ends at the first that is refused; so what is refused is
 * passed over and the batch goes on behind it.  The TSC and its deadline are left out here: they
 * change while one looks at them and have sections of their own.
 */
#include "sections.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* A batch as the ioctl takes it. */
static struct kvm_msrs *batch_alloc(size_t count)
{
    return calloc(1, sizeof(struct kvm_msrs) + count * sizeof(struct kvm_msr_entry));
}

static int one_msr(const struct vcpu *vcpu, unsigned long request, uint32_t index, uint64_t *value)
{
    struct kvm_msrs *batch = batch_alloc(1);

    if (batch == NULL) {
        return -ENOMEM;
    }
    batch->nmsrs = 1;
    batch->entries[0] = (struct kvm_msr_entry){.index = index, .data = *value};
    int rc = ioctl(vcpu->fd, request, batch) == 1 ? 0 : -EIO;
    *value = batch->entries[0].data;
    free(batch);
    return rc;
}

int msr_read(const struct vcpu *vcpu, uint32_t index, uint64_t *value)
{
    *value = 0;
    return one_msr(vcpu, KVM_GET_MSRS, index, value);
}

int msr_write(const struct vcpu *vcpu, uint32_t index, uint64_t value)
{
    return one_msr(vcpu, KVM_SET_MSRS, index, &value);
}

/*
 * Runs `request` over `all`, in as few batches as the refused ones allow, and moves those that were
 * done to its front.  Returns how many; `refused` is told of each other one.
 */
static ssize_t run_batches(const struct vcpu *vcpu, unsigned long request,
                           struct kvm_msr_entry *all, uint32_t count,
                           void (*refused)(const struct vcpu *vcpu,
                                           const struct kvm_msr_entry *entry))
{
    struct kvm_msrs *batch = batch_alloc(count);
    uint32_t done = 0;

    if (batch == NULL) {
        return -ENOMEM;
    }
    for (uint32_t at = 0; at < count;) {
        batch->nmsrs = count - at;
        memcpy(batch->entries, all + at, batch->nmsrs * sizeof(*all));
        int took = ioctl(vcpu->fd, request, batch);
        if (took < 0 || (uint32_t)took > batch->nmsrs) {
            free(batch);
            return -EIO;
        }
        memcpy(all + done, batch->entries, (uint32_t)took * sizeof(*all));
        done += (uint32_t)took;
        at += (uint32_t)took;
        if (at < count) {
            refused(vcpu, &all[at]);
            at++;
        }
    }
    free(batch);
    return done;
}

static void refused_read(const struct vcpu *vcpu, const struct kvm_msr_entry *entry)
{
    log_message(LOG_DEBUG, "vCPU %u: MSR 0x%x cannot be read", vcpu->index, entry->index);
}

/* An MSR that is zero at the source and unknown here is not missed. */
static void refused_write(const struct vcpu *vcpu, const struct kvm_msr_entry *entry)
{
    log_message(entry->data == 0 ? LOG_DEBUG : LOG_WARNING,
                "vCPU %u: MSR 0x%x is not taken by this host", vcpu->index, entry->index);
}

static bool has_own_section(uint32_t index)
{
    return index == MSR_TSC || index == MSR_TSC_DEADLINE;
}

ssize_t msrs_save(struct vmm *vmm, unsigned cpu, void *data)
{
    const struct kvm_msr_list *list = vmm->machine.msrs;
    struct kvm_msr_entry *entries = calloc(list->nmsrs + 1, sizeof(*entries));
    uint32_t count = 0;

    if (entries == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < list->nmsrs; i++) {
        if (!has_own_section(list->indices[i])) {
            entries[count++].index = list->indices[i];
        }
    }
    ssize_t done = run_batches(&vmm->vcpus.list[cpu], KVM_GET_MSRS, entries, count, refused_read);
    for (ssize_t i = 0; i < done; i++) {
        struct msr_value value = {.index = entries[i].index, .value = entries[i].data};
        memcpy((uint8_t *)data + (size_t)i * sizeof(value), &value, sizeof(value));
    }
    free(entries);
    return done < 0 ? done : done * (ssize_t)sizeof(struct msr_value);
}

bool msrs_valid(const struct vmm *vmm, const void *data, size_t length, struct fault *fault)
{
    (void)vmm;
    if (length % sizeof(struct msr_value) != 0) {
        fault_set(fault, 0, "the list of MSRs ends in the middle of one");
        return false;
    }
    for (size_t at = 0; at < length; at += sizeof(struct msr_value)) {
        struct msr_value value;
        memcpy(&value, (const uint8_t *)data + at, sizeof(value));
        if (has_own_section(value.index)) {
            fault_set(fault, 0, "MSR 0x%x has no place in the list", value.index);
            return false;
        }
    }
    return true;
}

int msrs_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length)
{
    uint32_t count = (uint32_t)(length / sizeof(struct msr_value));
    struct kvm_msr_entry *entries = calloc(count + 1, sizeof(*entries));

    if (entries == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct msr_value value;
        memcpy(&value, (const uint8_t *)data + i * sizeof(value), sizeof(value));
        entries[i] = (struct kvm_msr_entry){.index = value.index, .data = value.value};
    }
    ssize_t done = run_batches(&vmm->vcpus.list[cpu], KVM_SET_MSRS, entries, count, refused_write);
    free(entries);
    return done < 0 ? (int)done : 0;
}

ssize_t deadline_save(struct vmm *vmm, unsigned cpu, void *data)
{
    uint64_t value = 0;

    /* A host whose guests have no such timer refuses; nothing is armed then. */
    if (msr_read(&vmm->vcpus.list[cpu], MSR_TSC_DEADLINE, &value) != 0) {
        value = 0;
    }
    memcpy(data, &value, sizeof(value));
    return sizeof(value);
}

int deadline_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length)
{
    uint64_t value = 0;

    (void)length;
    memcpy(&value, data, sizeof(value));
    return value == 0 ? 0 : msr_write(&vmm->vcpus.list[cpu], MSR_TSC_DEADLINE, value);
}
