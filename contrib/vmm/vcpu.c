/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The vCPUs: one thread each, which passes the gate (gate.c), stays in KVM_RUN until something
 * wants it out, and answers exits.  To get a vCPU out: run->immediate_exit for the moment just
 * before KVM_RUN, a signal for the time inside.  Both end in EINTR, and EINTR alone leads to the
 * gate.
 */
#include "vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CR0_PE          1u
#define RFLAGS_RESERVED 2u
#define SELECTOR_CODE   8
#define SELECTOR_DATA   16

enum verdict { GOES_ON, GUEST_DONE, GUEST_BROKEN };

static int kick_signal(void)
{
    return SIGRTMIN;
}

static void on_kick(int number)
{
    (void)number; /* its arrival is all that is wanted */
}

static void set_immediate_exit(struct vcpu *vcpu, uint8_t value)
{
    __atomic_store_n(&vcpu->run->immediate_exit, value, __ATOMIC_RELAXED);
}

static void kick_all(void *opaque)
{
    struct vcpus *vcpus = opaque;

    for (unsigned i = 0; i < vcpus->started; i++) {
        set_immediate_exit(&vcpus->list[i], 1);
        pthread_kill(vcpus->list[i].thread, kick_signal());
    }
}

static void allow_run(void *opaque)
{
    set_immediate_exit(opaque, 0);
}

static enum verdict exit_io(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    for (uint32_t i = 0; i < run->io.count; i++) {
        if (!ports_access(vcpu->all->ports, run->io.direction == KVM_EXIT_IO_OUT, run->io.port,
                          run->io.size, data + (size_t)i * run->io.size)) {
            return GUEST_DONE;
        }
    }
    return GOES_ON;
}

static enum verdict exit_mmio(struct vcpu *vcpu)
{
    if (!vcpu->run->mmio.is_write) {
        memset(vcpu->run->mmio.data, 0xff, sizeof(vcpu->run->mmio.data));
    }
    return GOES_ON;
}

static enum verdict exit_again(struct vcpu *vcpu)
{
    (void)vcpu;
    return GOES_ON;
}

static enum verdict exit_shutdown(struct vcpu *vcpu)
{
    log_message(LOG_ERROR, "vCPU %u: triple fault", vcpu->index);
    return GUEST_BROKEN;
}

static enum verdict exit_internal(struct vcpu *vcpu)
{
    struct kvm_regs regs = {0};

    ioctl(vcpu->fd, KVM_GET_REGS, &regs);
    log_message(LOG_ERROR, "vCPU %u: KVM cannot run the guest's code at 0x%llx (suberror %u)",
                vcpu->index, (unsigned long long)regs.rip, vcpu->run->internal.suberror);
    return GUEST_BROKEN;
}

static const struct {
    uint32_t reason;
    enum verdict (*handle)(struct vcpu *vcpu);
} exits[] = {
    {KVM_EXIT_IO, exit_io},
    {KVM_EXIT_MMIO, exit_mmio},
    {KVM_EXIT_INTR, exit_again},
    {KVM_EXIT_IRQ_WINDOW_OPEN, exit_again},
    {KVM_EXIT_SHUTDOWN, exit_shutdown},
    {KVM_EXIT_INTERNAL_ERROR, exit_internal},
};

static enum verdict handle_exit(struct vcpu *vcpu)
{
    for (size_t i = 0; i < sizeof(exits) / sizeof(exits[0]); i++) {
        if (exits[i].reason == vcpu->run->exit_reason) {
            return exits[i].handle(vcpu);
        }
    }
    log_message(LOG_ERROR, "vCPU %u: exit %u is not known here", vcpu->index,
                vcpu->run->exit_reason);
    return GUEST_BROKEN;
}

/* Runs the guest until the vCPU is to come to the gate (GOES_ON) or cannot go on. */
static enum verdict run_until_kicked(struct vcpu *vcpu)
{
    for (;;) {
        if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
            enum verdict verdict = handle_exit(vcpu);
            if (verdict != GOES_ON) {
                return verdict;
            }
        } else if (errno == EINTR) {
            return GOES_ON;
        } else if (errno != EAGAIN) {
            log_message(LOG_ERROR, "vCPU %u: KVM_RUN: %s", vcpu->index, strerror(errno));
            return GUEST_BROKEN;
        }
    }
}

static void *vcpu_main(void *opaque)
{
    struct vcpu *vcpu = opaque;
    struct vcpus *all = vcpu->all;
    enum verdict verdict = GOES_ON;

    while (verdict == GOES_ON) {
        if (!gate_pass(&all->gate, allow_run, vcpu)) {
            return NULL;
        }
        verdict = run_until_kicked(vcpu);
    }
    gate_leave(&all->gate);
    all->ended(all->opaque, verdict == GUEST_DONE ? 0 : 1);
    return NULL;
}

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){
        .limit = 0xffffffffu,
        .selector = selector,
        .type = type,
        .present = 1,
        .db = 1,
        .s = 1,
        .g = 1,
    };
}

/* The state that guest_abi.h promises a fresh guest. */
static int set_entry_state(const struct vcpu *vcpu)
{
    struct kvm_mp_state runnable = {.mp_state = KVM_MP_STATE_RUNNABLE};
    struct kvm_regs regs = {
        .rip = GUEST_ENTRY_GPA,
        .rbx = vcpu->index,
        .rflags = RFLAGS_RESERVED,
    };
    struct kvm_sregs sregs;

    if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) != 0) {
        return -errno;
    }
    sregs.cr0 |= CR0_PE;
    sregs.cs = flat_segment(SELECTOR_CODE, 0xb);
    sregs.ds = flat_segment(SELECTOR_DATA, 3);
    sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
    if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) != 0 || ioctl(vcpu->fd, KVM_SET_REGS, &regs) != 0 ||
        ioctl(vcpu->fd, KVM_SET_MP_STATE, &runnable) != 0) {
        return -errno;
    }
    return 0;
}

static int show_cpuid(const struct machine *machine, const struct vcpu *vcpu)
{
    struct kvm_cpuid2 *cpuid = machine_cpuid_alloc();

    if (cpuid == NULL) {
        return -ENOMEM;
    }
    machine_cpuid(machine, vcpu->index, cpuid);
    int rc = ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) == 0 ? 0 : -errno;
    free(cpuid);
    return rc;
}

static int create_one(struct vcpus *vcpus, const struct machine *machine)
{
    struct vcpu *vcpu = &vcpus->list[vcpus->count];

    *vcpu = (struct vcpu){.all = vcpus, .index = vcpus->count};
    vcpu->fd = ioctl(machine->vm_fd, KVM_CREATE_VCPU, vcpu->index);
    if (vcpu->fd < 0) {
        return -errno;
    }
    vcpus->count++;
    void *run = mmap(NULL, machine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED) {
        return -errno;
    }
    vcpu->run = run;
    int rc = show_cpuid(machine, vcpu);
    return rc == 0 ? set_entry_state(vcpu) : rc;
}

int vcpus_create(struct vcpus *vcpus, const struct machine *machine, unsigned count,
                 struct fault *fault)
{
    vcpus->run_size = machine->run_size;
    gate_init(&vcpus->gate, 0, kick_all, vcpus);
    for (unsigned i = 0; i < count; i++) {
        int rc = create_one(vcpus, machine);
        if (rc != 0) {
            return fault_set(fault, rc, "cannot make vCPU %u: %s", i, strerror(-rc));
        }
    }
    return 0;
}

int vcpus_start(struct vcpus *vcpus, unsigned reasons, struct fault *fault)
{
    struct sigaction action = {.sa_handler = on_kick};

    sigaction(kick_signal(), &action, NULL);
    pthread_mutex_lock(&vcpus->gate.lock);
    vcpus->gate.reasons |= reasons;
    vcpus->gate.vcpus = vcpus->count;
    pthread_mutex_unlock(&vcpus->gate.lock);
    for (unsigned i = 0; i < vcpus->count; i++) {
        int rc = pthread_create(&vcpus->list[i].thread, NULL, vcpu_main, &vcpus->list[i]);
        if (rc != 0) {
            return fault_set(fault, -rc, "no thread for vCPU %u: %s", i, strerror(rc));
        }
        vcpus->started++;
    }
    return 0;
}

void vcpus_end(struct vcpus *vcpus)
{
    gate_close(&vcpus->gate, GATE_ENDING);
    for (unsigned i = 0; i < vcpus->started; i++) {
        pthread_join(vcpus->list[i].thread, NULL);
    }
    vcpus->started = 0; /* a gate that is closed for good kicks nobody any more */
}

void vcpus_free(struct vcpus *vcpus)
{
    vcpus_end(vcpus);
    for (unsigned i = 0; i < vcpus->count; i++) {
        if (vcpus->list[i].run != NULL) {
            munmap(vcpus->list[i].run, vcpus->run_size);
        }
        close(vcpus->list[i].fd);
    }
    gate_destroy(&vcpus->gate);
}
