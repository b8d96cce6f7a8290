/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The parts that a saved state consists of.  The table in sections.c is in the order in which they
 * are loaded, which KVM minds.
 */
#ifndef FERRY_VMM_SECTIONS_H
#define FERRY_VMM_SECTIONS_H

#include "vmm.h"

#include <sys/types.h>

enum section_scope { PER_VM, PER_CPU };

struct section_kind {
    uint32_t id; /* never reused for another content */
    const char *name;
    enum section_scope scope;
    size_t least; /* length in bytes; `least` is 0 for what has one length only */
    size_t most;
    /* For what KVM gives and takes as one plain struct; `save` and `load` are NULL then. */
    unsigned long get;
    unsigned long set;
    bool (*present)(const struct vmm *vmm); /* NULL: always */
    /* Fills `data` (`most` bytes of zeros) and gives its length, or a negative errno. */
    ssize_t (*save)(struct vmm *vmm, unsigned cpu, void *data);
    /* Looks at hostile data of a length within bounds, and changes nothing.  NULL: KVM checks. */
    bool (*valid)(const struct vmm *vmm, const void *data, size_t length, struct fault *fault);
    int (*load)(struct vmm *vmm, unsigned cpu, const void *data, size_t length);
};

#define SECTION_KINDS_MAX 32

extern const struct section_kind section_kinds[];
extern const unsigned section_kinds_count;

/* Whether this VM's state has such a part. */
bool section_present(const struct section_kind *kind, const struct vmm *vmm);
ssize_t section_save(const struct section_kind *kind, struct vmm *vmm, unsigned cpu, void *data);
int section_load(const struct section_kind *kind, struct vmm *vmm, unsigned cpu, const void *data,
                 size_t length);

/* The larger parts, in files of their own. */
#define MSRS_MAX_BYTES  (4096 * sizeof(struct msr_value))
#define CPUID_MAX_BYTES (KVM_CPUID_MAX * sizeof(struct kvm_cpuid_entry2))

struct msr_value {
    uint32_t index;
    uint32_t reserved;
    uint64_t value;
};

ssize_t msrs_save(struct vmm *vmm, unsigned cpu, void *data);
bool msrs_valid(const struct vmm *vmm, const void *data, size_t length, struct fault *fault);
int msrs_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length);
ssize_t deadline_save(struct vmm *vmm, unsigned cpu, void *data);
int deadline_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length);

ssize_t cpuid_save(struct vmm *vmm, unsigned cpu, void *data);
bool cpuid_valid(const struct vmm *vmm, const void *data, size_t length, struct fault *fault);
int cpuid_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length);

/* One MSR; 0 or -EIO. */
int msr_read(const struct vcpu *vcpu, uint32_t index, uint64_t *value);
int msr_write(const struct vcpu *vcpu, uint32_t index, uint64_t value);

#define MSR_TSC          0x10
#define MSR_TSC_DEADLINE 0x6e0

/* The guest's two clocks (clocks.c). */
struct tsc_state {
    uint64_t realtime_ns; /* when the others were read */
    uint64_t khz;
    uint64_t first;                 /* vCPU 0's TSC */
    uint64_t ahead[GUEST_CPUS_MAX]; /* of vCPU 0, by its offset from the host's TSC */
};

struct clock_state {
    uint64_t realtime_ns;
    uint64_t guest_ns;
};

ssize_t tsc_save(struct vmm *vmm, unsigned cpu, void *data);
bool tsc_valid(const struct vmm *vmm, const void *data, size_t length, struct fault *fault);
int tsc_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length);
ssize_t clock_save(struct vmm *vmm, unsigned cpu, void *data);
int clock_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length);

#endif
