/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ferry-vmm: start-up, the wait for the end, and the end.  The main thread only waits: for signals,
 * for console clients, for a reason to end.  The guest runs on the vCPU threads, migration on
 * libferry's.
 */
#include "ferry.h"
#include "halt.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { EXIT_GOOD = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NO_KVM = 77 };

void vmm_end(struct vmm *vmm, enum vmm_end reason)
{
    int none = END_NOT_YET;
    uint64_t one = 1;

    atomic_compare_exchange_strong(&vmm->end, &none, reason);
    while (write(vmm->end_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

static void on_guest_ended(void *opaque, int exit_code)
{
    vmm_end(opaque, exit_code == 0 ? END_GUEST_DONE : END_GUEST_BROKEN);
}

/* Blocked before any thread starts, so that only the signalfd sees them. */
static int open_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void print_reports(struct vmm *vmm)
{
    struct guest_report reports[GUEST_CPUS_MAX];

    memory_read_reports(&vmm->memory, reports);
    for (unsigned i = 0; i < vmm->options.cpus; i++) {
        fprintf(stderr, "report: cpu %u progress %llu bad %llu gap %llu us\n", i,
                (unsigned long long)reports[i].progress, (unsigned long long)reports[i].bad,
                (unsigned long long)reports[i].gap_us);
    }
    if ((gate_reasons(&vmm->vcpus.gate) & GATE_SUSPENDED) != 0) {
        fprintf(stderr, "report: suspended\n");
    }
}

/* The operator's own pause; a guest that a migration has in its hands is left to it. */
static void toggle_pause(struct vmm *vmm)
{
    enum ferry_guest_state state = ferry_guest_state(vmm->ferry);

    if (state == FERRY_GUEST_RUNNING) {
        gate_close_wait(&vmm->vcpus.gate, GATE_PAUSED);
        ferry_guest_paused(vmm->ferry);
    } else if (state == FERRY_GUEST_PAUSED && ferry_guest_running(vmm->ferry) == 0) {
        /* Also what a migration that failed has stopped: it is paused, and nothing else, since. */
        gate_open(&vmm->vcpus.gate, GATE_PAUSED | GATE_STOPPED);
    } else {
        log_message(LOG_WARNING, "the guest is being migrated: not paused, not resumed");
    }
}

static void take_signal(struct vmm *vmm, int fd)
{
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof(info)) != (ssize_t)sizeof(info)) {
        return;
    }
    if (info.ssi_signo == SIGUSR1) {
        print_reports(vmm);
    } else if (info.ssi_signo == SIGUSR2) {
        toggle_pause(vmm);
    } else {
        vmm_end(vmm, END_TOLD);
    }
}

static void wait_for_end(struct vmm *vmm, int signal_fd)
{
    struct halt_watch watch = {{0}};
    struct pollfd fds[] = {
        {.fd = vmm->end_fd, .events = POLLIN},
        {.fd = signal_fd, .events = POLLIN},
        {.fd = vmm->console.listen_fd, .events = POLLIN},
    };

    while (atomic_load(&vmm->end) == END_NOT_YET) {
        int ready = poll(fds, sizeof(fds) / sizeof(fds[0]), HALT_LOOK_MS);
        if (ready == 0 && halt_watch_look(&watch, &vmm->vcpus)) {
            vmm_end(vmm, END_GUEST_DONE);
        }
        if (ready > 0 && (fds[1].revents & POLLIN) != 0) {
            take_signal(vmm, signal_fd);
        }
        if (ready > 0 && (fds[2].revents & POLLIN) != 0) {
            console_accept(&vmm->console);
        }
    }
}

static int machine_up(struct vmm *vmm, struct fault *fault)
{
    return machine_create(&vmm->machine, fault);
}

static void machine_down(struct vmm *vmm)
{
    machine_free(&vmm->machine);
}

static int console_up(struct vmm *vmm, struct fault *fault)
{
    serial_init(&vmm->ports.serial, &vmm->console);
    return console_create(&vmm->console, vmm->options.console_path, fault);
}

static void console_down(struct vmm *vmm)
{
    console_free(&vmm->console);
}

static int memory_up(struct vmm *vmm, struct fault *fault)
{
    int rc = memory_create(&vmm->memory, vmm->options.memory, fault);

    return rc == 0 ? memory_add_to_vm(&vmm->memory, vmm->machine.vm_fd, fault) : rc;
}

static void memory_down(struct vmm *vmm)
{
    memory_free(&vmm->memory);
}

static int disk_up(struct vmm *vmm, struct fault *fault)
{
    return disk_open(&vmm->ports.disk, vmm->options.disk_path, vmm->options.disk_base_path,
                     &vmm->memory, fault);
}

static void disk_down(struct vmm *vmm)
{
    disk_close(&vmm->ports.disk);
}

static int vcpus_up(struct vmm *vmm, struct fault *fault)
{
    vmm->ports.gate = &vmm->vcpus.gate;
    vmm->vcpus.ports = &vmm->ports;
    vmm->vcpus.ended = on_guest_ended;
    vmm->vcpus.opaque = vmm;
    return vcpus_create(&vmm->vcpus, &vmm->machine, vmm->options.cpus, fault);
}

static void vcpus_down(struct vmm *vmm)
{
    vcpus_free(&vmm->vcpus);
}

static int guest_up(struct vmm *vmm, struct fault *fault)
{
    const struct options *options = &vmm->options;
    int khz = ioctl(vmm->vcpus.list[0].fd, KVM_GET_TSC_KHZ, 0);

    if (options->incoming) {
        return 0;
    }
    memory_write_params(&vmm->memory, options, khz > 0 ? (uint64_t)khz : 0);
    memory_fill(&vmm->memory, options->fill, options->fill_bytes);
    return memory_load_image(&vmm->memory, options->guest_path, fault);
}

static void guest_down(struct vmm *vmm)
{
    (void)vmm; /* the guest is in its memory, which goes by itself */
}

static int throttle_up(struct vmm *vmm, struct fault *fault)
{
    int rc = throttle_start(&vmm->throttle, &vmm->vcpus.gate);

    return rc == 0 ? 0 : fault_set(fault, rc, "no thread for the throttle: %s", strerror(-rc));
}

static void throttle_down(struct vmm *vmm)
{
    throttle_end(&vmm->throttle);
}

static int run_up(struct vmm *vmm, struct fault *fault)
{
    unsigned closed =
        (vmm->options.incoming ? GATE_STOPPED : 0u) | (vmm->options.paused ? GATE_PAUSED : 0u);
    int rc = vcpus_start(&vmm->vcpus, closed, fault);

    return rc == 0 ? ferry_link_start(vmm, fault) : rc;
}

static void run_down(struct vmm *vmm)
{
    vcpus_end(&vmm->vcpus); /* they may be in the middle of telling libferry something */
}

static int link_up(struct vmm *vmm, struct fault *fault)
{
    return ferry_link_create(vmm, fault);
}

static void link_down(struct vmm *vmm)
{
    ferry_link_end(vmm);
}

/* What a process is made of, in order; each `down` copes with an `up` that stopped half-way. */
static const struct {
    int (*up)(struct vmm *vmm, struct fault *fault);
    void (*down)(struct vmm *vmm);
} stages[] = {
    {machine_up, machine_down},   {console_up, console_down}, {memory_up, memory_down},
    {disk_up, disk_down},         {vcpus_up, vcpus_down},     {guest_up, guest_down},
    {throttle_up, throttle_down}, {link_up, link_down},       {run_up, run_down},
};

#define STAGES (sizeof(stages) / sizeof(stages[0]))

static int end_guest(struct vmm *vmm)
{
    int end = atomic_load(&vmm->end);

    serial_flush(&vmm->ports.serial);
    if (end == END_RELEASED) {
        fprintf(stderr, "ferry-vmm: guest '%s' runs at its destination\n", vmm->options.name);
    } else if (end != END_TOLD) {
        ferry_guest_shutdown(vmm->ferry);
    }
    return end == END_GUEST_BROKEN ? EXIT_FAILED : EXIT_GOOD;
}

static int run(struct vmm *vmm, int signal_fd)
{
    struct fault fault = {{0}};
    size_t up = 0;
    int rc = 0;
    int code = EXIT_FAILED;

    while (up < STAGES && rc == 0) {
        rc = stages[up++].up(vmm, &fault);
    }
    if (rc == 0) {
        wait_for_end(vmm, signal_fd);
        code = end_guest(vmm);
    } else {
        log_message(LOG_ERROR, "%s", fault.text);
        code = rc == -ENODEV ? EXIT_NO_KVM : EXIT_FAILED;
    }
    while (up > 0) {
        stages[--up].down(vmm);
    }
    return code;
}

int main(int argc, char **argv)
{
    static struct vmm vmm;
    enum options_outcome outcome = options_parse(&vmm.options, argc, argv);

    if (outcome != OPTIONS_RUN) {
        return outcome == OPTIONS_DONE ? EXIT_GOOD : EXIT_USAGE;
    }
    int signal_fd = open_signals();
    vmm.end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (signal_fd < 0 || vmm.end_fd < 0) {
        log_message(LOG_ERROR, "cannot start: %s", strerror(errno));
        return EXIT_FAILED;
    }
    int code = run(&vmm, signal_fd);
    close(signal_fd);
    close(vmm.end_fd);
    return code;
}
