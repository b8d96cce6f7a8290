/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The VM: opening KVM, asking what it can do, making the in-kernel interrupt chips and timer.
 * A missing or unusable KVM is told apart from every other failure, as -ENODEV, because test
 * harnesses skip on it.
 */
#include "kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Three pages below the BIOS area that KVM needs on some hosts; no RAM is there. */
#define TSS_ADDRESS          0xfffbd000u
#define IDENTITY_MAP_ADDRESS 0xfffbc000ull
#define XSAVE_SIZE_MIN       4096
#define MSRS_MAX             4096

static const struct {
    int capability;
    const char *name;
} needed[] = {
    {KVM_CAP_USER_MEMORY, "user memory"},   {KVM_CAP_IRQCHIP, "an in-kernel irqchip"},
    {KVM_CAP_PIT2, "an in-kernel timer"},   {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
    {KVM_CAP_EXT_CPUID, "CPUID setting"},   {KVM_CAP_XSAVE, "XSAVE access"},
    {KVM_CAP_XCRS, "XCR access"},           {KVM_CAP_DEBUGREGS, "debug register access"},
    {KVM_CAP_VCPU_EVENTS, "event access"},  {KVM_CAP_MP_STATE, "MP state access"},
    {KVM_CAP_ADJUST_CLOCK, "clock access"}, {KVM_CAP_GET_TSC_KHZ, "the TSC's frequency"},
};

static int check_needed(const struct machine *machine, struct fault *fault)
{
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        if (ioctl(machine->kvm_fd, KVM_CHECK_EXTENSION, needed[i].capability) <= 0) {
            return fault_set(fault, -ENODEV, "this host's KVM lacks %s", needed[i].name);
        }
    }
    return 0;
}

static int open_kvm(struct machine *machine, struct fault *fault)
{
    machine->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (machine->kvm_fd < 0) {
        return fault_set(fault, -ENODEV, "no usable KVM: /dev/kvm: %s", strerror(errno));
    }
    if (ioctl(machine->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
        return fault_set(fault, -ENODEV, "no usable KVM: it speaks another API version");
    }
    int run_size = ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_size < (int)sizeof(struct kvm_run)) {
        return fault_set(fault, -ENODEV, "no usable KVM: its vCPU mapping is too small");
    }
    machine->run_size = (size_t)run_size;
    return check_needed(machine, fault);
}

static void ask_capabilities(struct machine *machine)
{
    int xsave2 = ioctl(machine->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
    int clock = ioctl(machine->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK);

    machine->has_xsave2 = xsave2 > XSAVE_SIZE_MIN;
    machine->xsave_size = machine->has_xsave2 ? (size_t)xsave2 : XSAVE_SIZE_MIN;
    machine->has_sregs2 = ioctl(machine->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2) > 0;
    machine->has_clock_realtime = clock > 0 && (clock & KVM_CLOCK_REALTIME) != 0;
}

struct kvm_cpuid2 *machine_cpuid_alloc(void)
{
    struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + KVM_CPUID_MAX * sizeof(struct kvm_cpuid_entry2));

    if (cpuid != NULL) {
        cpuid->nent = KVM_CPUID_MAX;
    }
    return cpuid;
}

/*
 * Nested virtualization is hidden: its state would have to move as well.  So is nothing else: a
 * VMM for fleets of unlike hosts would show the least that all of them have.
 */
static void hide_nested(struct kvm_cpuid2 *cpuid)
{
    static const struct {
        uint32_t function;
        uint32_t ecx_bit;
    } hidden[] = {{1, 1u << 5}, {0x80000001u, 1u << 2}};

    for (uint32_t i = 0; i < cpuid->nent; i++) {
        for (size_t k = 0; k < sizeof(hidden) / sizeof(hidden[0]); k++) {
            if (cpuid->entries[i].function == hidden[k].function) {
                cpuid->entries[i].ecx &= ~hidden[k].ecx_bit;
            }
        }
    }
}

static int ask_cpuid(struct machine *machine, struct fault *fault)
{
    machine->supported = machine_cpuid_alloc();
    if (machine->supported == NULL) {
        return fault_set(fault, -ENOMEM, "out of memory");
    }
    if (ioctl(machine->kvm_fd, KVM_GET_SUPPORTED_CPUID, machine->supported) != 0) {
        return fault_set(fault, -errno, "cannot ask KVM for its CPUID: %s", strerror(errno));
    }
    hide_nested(machine->supported);
    return 0;
}

static int ask_msrs(struct machine *machine, struct fault *fault)
{
    struct kvm_msr_list probe = {.nmsrs = 0};

    /* The first call is refused and says how many there are. */
    if (ioctl(machine->kvm_fd, KVM_GET_MSR_INDEX_LIST, &probe) == 0 || errno != E2BIG ||
        probe.nmsrs > MSRS_MAX) {
        return fault_set(fault, -EIO, "cannot ask KVM for its MSRs");
    }
    machine->msrs = calloc(1, sizeof(probe) + probe.nmsrs * sizeof(machine->msrs->indices[0]));
    if (machine->msrs == NULL) {
        return fault_set(fault, -ENOMEM, "out of memory");
    }
    machine->msrs->nmsrs = probe.nmsrs;
    if (ioctl(machine->kvm_fd, KVM_GET_MSR_INDEX_LIST, machine->msrs) != 0) {
        return fault_set(fault, -errno, "cannot list KVM's MSRs: %s", strerror(errno));
    }
    return 0;
}

static int make_chips(const struct machine *machine, struct fault *fault)
{
    uint64_t identity = IDENTITY_MAP_ADDRESS;
    struct kvm_pit_config pit = {.flags = 0};

    /* Some hosts do without the first two: not being able to set them is no failure there. */
    ioctl(machine->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    ioctl(machine->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)TSS_ADDRESS);
    if (ioctl(machine->vm_fd, KVM_CREATE_IRQCHIP, 0) != 0 ||
        ioctl(machine->vm_fd, KVM_CREATE_PIT2, &pit) != 0) {
        return fault_set(fault, -errno, "KVM makes no interrupt chips: %s", strerror(errno));
    }
    return 0;
}

int machine_create(struct machine *machine, struct fault *fault)
{
    *machine = (struct machine){.kvm_fd = -1, .vm_fd = -1};
    int rc = open_kvm(machine, fault);
    if (rc != 0) {
        return rc;
    }
    machine->vm_fd = ioctl(machine->kvm_fd, KVM_CREATE_VM, 0);
    if (machine->vm_fd < 0) {
        return fault_set(fault, -ENODEV, "no usable KVM: it makes no VM: %s", strerror(errno));
    }
    ask_capabilities(machine);
    rc = ask_cpuid(machine, fault);
    if (rc == 0) {
        rc = ask_msrs(machine, fault);
    }
    return rc == 0 ? make_chips(machine, fault) : rc;
}

void machine_free(struct machine *machine)
{
    free(machine->supported);
    free(machine->msrs);
    if (machine->vm_fd >= 0) {
        close(machine->vm_fd);
    }
    if (machine->kvm_fd >= 0) {
        close(machine->kvm_fd);
    }
}

void machine_cpuid(const struct machine *machine, unsigned index, struct kvm_cpuid2 *to)
{
    const struct kvm_cpuid2 *from = machine->supported;

    memcpy(to, from, sizeof(*from) + from->nent * sizeof(from->entries[0]));
    for (uint32_t i = 0; i < to->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &to->entries[i];
        if (entry->function == 1) {
            entry->ebx = (entry->ebx & 0x00ffffffu) | (uint32_t)index << 24;
        } else if (entry->function == 0xb || entry->function == 0x1f) {
            entry->edx = index;
        }
    }
}
