/* SPDX-License-Identifier: BSD-3-Clause */
/* The plan and the outcome; borrow_thread.c does it. */
#include "guest/borrow.h"

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fdpass.h"
#include "common/log.h"
#include "guest/borrow_thread.h"
#include "guest/helper.h"
#include "guest/maps.h"
#include "guest/process.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

/* A vDSO has one or two pages. */
#define VDSO_MAX (64u << 10)
/* Between two attempts, when no thread was fit. */
#define AGAIN_NS          NS_PER_MS

#define CAP_SYS_ADMIN_BIT 21

static void set_not_permitted(pid_t pid, int err, struct error **errp)
{
    char scope[80] = "";
    int fd = open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC);
    char digit = '0';
    if (fd >= 0 && read(fd, &digit, 1) == 1 && digit != '0') {
        snprintf(scope, sizeof(scope),
                 " (kernel.yama.ptrace_scope is %c here: 0 or CAP_SYS_PTRACE)", digit);
    }
    fd_close(&fd);
    error_set(errp, "no-permission",
              "Process %d may not be traced (%s): run ferryd as the same user as the process, or "
              "with CAP_SYS_PTRACE%s",
              pid, strerror(err), scope);
}

static void set_lost(pid_t pid, struct error **errp)
{
    error_set(errp, "guest-lost", "There is no process %d any more", pid);
}

/* ---- what the process is like ---- */

/* Being allowed to fetch a descriptor, though there is none of that number, is being allowed to
 * trace (pidfd_getfd(2)). */
static bool check_access(pid_t pid, struct error **errp)
{
    CLEANUP_CLOSE int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd >= 0) {
        syscall(SYS_pidfd_getfd, pidfd, INT_MAX, 0);
    }
    if (errno == ESRCH) {
        set_lost(pid, errp);
    } else if (pidfd < 0 || errno == ENOSYS) {
        error_set(errp, "system-error", "pidfd_getfd: %s", strerror(errno));
    } else if (errno != EBADF) {
        set_not_permitted(pid, errno, errp);
    } else {
        return true;
    }
    return false;
}

static bool check_program(pid_t pid, struct error **errp)
{
    char path[40];
    Elf64_Ehdr header = {0};
    snprintf(path, sizeof(path), "/proc/%d/exe", pid);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, &header, sizeof(header)) != sizeof(header)) {
        error_set(errp, errno == ENOENT ? "guest-lost" : "no-permission",
                  "The program of process %d can't be read: %s", pid, strerror(errno));
        return false;
    }
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64) {
        error_set(errp, "no-tracking",
                  "Process %d is no 64-bit x86-64 program; only those can be tracked from outside",
                  pid);
        return false;
    }
    return true;
}

/* Finds the instruction `syscall` in the mapping. */
static bool find_in(pid_t pid, const struct map_entry *vdso, uint64_t *at, struct error **errp)
{
    static const uint8_t code[] = {0x0f, 0x05};
    char path[40];
    uint64_t length = vdso->end - vdso->start;
    if (length > VDSO_MAX) {
        length = VDSO_MAX;
    }
    CLEANUP_FREE uint8_t *copy = malloc(length);
    if (!copy) {
        abort();
    }
    snprintf(path, sizeof(path), "/proc/%d/mem", pid);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, copy, length, (off_t)vdso->start);
    if (n < 0) {
        set_not_permitted(pid, errno, errp);
        return false;
    }
    const uint8_t *found = memmem(copy, (size_t)n, code, sizeof(code));
    if (!found) {
        error_set(errp, "no-tracking", "The vDSO of process %d makes no system calls", pid);
        return false;
    }
    *at = vdso->start + (uint64_t)(found - copy);
    return true;
}

static bool find_syscall(pid_t pid, uint64_t *at, struct error **errp)
{
    struct map_entry entry;
    struct error *err = NULL;
    bool found = false, any = false;
    struct maps *maps = maps_open(pid, errp);
    if (!maps) {
        return false;
    }
    while (!found && maps_next(maps, &entry, &err)) {
        any = true;
        found = strcmp(entry.path, "[vdso]") == 0;
    }
    if (err) {
        error_move(errp, err);
    } else if (!any) {
        set_lost(pid, errp);
    } else if (!found) {
        error_set(errp, "no-tracking", "Process %d has no vDSO, which tracking needs", pid);
    }
    found = found && find_in(pid, &entry, at, errp);
    maps_close(maps);
    return found;
}

/* ---- which threads, and in which order ---- */

/* The best of the threads seen, and why others were left out. */
struct choice {
    struct borrow_plan *plan;
    unsigned ranks[BORROW_THREADS_MAX];
    int64_t tracer; /* of the last thread that is traced, or 0 */
    bool filtered;  /* a thread has a seccomp filter */
    bool can_suspend;
};

static bool can_suspend_seccomp(void)
{
    pid_t self = getpid(), thread = (pid_t)syscall(SYS_gettid);
    return process_status(self, thread, "Seccomp:", 10) == 0 &&
           (process_status(self, thread, "CapEff:", 16) >> CAP_SYS_ADMIN_BIT & 1);
}

/*
 * 0: blocked in a call that the kernel restarts.  1: it runs, or nobody can tell.  2: in an ioctl,
 * as KVM_RUN, which fails with EINTR.  3: in a call that waits anew.  4: it can't be interrupted
 * now.
 */
static unsigned rank_call(pid_t pid, pid_t tid)
{
    long number;
    if (process_is_stuck(pid, tid)) {
        return 4;
    }
    if (!process_syscall(pid, tid, &number)) {
        return 1;
    }
    return number == SYS_ioctl ? 2 : borrow_restarts(number) ? 0 : 3;
}

static bool is_free(struct choice *c, pid_t tid)
{
    int64_t tracer = process_status(c->plan->pid, tid, "TracerPid:", 10);
    if (tracer > 0) {
        c->tracer = tracer;
        return false;
    }
    if (tracer == 0 && !c->can_suspend && process_status(c->plan->pid, tid, "Seccomp:", 10) > 0) {
        c->filtered = true;
        return false;
    }
    return tracer == 0;
}

/* In the order of their ranks; the main thread is the first of its rank. */
static void insert(struct choice *c, pid_t tid)
{
    struct borrow_plan *plan = c->plan;
    unsigned rank = 2 * rank_call(plan->pid, tid) + (tid != plan->pid);
    if (plan->count == BORROW_THREADS_MAX && c->ranks[plan->count - 1] <= rank) {
        return;
    }
    unsigned at = plan->count < BORROW_THREADS_MAX ? plan->count++ : BORROW_THREADS_MAX - 1;
    for (; at > 0 && c->ranks[at - 1] > rank; at--) {
        c->ranks[at] = c->ranks[at - 1];
        plan->tids[at] = plan->tids[at - 1];
    }
    c->ranks[at] = rank;
    plan->tids[at] = tid;
}

static bool set_no_thread(const struct choice *c, struct error **errp)
{
    pid_t pid = c->plan->pid;
    if (c->filtered) {
        error_set(errp, "no-permission",
                  "Process %d has a seccomp filter, which only a ferryd with CAP_SYS_ADMIN and "
                  "without a seccomp filter of its own can suspend",
                  pid);
    } else if (c->tracer && process_is_called((pid_t)c->tracer, HELPER_NAME)) {
        error_set(errp, "guest-timeout",
                  "Process %d is held by a helper of a ferryd: try "
                  "again when it is not",
                  pid);
    } else if (c->tracer) {
        error_set(errp, "no-permission",
                  "Process %d is traced by process %" PRId64 " (a debugger?): end that first", pid,
                  c->tracer);
    } else {
        set_lost(pid, errp);
    }
    return false;
}

static bool choose_threads(struct borrow_plan *plan, struct error **errp)
{
    struct choice c = {.plan = plan, .can_suspend = can_suspend_seccomp()};
    char path[40];
    snprintf(path, sizeof(path), "/proc/%d/task", plan->pid);
    DIR *folder = opendir(path);
    if (!folder) {
        set_lost(plan->pid, errp);
        return false;
    }
    for (const struct dirent *e; (e = readdir(folder));) {
        pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
        if (tid > 0 && !process_is_worker(plan->pid, tid) && is_free(&c, tid)) {
            insert(&c, tid);
        }
    }
    closedir(folder);
    return plan->count > 0 || set_no_thread(&c, errp);
}

static bool make_plan(struct borrow_plan *plan, pid_t pid, struct error **errp)
{
    *plan = (struct borrow_plan){.pid = pid};
    return check_access(pid, errp) && check_program(pid, errp) &&
           find_syscall(pid, &plan->syscall_at, errp) && choose_threads(plan, errp);
}

bool borrow_permitted(pid_t pid, struct error **errp)
{
    struct borrow_plan plan;
    return make_plan(&plan, pid, errp);
}

/* ---- the outcome ---- */

struct cause {
    const char *code, *text;
};

static const struct cause causes[] = {
    [BORROW_NONE] = {.code = "guest-timeout",
                     .text = "none of its threads could be stopped in time"},
    [BORROW_FORBIDDEN] = {.code = "no-permission", .text = "its threads may not be traced"},
    [BORROW_SECCOMP] = {.code = "no-permission",
                        .text = "it has a seccomp filter, which only a ferryd with CAP_SYS_ADMIN "
                                "and without a seccomp filter of its own can suspend"},
    [BORROW_NOT_64_BIT] = {.code = "no-tracking", .text = "it does not run 64-bit x86-64 code"},
    [BORROW_REFUSED] = {.code = "no-tracking",
                        .text = "userfaultfd(2) failed in it (Linux 6.7 or later is needed, a free "
                                "descriptor, and a security policy that allows it)"},
    [BORROW_NOT_TAKEN] = {.code = "no-tracking", .text = "its userfaultfd can't be fetched"},
};

static void set_outcome(pid_t pid, const struct borrow_report *report, struct error **errp)
{
    const struct cause *cause = &causes[report->outcome];
    if (report->err) {
        error_set(errp, cause->code, "Process %d can't be tracked: %s (%s)", pid, cause->text,
                  strerror(report->err));
    } else {
        error_set(errp, cause->code, "Process %d can't be tracked: %s", pid, cause->text);
    }
}

/* What is left of the wait. */
static struct wait remaining(const struct wait *w, uint64_t deadline_ns)
{
    struct wait left = *w;
    uint64_t now = clock_ns();
    if (w->timeout_ms >= 0) {
        left.timeout_ms = deadline_ns > now ? (int)((deadline_ns - now) / NS_PER_MS) + 1 : 0;
    }
    return left;
}

static bool take_report(const struct helper *h, const struct borrow_plan *plan,
                        const struct wait *w, struct borrow_report *report, int *fd,
                        struct error **errp)
{
    struct error *err = NULL;
    if (!wait_fd(h->sock, POLLIN, w, &err)) {
        if (strcmp(err->code, "timeout") == 0) {
            error_set(errp, "guest-timeout", "No thread of process %d came back in time",
                      plan->pid);
        }
        error_move(errp, err);
        return false;
    }
    if (fdpass_recv(h->sock, report, sizeof(*report), fd) != sizeof(*report)) {
        error_set(errp, "system-error", "The helper for process %d has ended early", plan->pid);
        return false;
    }
    return true;
}

/* True with a report. */
static bool run_helper(const struct borrow_plan *plan, const struct wait *w,
                       struct borrow_report *report, int *fd, struct error **errp)
{
    struct helper helper;
    if (!helper_start(&helper, borrow_main, plan, errp)) {
        return false;
    }
    bool ok = take_report(&helper, plan, w, report, fd, errp);
    if (!helper_end(&helper)) {
        log_warning("The thread of process %d that was to make a userfaultfd gets no CPU",
                    plan->pid);
    }
    return ok;
}

int borrow_userfaultfd(pid_t pid, const struct wait *w, uint64_t *stopped_ns, struct error **errp)
{
    struct borrow_plan plan;
    struct borrow_report report;
    CLEANUP_CLOSE int fd = -1;
    uint64_t deadline =
        w->timeout_ms < 0 ? UINT64_MAX : clock_ns() + (uint64_t)w->timeout_ms * NS_PER_MS;
    do {
        struct wait left = remaining(w, deadline);
        if (!make_plan(&plan, pid, errp)) {
            return -1;
        }
        plan.deadline_ns = deadline;
        if (!run_helper(&plan, &left, &report, &fd, errp)) {
            return -1;
        }
    } while (report.outcome == BORROW_NONE && clock_ns() < deadline && wait_ns(AGAIN_NS, w, errp));
    if (report.outcome != BORROW_DONE) {
        set_outcome(pid, &report, errp);
        return -1;
    }
    *stopped_ns = report.stopped_ns;
    return fd_steal(&fd);
}
