/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The CPU that the guest was shown where it started.  It goes with the guest; a host that cannot
 * show each of its features refuses the guest, rather than have it fault later.  What a host can
 * show is asked of a vCPU that was given all that KVM supports: some KVMs cannot hide what the
 * processor has, and say so only there.
 */
#include "sections.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { EAX, EBX, ECX, EDX };

/* The words of CPUID in which a bit is a feature; `own` are bits that follow the guest's state. */
static const struct feature_word {
    uint32_t function;
    uint32_t index;
    unsigned reg;
    uint32_t own;
} feature_words[] = {
    {1, 0, ECX, 1u << 27},
    {1, 0, EDX, 1u << 9},
    {7, 0, EBX, 0},
    {7, 0, ECX, 1u << 4},
    {7, 0, EDX, 0},
    {7, 1, EAX, 0},
    {0xd, 0, EAX, 0},
    {0xd, 1, EAX, 0},
    {0x80000001u, 0, ECX, 0},
    {0x80000001u, 0, EDX, 0},
    {KVM_CPUID_FEATURES, 0, EAX, 0},
};

static uint32_t reg_of(const struct kvm_cpuid_entry2 *entry, unsigned reg)
{
    const uint32_t regs[] = {entry->eax, entry->ebx, entry->ecx, entry->edx};

    return regs[reg];
}

/* The word as this host has it; 0 when it knows no such leaf. */
static uint32_t word_here(const struct kvm_cpuid2 *shown, const struct feature_word *word)
{
    for (uint32_t i = 0; i < shown->nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &shown->entries[i];
        if (entry->function == word->function && entry->index == word->index) {
            return reg_of(entry, word->reg);
        }
    }
    return 0;
}

static bool entry_fits(const struct kvm_cpuid2 *shown, const struct kvm_cpuid_entry2 *entry,
                       struct fault *fault)
{
    static const char *const names[] = {"eax", "ebx", "ecx", "edx"};

    for (size_t i = 0; i < sizeof(feature_words) / sizeof(feature_words[0]); i++) {
        const struct feature_word *word = &feature_words[i];
        if (entry->function != word->function || entry->index != word->index) {
            continue;
        }
        uint32_t missing = reg_of(entry, word->reg) & ~word->own & ~word_here(shown, word);
        if (missing != 0) {
            fault_set(fault, 0, "this host's CPU lacks features of the guest's: 0x%x.%u %s 0x%x",
                      word->function, word->index, names[word->reg], missing);
            return false;
        }
    }
    return true;
}

/* What a vCPU shows its guest; NULL: it cannot be had. */
static struct kvm_cpuid2 *ask_vcpu(const struct vcpu *vcpu)
{
    struct kvm_cpuid2 *cpuid = machine_cpuid_alloc();

    if (cpuid != NULL && ioctl(vcpu->fd, KVM_GET_CPUID2, cpuid) != 0) {
        free(cpuid);
        return NULL;
    }
    return cpuid;
}

ssize_t cpuid_save(struct vmm *vmm, unsigned cpu, void *data)
{
    struct kvm_cpuid2 *cpuid = ask_vcpu(&vmm->vcpus.list[cpu]);

    if (cpuid == NULL) {
        return -EIO;
    }
    size_t length = cpuid->nent * sizeof(cpuid->entries[0]);
    memcpy(data, cpuid->entries, length);
    free(cpuid);
    return (ssize_t)length;
}

bool cpuid_valid(const struct vmm *vmm, const void *data, size_t length, struct fault *fault)
{
    bool fits = true;

    if (length % sizeof(struct kvm_cpuid_entry2) != 0) {
        fault_set(fault, 0, "the CPUID entries end in the middle of one");
        return false;
    }
    struct kvm_cpuid2 *shown = ask_vcpu(&vmm->vcpus.list[0]);
    if (shown == NULL) {
        fault_set(fault, 0, "KVM does not say what CPU it shows");
        return false;
    }
    for (size_t at = 0; at < length && fits; at += sizeof(struct kvm_cpuid_entry2)) {
        struct kvm_cpuid_entry2 entry;
        memcpy(&entry, (const uint8_t *)data + at, sizeof(entry));
        fits = entry_fits(shown, &entry, fault);
    }
    free(shown);
    return fits;
}

int cpuid_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length)
{
    struct kvm_cpuid2 *cpuid = machine_cpuid_alloc();

    if (cpuid == NULL) {
        return -ENOMEM;
    }
    cpuid->nent = (uint32_t)(length / sizeof(cpuid->entries[0]));
    memcpy(cpuid->entries, data, length);
    int rc = ioctl(vmm->vcpus.list[cpu].fd, KVM_SET_CPUID2, cpuid) == 0 ? 0 : -errno;
    free(cpuid);
    return rc;
}
