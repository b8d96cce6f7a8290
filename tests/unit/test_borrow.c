/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/clock.h"
#include "guest/borrow.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"
#include "tests/unit/victims.h"
#include "tests/unit/waits.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define BORROWS 500

/*
 * The thread sanitizer gives each victim a thread of its own, and drops signals that come while it
 * keeps one of their kind.
 */
static bool has_other_thread(void)
{
#ifdef __SANITIZE_THREAD__
    fprintf(stderr, "skipped: the thread sanitizer adds a thread to the victim\n");
    return true;
#else
    return false;
#endif
}

/* Fails the test unless it is a userfaultfd of that process's memory. */
static void expect_userfaultfd(int fd, pid_t pid, const void *range)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
    struct uffdio_register reg = {.range = {.start = (uintptr_t)range, .len = 4096},
                                  .mode = UFFDIO_REGISTER_MODE_WP};
    char path[40], text[256] = "";
    ck_assert_int_eq(ioctl(fd, UFFDIO_API, &api), 0);
    ck_assert_int_eq(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
    snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
    FILE *smaps = fopen(path, "re");
    bool here = false, registered = false;
    while (fgets(text, sizeof(text), smaps)) {
        unsigned long start, end;
        if (sscanf(text, "%lx-%lx ", &start, &end) == 2) {
            here = start <= (uintptr_t)range && (uintptr_t)range < end;
        }
        registered |= here && strncmp(text, "VmFlags:", 8) == 0 && strstr(text, " uw");
    }
    fclose(smaps);
    ck_assert(registered);
}

static void borrow_once(pid_t pid)
{
    struct error *err = NULL;
    uint64_t stopped = 0;
    int fd = borrow_userfaultfd(pid, &patient, &stopped, &err);
    expect_ok(fd >= 0, err);
    ck_assert_uint_gt(stopped, 0);
    close(fd);
}

static void expect_untouched(struct victim *v, char *descriptors)
{
    char *now = victim_descriptors(v);
    ck_assert_str_eq(now, descriptors);
    ck_assert_int_eq(tracer_of(v->pid), 0);
    free(now);
    free(descriptors);
}

/* The victims tell themselves what went wrong in them. */
START_TEST(each_state)
{
    const struct victim_kind *kind = &victim_kinds[_i];
    struct victim v;
    if (!victim_can_run(kind)) {
        fprintf(stderr, "skipped: %s: /dev/kvm is missing\n", kind->name);
        return;
    }
    victim_start(&v, kind);
    victim_goes_on(&v, 1);
    char *descriptors = victim_descriptors(&v);
    for (int i = 0; i < BORROWS; i++) {
        borrow_once(v.pid);
    }
    victim_goes_on(&v, 3);
    expect_untouched(&v, descriptors);
    victim_end(&v);
}
END_TEST

START_TEST(what_it_is)
{
    struct error *err = NULL;
    struct victim v;
    uint64_t stopped;
    victim_start(&v, victim_kind("poll"));
    int fd = borrow_userfaultfd(v.pid, &patient, &stopped, &err);
    expect_ok(fd >= 0, err);
    expect_userfaultfd(fd, v.pid, v.page);
    close(fd);
    victim_end(&v);
}
END_TEST

#define SIGNALS 5000

struct storm {
    struct victim *victim;
    _Atomic bool over;
};

static void *send_signals(void *opaque)
{
    struct storm *s = opaque;
    for (int i = 0; i < SIGNALS; i++) {
        victim_signal(s->victim, i);
    }
    atomic_store(&s->over, true);
    return NULL;
}

static int64_t signals_of(const struct victim *v)
{
    return (int64_t)atomic_load(&v->page->signals);
}

/* None is lost and none comes twice, or out of its turn. */
START_TEST(signals)
{
    const struct victim_kind *kind = &victim_kinds[_i];
    struct victim v;
    pthread_t thread;
    if (has_other_thread()) {
        return;
    }
    if (!victim_can_run(kind)) {
        fprintf(stderr, "skipped: %s: /dev/kvm is missing\n", kind->name);
        return;
    }
    victim_start(&v, kind);
    struct storm storm = {.victim = &v};
    pthread_create(&thread, NULL, send_signals, &storm);
    do {
        borrow_once(v.pid);
    } while (!atomic_load(&storm.over));
    pthread_join(thread, NULL);
    uint64_t deadline = clock_ns() + 30 * NS_PER_SEC;
    while (signals_of(&v) < SIGNALS) {
        ck_assert_uint_lt(clock_ns(), deadline);
        victim_goes_on(&v, 1);
    }
    ck_assert_int_eq(signals_of(&v), SIGNALS);
    victim_end(&v);
}
END_TEST

/* As proc_pid_stat(5) has it. */
static int64_t state_of(pid_t pid)
{
    char path[40], state = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *stat = fopen(path, "re");
    if (!stat || fscanf(stat, "%*d %*s %c", &state) != 1) {
        state = 0;
    }
    if (stat) {
        fclose(stat);
    }
    return state;
}

START_TEST(stopped_stays_stopped)
{
    struct victim v;
    victim_start(&v, victim_kind("read"));
    kill(v.pid, SIGSTOP);
    await_number(state_of, v.pid, 'T');
    uint64_t before = victim_progress(&v);
    ck_assert_int_eq(write(v.pipe[1], "x", 1), 1);
    for (int i = 0; i < BORROWS; i++) {
        borrow_once(v.pid);
        await_number(state_of, v.pid, 'T');
    }
    ck_assert_uint_eq(victim_progress(&v), before);
    kill(v.pid, SIGCONT);
    victim_goes_on(&v, 3);
    victim_end(&v);
}
END_TEST

static void *stop_and_continue(void *opaque)
{
    struct storm *s = opaque;
    for (int i = 0; i < 2000; i++) {
        kill(s->victim->pid, i % 2 ? SIGCONT : SIGSTOP);
    }
    atomic_store(&s->over, true);
    return NULL;
}

START_TEST(stopped_meanwhile)
{
    struct victim v;
    pthread_t thread;
    victim_start(&v, victim_kind("spin"));
    struct storm storm = {.victim = &v};
    pthread_create(&thread, NULL, stop_and_continue, &storm);
    do {
        borrow_once(v.pid);
    } while (!atomic_load(&storm.over));
    pthread_join(thread, NULL);
    victim_goes_on(&v, 3);
    victim_end(&v);
}
END_TEST

/* ---- ferryd killed in the midst ---- */

static void borrow_for_ever(pid_t pid)
{
    uint64_t stopped;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        close(borrow_userfaultfd(pid, &patient, &stopped, NULL));
    }
}

START_TEST(killed_in_the_midst)
{
    const struct victim_kind *kind = &victim_kinds[_i];
    struct victim v;
    uint64_t seed = (uint64_t)_i + 1;
    if (!victim_can_run(kind)) {
        fprintf(stderr, "skipped: %s: /dev/kvm is missing\n", kind->name);
        return;
    }
    victim_start(&v, kind);
    victim_goes_on(&v, 1);
    char *descriptors = victim_descriptors(&v);
    for (int i = 0; i < 50; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            borrow_for_ever(v.pid);
        }
        struct timespec moment = {.tv_nsec = (long)(next_random(&seed) % (5 * NS_PER_MS))};
        nanosleep(&moment, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    await_number(tracer_of, v.pid, 0);
    victim_goes_on(&v, 3);
    expect_untouched(&v, descriptors);
    victim_end(&v);
}
END_TEST

/* ---- what can't be ---- */

static void expect_refused(pid_t pid, const char *code, const char *part)
{
    struct error *err = NULL;
    uint64_t stopped;
    ck_assert(!borrow_permitted(pid, &err));
    expect_error(err, code, part);
    err = NULL;
    ck_assert_int_eq(borrow_userfaultfd(pid, &patient, &stopped, &err), -1);
    expect_error(err, code, part);
}

/* A filter that ends the process at userfaultfd(). */
static void filter_userfaultfd(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
        abort();
    }
}

static void run_filtered(struct victim *v)
{
    filter_userfaultfd();
    victim_kind("poll")->run(v);
}

static const struct victim_kind filtered = {.name = "filtered", .run = run_filtered};

START_TEST(seccomp_suspended)
{
    struct victim v;
    if (geteuid() != 0) {
        fprintf(stderr, "skipped: suspending a filter takes root\n");
        return;
    }
    victim_start(&v, &filtered);
    victim_goes_on(&v, 1);
    for (int i = 0; i < 20; i++) {
        borrow_once(v.pid);
    }
    victim_goes_on(&v, 3);
    victim_end(&v);
}
END_TEST

/* One who has a filter can't suspend another's. */
START_TEST(seccomp_refused)
{
    struct victim v;
    if (has_other_thread()) {
        return;
    }
    victim_start(&v, &filtered);
    victim_goes_on(&v, 1);
    filter_userfaultfd();
    expect_refused(v.pid, "no-permission", "seccomp");
    victim_goes_on(&v, 3);
    victim_end(&v);
}
END_TEST

START_TEST(traced_by_another)
{
    struct victim v;
    int ready = eventfd(0, 0);
    eventfd_t value;
    if (has_other_thread()) {
        return;
    }
    victim_start(&v, victim_kind("poll"));
    pid_t debugger = fork();
    if (debugger == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        ptrace(PTRACE_SEIZE, v.pid, NULL, NULL);
        eventfd_write(ready, 1);
        pause();
    }
    eventfd_read(ready, &value);
    char name[40];
    snprintf(name, sizeof(name), "by process %d", debugger);
    expect_refused(v.pid, "no-permission", name);
    kill(debugger, SIGKILL);
    waitpid(debugger, NULL, 0);
    borrow_once(v.pid);
    victim_end(&v);
    close(ready);
}
END_TEST

START_TEST(another_user)
{
    struct victim v;
    if (geteuid() != 0) {
        fprintf(stderr, "skipped: only root can become another user\n");
        return;
    }
    victim_start(&v, victim_kind("poll"));
    pid_t pid = fork();
    if (pid == 0) {
        struct error *err = NULL;
        bool refused = setresuid(65534, 65534, 65534) == 0 && !borrow_permitted(v.pid, &err) &&
                       strcmp(err->code, "no-permission") == 0 &&
                       strstr(err->text, "CAP_SYS_PTRACE");
        error_free(err);
        _exit(refused ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    ck_assert_int_eq(status, 0);
    victim_end(&v);
}
END_TEST

/* ferryd need not be root: the VMM's own user will do. */
START_TEST(same_user)
{
    struct victim v;
    if (geteuid() == 0) {
        ck_assert_int_eq(setresuid(65534, 65534, 65534), 0);
        prctl(PR_SET_DUMPABLE, 1);
    }
    victim_start(&v, victim_kind("futex-with-timeout"));
    for (int i = 0; i < 20; i++) {
        borrow_once(v.pid);
    }
    victim_end(&v);
}
END_TEST

START_TEST(process_gone)
{
    pid_t pid = fork();
    siginfo_t info;
    if (pid == 0) {
        _exit(0);
    }
    waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
    struct error *err = NULL;
    ck_assert(!borrow_permitted(pid, &err));
    expect_error(err, "guest-lost", NULL);
    waitpid(pid, NULL, 0);
    expect_refused(pid, "guest-lost", NULL);
}
END_TEST

static void run_unlucky(struct victim *v)
{
    (void)v;
    /* The child of vfork() keeps its parent from stopping. */
    if (vfork() == 0) {
        sleep(3600);
        _exit(0);
    }
}

static const struct victim_kind unlucky = {.name = "unlucky", .run = run_unlucky};

/* In uninterruptible sleep no thread stops; it is left as it was. */
START_TEST(does_not_stop)
{
    const struct wait brief = {.cancel_fd = -1, .timeout_ms = 200, .what = "the test"};
    struct error *err = NULL;
    struct victim v;
    uint64_t stopped;
    if (has_other_thread()) {
        return;
    }
    victim_start(&v, &unlucky);
    await_number(state_of, v.pid, 'D');
    ck_assert_int_eq(borrow_userfaultfd(v.pid, &brief, &stopped, &err), -1);
    expect_error(err, "guest-timeout", NULL);
    ck_assert_int_eq(tracer_of(v.pid), 0);
    kill(v.pid, SIGKILL);
    waitpid(v.pid, NULL, 0);
}
END_TEST

START_TEST(cancelled)
{
    struct error *err = NULL;
    struct victim v;
    uint64_t stopped;
    int cancel = eventfd(1, 0);
    const struct wait w = {.cancel_fd = cancel, .timeout_ms = 30000, .what = "the test"};
    victim_start(&v, victim_kind("poll"));
    char *descriptors = victim_descriptors(&v);
    for (int i = 0; i < 50; i++) {
        ck_assert_int_eq(borrow_userfaultfd(v.pid, &w, &stopped, &err), -1);
        expect_error(err, "cancelled", NULL);
        err = NULL;
    }
    await_number(tracer_of, v.pid, 0);
    victim_goes_on(&v, 3);
    expect_untouched(&v, descriptors);
    victim_end(&v);
    close(cancel);
}
END_TEST

/* None of them has a free descriptor for it. */
static void run_full(struct victim *v)
{
    while (dup(0) >= 0) {
    }
    victim_kind("poll")->run(v);
}

static const struct victim_kind full = {.name = "full", .run = run_full};

START_TEST(no_descriptor_left)
{
    struct error *err = NULL;
    struct victim v;
    uint64_t stopped;
    victim_start(&v, &full);
    victim_goes_on(&v, 1);
    ck_assert_int_eq(borrow_userfaultfd(v.pid, &patient, &stopped, &err), -1);
    expect_error(err, "no-tracking", "Too many open files");
    victim_goes_on(&v, 3);
    victim_end(&v);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/borrow");
    unit_add_loop(suite, "guest/borrow/each-state", each_state, victim_kind_count);
    unit_add_loop(suite, "guest/borrow/signals", signals, victim_kind_count);
    unit_add_loop(suite, "guest/borrow/killed-in-the-midst", killed_in_the_midst,
                  victim_kind_count);
    unit_add(suite, "guest/borrow/what-it-is", what_it_is);
    unit_add(suite, "guest/borrow/stopped-stays-stopped", stopped_stays_stopped);
    unit_add(suite, "guest/borrow/stopped-meanwhile", stopped_meanwhile);
    unit_add(suite, "guest/borrow/seccomp-suspended", seccomp_suspended);
    unit_add(suite, "guest/borrow/seccomp-refused", seccomp_refused);
    unit_add(suite, "guest/borrow/traced-by-another", traced_by_another);
    unit_add(suite, "guest/borrow/another-user", another_user);
    unit_add(suite, "guest/borrow/same-user", same_user);
    unit_add(suite, "guest/borrow/process-gone", process_gone);
    unit_add(suite, "guest/borrow/does-not-stop", does_not_stop);
    unit_add(suite, "guest/borrow/cancelled", cancelled);
    unit_add(suite, "guest/borrow/no-descriptor-left", no_descriptor_left);
    return unit_run(suite);
}
