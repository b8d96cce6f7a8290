/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Both directions of every part of the state, a row each.  The order is KVM's: CPUID first, for it
 * decides what else may be set; control registers before the local APIC, whose base they hold; the
 * APIC before MSRs that aim at it; the TSC before its deadline; the chips and pending events last.
 */
#include "sections.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

/* What both ends must have been started with alike. */
struct layout {
    uint32_t cpus;
    uint32_t reserved;
    uint64_t ram_low;
    uint64_t ram_high;
};

static ssize_t layout_save(struct vmm *vmm, unsigned cpu, void *data)
{
    struct layout layout = {
        .cpus = vmm->vcpus.count,
        .ram_low = memory_low(&vmm->memory),
        .ram_high = memory_high(&vmm->memory),
    };

    (void)cpu;
    memcpy(data, &layout, sizeof(layout));
    return sizeof(layout);
}

static bool layout_valid(const struct vmm *vmm, const void *data, size_t length,
                         struct fault *fault)
{
    struct layout theirs;

    (void)length;
    memcpy(&theirs, data, sizeof(theirs));
    if (theirs.cpus != vmm->vcpus.count) {
        fault_set(fault, 0, "the guest has %u vCPUs, this VMM was started with %u", theirs.cpus,
                  vmm->vcpus.count);
        return false;
    }
    if (theirs.ram_low != memory_low(&vmm->memory) ||
        theirs.ram_high != memory_high(&vmm->memory)) {
        fault_set(fault, 0, "the guest has another --memory than this VMM was started with");
        return false;
    }
    return true;
}

static int layout_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length)
{
    (void)vmm;
    (void)cpu;
    (void)data;
    (void)length;
    return 0; /* there is only something to compare */
}

static bool has_sregs2(const struct vmm *vmm)
{
    return vmm->machine.has_sregs2;
}

static bool lacks_sregs2(const struct vmm *vmm)
{
    return !vmm->machine.has_sregs2;
}

/* An XSAVE area is as large as the host's register sets are; with AMX about 11 KiB. */
#define XSAVE_MAX 16384

static ssize_t xsave_save(struct vmm *vmm, unsigned cpu, void *data)
{
    unsigned long get = vmm->machine.has_xsave2 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;

    if (vmm->machine.xsave_size > XSAVE_MAX) {
        return -E2BIG;
    }
    if (ioctl(vmm->vcpus.list[cpu].fd, get, data) != 0) {
        return -errno;
    }
    return (ssize_t)vmm->machine.xsave_size;
}

static bool xsave_valid(const struct vmm *vmm, const void *data, size_t length, struct fault *fault)
{
    (void)data;
    if (length > vmm->machine.xsave_size || vmm->machine.xsave_size > XSAVE_MAX) {
        fault_set(fault, 0, "the guest's XSAVE area is larger than this host's");
        return false;
    }
    return true;
}

static int xsave_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length)
{
    /* KVM reads as much as this host's area has, whatever the source's was. */
    _Alignas(64) uint8_t area[XSAVE_MAX] = {0};

    memcpy(area, data, length);
    return ioctl(vmm->vcpus.list[cpu].fd, KVM_SET_XSAVE, area) == 0 ? 0 : -errno;
}

static ssize_t irqchip_save(struct vmm *vmm, unsigned cpu, void *data)
{
    struct kvm_irqchip *chips = data;

    (void)cpu;
    for (uint32_t i = 0; i < KVM_NR_IRQCHIPS; i++) {
        chips[i].chip_id = i;
        if (ioctl(vmm->machine.vm_fd, KVM_GET_IRQCHIP, &chips[i]) != 0) {
            return -errno;
        }
    }
    return KVM_NR_IRQCHIPS * sizeof(*chips);
}

static int irqchip_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length)
{
    struct kvm_irqchip chips[KVM_NR_IRQCHIPS];

    (void)cpu;
    (void)length;
    memcpy(chips, data, sizeof(chips));
    for (uint32_t i = 0; i < KVM_NR_IRQCHIPS; i++) {
        chips[i].chip_id = i;
        if (ioctl(vmm->machine.vm_fd, KVM_SET_IRQCHIP, &chips[i]) != 0) {
            return -errno;
        }
    }
    return 0;
}

static ssize_t serial_save(struct vmm *vmm, unsigned cpu, void *data)
{
    struct serial_state state;

    (void)cpu;
    serial_get(&vmm->ports.serial, &state);
    memcpy(data, &state, sizeof(state));
    return sizeof(state);
}

static bool serial_valid(const struct vmm *vmm, const void *data, size_t length,
                         struct fault *fault)
{
    struct serial_state state;

    (void)vmm;
    (void)length;
    memcpy(&state, data, sizeof(state));
    if (!serial_state_valid(&state)) {
        fault_set(fault, 0, "the serial port's state is none it can be in");
        return false;
    }
    return true;
}

static int serial_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length)
{
    struct serial_state state;

    (void)cpu;
    (void)length;
    memcpy(&state, data, sizeof(state));
    serial_set(&vmm->ports.serial, &state);
    return 0;
}

static bool has_disk(const struct vmm *vmm)
{
    return vmm->ports.disk.fd >= 0;
}

static ssize_t disk_save(struct vmm *vmm, unsigned cpu, void *data)
{
    struct disk_state state;

    (void)cpu;
    disk_get(&vmm->ports.disk, &state);
    memcpy(data, &state, sizeof(state));
    return sizeof(state);
}

static bool disk_valid(const struct vmm *vmm, const void *data, size_t length, struct fault *fault)
{
    struct disk_state theirs;

    (void)length;
    memcpy(&theirs, data, sizeof(theirs));
    if (theirs.sectors != vmm->ports.disk.state.sectors) {
        fault_set(fault, 0, "the guest's disk has another size than this VMM's --disk");
        return false;
    }
    return true;
}

static int disk_load(struct vmm *vmm, unsigned cpu, const void *data, size_t length)
{
    struct disk_state state;

    (void)cpu;
    (void)length;
    memcpy(&state, data, sizeof(state));
    disk_set(&vmm->ports.disk, &state);
    return 0;
}

#define STRUCT_OF(type)   .most = sizeof(type)
#define BYTES(low, high)  .least = (low), .most = (high)
#define BY_IOCTL(out, in) .get = (out), .set = (in)
#define BY(part)          .save = part##_save, .load = part##_load

const struct section_kind section_kinds[] = {
    {1, "layout", PER_VM, STRUCT_OF(struct layout), .valid = layout_valid, BY(layout)},
    {2, "cpuid", PER_CPU, BYTES(sizeof(struct kvm_cpuid_entry2), CPUID_MAX_BYTES),
     .valid = cpuid_valid, BY(cpuid)},
    {3, "sregs2", PER_CPU, STRUCT_OF(struct kvm_sregs2), .present = has_sregs2,
     BY_IOCTL(KVM_GET_SREGS2, KVM_SET_SREGS2)},
    {4, "sregs", PER_CPU, STRUCT_OF(struct kvm_sregs), .present = lacks_sregs2,
     BY_IOCTL(KVM_GET_SREGS, KVM_SET_SREGS)},
    {5, "regs", PER_CPU, STRUCT_OF(struct kvm_regs), BY_IOCTL(KVM_GET_REGS, KVM_SET_REGS)},
    {6, "xcrs", PER_CPU, STRUCT_OF(struct kvm_xcrs), BY_IOCTL(KVM_GET_XCRS, KVM_SET_XCRS)},
    {7, "xsave", PER_CPU, BYTES(sizeof(struct kvm_xsave), XSAVE_MAX), .valid = xsave_valid,
     BY(xsave)},
    {8, "debugregs", PER_CPU, STRUCT_OF(struct kvm_debugregs),
     BY_IOCTL(KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS)},
    {9, "lapic", PER_CPU, STRUCT_OF(struct kvm_lapic_state),
     BY_IOCTL(KVM_GET_LAPIC, KVM_SET_LAPIC)},
    {10, "msrs", PER_CPU, BYTES(sizeof(struct msr_value), MSRS_MAX_BYTES), .valid = msrs_valid,
     BY(msrs)},
    {11, "tsc", PER_VM, STRUCT_OF(struct tsc_state), .valid = tsc_valid, BY(tsc)},
    {12, "deadline", PER_CPU, STRUCT_OF(uint64_t), BY(deadline)},
    {13, "irqchip", PER_VM, .most = KVM_NR_IRQCHIPS * sizeof(struct kvm_irqchip), BY(irqchip)},
    {14, "pit", PER_VM, STRUCT_OF(struct kvm_pit_state2), BY_IOCTL(KVM_GET_PIT2, KVM_SET_PIT2)},
    {15, "clock", PER_VM, STRUCT_OF(struct clock_state), BY(clock)},
    {16, "serial", PER_VM, STRUCT_OF(struct serial_state), .valid = serial_valid, BY(serial)},
    {17, "events", PER_CPU, STRUCT_OF(struct kvm_vcpu_events),
     BY_IOCTL(KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS)},
    {18, "mp-state", PER_CPU, STRUCT_OF(struct kvm_mp_state),
     BY_IOCTL(KVM_GET_MP_STATE, KVM_SET_MP_STATE)},
    {19, "disk", PER_VM, STRUCT_OF(struct disk_state), .present = has_disk, .valid = disk_valid,
     BY(disk)},
};

_Static_assert(sizeof(section_kinds) / sizeof(section_kinds[0]) <= SECTION_KINDS_MAX,
               "loading has room for every kind");

const unsigned section_kinds_count = sizeof(section_kinds) / sizeof(section_kinds[0]);

bool section_present(const struct section_kind *kind, const struct vmm *vmm)
{
    return kind->present == NULL || kind->present(vmm);
}

static int target_fd(const struct section_kind *kind, const struct vmm *vmm, unsigned cpu)
{
    return kind->scope == PER_CPU ? vmm->vcpus.list[cpu].fd : vmm->machine.vm_fd;
}

ssize_t section_save(const struct section_kind *kind, struct vmm *vmm, unsigned cpu, void *data)
{
    if (kind->save != NULL) {
        return kind->save(vmm, cpu, data);
    }
    int rc = ioctl(target_fd(kind, vmm, cpu), kind->get, data);
    return rc == 0 ? (ssize_t)kind->most : -errno;
}

int section_load(const struct section_kind *kind, struct vmm *vmm, unsigned cpu, const void *data,
                 size_t length)
{
    if (kind->load != NULL) {
        return kind->load(vmm, cpu, data, length);
    }
    return ioctl(target_fd(kind, vmm, cpu), kind->set, data) == 0 ? 0 : -errno;
}
