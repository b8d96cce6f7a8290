/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/victims.h"

#include "common/clock.h"
#include "guest/process.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A round of those that wait for a time. */
#define ROUND_NS (2 * NS_PER_MS)

static struct victim_page *page; /* the victim's own, for its handler */

static bool is_over(void)
{
    return atomic_load(&page->stop);
}

static void round_done(bool good)
{
    atomic_fetch_add(&page->rounds, 1);
    if (!good) {
        atomic_fetch_add(&page->faults, 1);
    }
}

/* ---- what they do ---- */

static const struct timespec round_time = {.tv_nsec = ROUND_NS};

/* A wait that ends neither early nor with anything but `expected`; a handled signal ends any. */
static void check_wait(uint64_t begun, long got, long expected, uint64_t signals)
{
    bool handled = atomic_load(&page->signals) != signals;
    round_done(handled || (got == expected && clock_ns() - begun >= ROUND_NS));
}

static long do_nanosleep(void)
{
    struct timespec time = round_time;
    return nanosleep(&time, NULL) < 0 ? -errno : 0;
}

static long do_poll(void)
{
    int n = poll(NULL, 0, (int)(ROUND_NS / NS_PER_MS));
    return n < 0 ? -errno : n;
}

static long do_ppoll(void)
{
    sigset_t none;
    sigemptyset(&none);
    int n = ppoll(NULL, 0, &round_time, &none);
    return n < 0 ? -errno : n;
}

static long do_futex(void)
{
    uint32_t word = 0;
    long rc = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &round_time, NULL, 0);
    return rc < 0 ? -errno : rc;
}

static long do_sigtimedwait(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    int rc = sigtimedwait(&set, NULL, &round_time);
    return rc < 0 ? -errno : rc;
}

static long do_epoll(void)
{
    static int fd = -1;
    struct epoll_event event;
    if (fd < 0) {
        fd = epoll_create1(0);
    }
    int n = epoll_wait(fd, &event, 1, (int)(ROUND_NS / NS_PER_MS));
    return n < 0 ? -errno : n;
}

static void repeat(long (*wait_once)(void), long expected)
{
    while (!is_over()) {
        uint64_t signals = atomic_load(&page->signals);
        uint64_t begun = clock_ns();
        check_wait(begun, wait_once(), expected, signals);
    }
}

static void run_nanosleep(struct victim *v)
{
    (void)v;
    repeat(do_nanosleep, 0);
}

static void run_poll(struct victim *v)
{
    (void)v;
    repeat(do_poll, 0);
}

/* Outside of ppoll() the signals are blocked. */
static void run_ppoll(struct victim *v)
{
    sigset_t all;
    (void)v;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    repeat(do_ppoll, 0);
}

static void run_futex(struct victim *v)
{
    (void)v;
    repeat(do_futex, -ETIMEDOUT);
}

static void run_epoll(struct victim *v)
{
    (void)v;
    repeat(do_epoll, 0);
}

static void run_sigtimedwait(struct victim *v)
{
    sigset_t set;
    (void)v;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    repeat(do_sigtimedwait, -EAGAIN);
}

static void run_read(struct victim *v)
{
    char byte;
    while (!is_over()) {
        uint64_t signals = atomic_load(&page->signals);
        ssize_t n = read(v->pipe[0], &byte, 1);
        round_done((n == 1 && byte == 'x') || atomic_load(&page->signals) != signals);
    }
}

/*
 * All registers hold numbers that the loop does not change, and a sum that it does; the flags too
 * (carry is set before each step and added).
 */
static bool spin(uint64_t steps)
{
    uint64_t bad = 0;
    __asm__ volatile("push %%rbp\n"
                     "mov $0x1111111111111111, %%rax\n mov $0x2222222222222222, %%rbx\n"
                     "mov $0x4444444444444444, %%rdx\n mov $0x5555555555555555, %%rsi\n"
                     "mov $0x7777777777777777, %%rbp\n mov $0x8888888888888888, %%r8\n"
                     "mov $0x9999999999999999, %%r9\n mov $0xaaaaaaaaaaaaaaaa, %%r10\n"
                     "mov $0xbbbbbbbbbbbbbbbb, %%r11\n mov $0xcccccccccccccccc, %%r12\n"
                     "movq %%rax, %%xmm0\n movq %%rbx, %%xmm15\n"
                     "xor %%r13, %%r13\n mov %[steps], %%rcx\n"
                     "1: stc\n adc $0, %%r13\n dec %%rcx\n jnz 1b\n"
                     "sub %[steps], %%r13\n mov %%r13, %[bad]\n"
                     "movq %%xmm0, %%r13\n sub %%rax, %%r13\n or %%r13, %[bad]\n"
                     "movq %%xmm15, %%r13\n sub %%rbx, %%r13\n or %%r13, %[bad]\n"
                     "mov $0x1111111111111111, %%r13\n"
                     "sub %%r13, %%rax\n or %%rax, %[bad]\n"
                     "lea (%%r13,%%r13), %%rax\n sub %%rax, %%rbx\n or %%rbx, %[bad]\n"
                     "lea (,%%r13,4), %%rax\n sub %%rax, %%rdx\n or %%rdx, %[bad]\n"
                     "add %%r13, %%rax\n sub %%rax, %%rsi\n or %%rsi, %[bad]\n"
                     "add %%r13, %%rax\n add %%r13, %%rax\n sub %%rax, %%rbp\n or %%rbp, %[bad]\n"
                     "add %%r13, %%rax\n sub %%rax, %%r8\n or %%r8, %[bad]\n"
                     "add %%r13, %%rax\n sub %%rax, %%r9\n or %%r9, %[bad]\n"
                     "add %%r13, %%rax\n sub %%rax, %%r10\n or %%r10, %[bad]\n"
                     "add %%r13, %%rax\n sub %%rax, %%r11\n or %%r11, %[bad]\n"
                     "add %%r13, %%rax\n sub %%rax, %%r12\n or %%r12, %[bad]\n"
                     "pop %%rbp\n"
                     : [bad] "+&r"(bad)
                     : [steps] "r"(steps)
                     : "rax", "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13",
                       "xmm0", "xmm15", "cc", "memory");
    return bad == 0;
}

static void run_spin(struct victim *v)
{
    (void)v;
    while (!is_over()) {
        round_done(spin(100000));
    }
}

/* ---- a guest that counts ---- */

/* At 0, in real mode: inc dword [0x1000]; inc dword [0x5000]; jmp to it. */
static const uint8_t counting[] = {0x66, 0xff, 0x06, 0x00, 0x10, 0x66,
                                   0xff, 0x06, 0x00, 0x50, 0xeb, 0xf4};

static int make_vcpu(uint8_t *ram, struct kvm_run **run)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    struct kvm_userspace_memory_region region = {.memory_size = VICTIM_RAM,
                                                 .userspace_addr = (uintptr_t)ram};
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rflags = 2};
    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    ioctl(vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    ioctl(vcpu, KVM_SET_SREGS, &sregs);
    ioctl(vcpu, KVM_SET_REGS, &regs);
    return vcpu;
}

/* A round is an interruption of KVM_RUN: nothing else may end it. */
static void run_kvm(struct victim *v)
{
    struct kvm_run *run;
    memcpy(v->ram, counting, sizeof(counting));
    int vcpu = make_vcpu(v->ram, &run);
    while (!is_over()) {
        long rc = ioctl(vcpu, KVM_RUN, 0);
        round_done(rc < 0 && errno == EINTR);
    }
}

const struct victim_kind victim_kinds[] = {
    {.name = "nanosleep", .run = run_nanosleep},
    {.name = "poll", .run = run_poll},
    {.name = "ppoll-with-a-mask", .run = run_ppoll},
    {.name = "futex-with-timeout", .run = run_futex},
    {.name = "epoll-with-timeout", .run = run_epoll},
    {.name = "sigtimedwait", .run = run_sigtimedwait},
    {.name = "read", .run = run_read, .waits = true},
    {.name = "spin", .run = run_spin},
    {.name = "kvm-run", .run = run_kvm, .needs_kvm = true},
};
const unsigned victim_kind_count = sizeof(victim_kinds) / sizeof(victim_kinds[0]);

const struct victim_kind *victim_kind(const char *name)
{
    for (unsigned i = 0; i < victim_kind_count; i++) {
        if (strcmp(victim_kinds[i].name, name) == 0) {
            return &victim_kinds[i];
        }
    }
    ck_abort_msg("no victim %s", name);
    return NULL;
}

bool victim_can_run(const struct victim_kind *kind)
{
    return !kind->needs_kvm || access("/dev/kvm", R_OK | W_OK) == 0;
}

/* ---- signals ---- */

static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    uint64_t turn = atomic_fetch_add(&page->signals, 1);
    if ((uint64_t)info->si_value.sival_int != turn) {
        atomic_fetch_add(&page->faults, 1);
    }
}

void victim_signal(const struct victim *v, int number)
{
    union sigval value = {.sival_int = number};
    int rc;
    while ((rc = sigqueue(v->pid, SIGRTMIN + 3, value)) < 0 && errno == EAGAIN) {
        nanosleep(&round_time, NULL);
    }
    ck_assert_int_eq(rc, 0);
}

/* ---- begin and end ---- */

static void on_end(int number)
{
    (void)number;
}

static void live(struct victim *v)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    page = v->page;
    sigaction(SIGRTMIN + 3, &action, NULL);
    signal(SIGUSR2, on_end);
    atomic_store(&page->ready, true);
    v->kind->run(v);
    _exit(0);
}

void victim_start(struct victim *v, const struct victim_kind *kind)
{
    *v = (struct victim){.kind = kind};
    v->page =
        mmap(NULL, sizeof(*v->page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    v->ram_fd = memfd_create("victim", MFD_CLOEXEC);
    ck_assert_int_eq(ftruncate(v->ram_fd, VICTIM_RAM), 0);
    v->ram = mmap(NULL, VICTIM_RAM, PROT_READ | PROT_WRITE, MAP_SHARED, v->ram_fd, 0);
    ck_assert_int_eq(pipe2(v->pipe, O_CLOEXEC), 0);
    v->pid = fork();
    if (v->pid == 0) {
        live(v);
    }
    while (!atomic_load(&v->page->ready)) {
        nanosleep(&round_time, NULL);
    }
}

static void feed(struct victim *v)
{
    if (v->kind->waits) {
        ck_assert_int_eq(write(v->pipe[1], "x", 1), 1);
    }
}

uint64_t victim_progress(const struct victim *v)
{
    const _Atomic uint32_t *counter = (const _Atomic uint32_t *)(v->ram + VICTIM_COUNTER);
    return v->kind->needs_kvm ? atomic_load(counter) : atomic_load(&v->page->rounds);
}

void victim_goes_on(struct victim *v, unsigned count)
{
    uint64_t deadline = clock_ns() + 30 * NS_PER_SEC;
    for (unsigned i = 0; i < count; i++) {
        uint64_t before = victim_progress(v);
        feed(v);
        while (victim_progress(v) == before) {
            ck_assert_uint_lt(clock_ns(), deadline);
            nanosleep(&round_time, NULL);
        }
    }
}

/* A vCPU hears of the end by a signal, which may come just before KVM_RUN: then by another. */
void victim_end(struct victim *v)
{
    int status = -1;
    uint64_t deadline = clock_ns() + 30 * NS_PER_SEC;
    atomic_store(&v->page->stop, true);
    while (waitpid(v->pid, &status, WNOHANG) == 0) {
        ck_assert_uint_lt(clock_ns(), deadline);
        feed(v);
        if (v->kind->needs_kvm) {
            kill(v->pid, SIGUSR2);
        }
        nanosleep(&round_time, NULL);
    }
    ck_assert_int_eq(status, 0);
    ck_assert_uint_eq(atomic_load(&v->page->faults), 0);
    munmap(v->page, sizeof(*v->page));
    munmap(v->ram, VICTIM_RAM);
    close(v->ram_fd);
    close(v->pipe[0]);
    close(v->pipe[1]);
}

/* ---- what is seen of it ---- */

char *victim_descriptors(const struct victim *v)
{
    char folder[40], path[300], target[256];
    char *list = NULL;
    size_t length;
    FILE *out = open_memstream(&list, &length);
    snprintf(folder, sizeof(folder), "/proc/%d/fd", v->pid);
    DIR *dir = opendir(folder);
    ck_assert_ptr_nonnull(dir);
    for (const struct dirent *e; (e = readdir(dir));) {
        snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
        ssize_t n = readlink(path, target, sizeof(target));
        fprintf(out, "%s %.*s\n", e->d_name, n < 0 ? 0 : (int)n, target);
    }
    closedir(dir);
    fclose(out);
    return list;
}

int64_t tracer_of(pid_t pid)
{
    return process_status(pid, pid, "TracerPid:", 10);
}

void await_number(int64_t (*get)(pid_t), pid_t pid, int64_t expected)
{
    uint64_t deadline = clock_ns() + 30 * NS_PER_SEC;
    while (get(pid) != expected) {
        ck_assert_uint_lt(clock_ns(), deadline);
        nanosleep(&round_time, NULL);
    }
}
