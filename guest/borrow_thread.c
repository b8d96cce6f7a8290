/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The borrowing itself.  The rules that it follows:
 *
 * Registers are altered and restored only while the thread stands inside the kernel's delivery of
 * signals (a PTRACE_EVENT_STOP).  There the kernel looks at the registers after the stop: with
 * orig_rax = -1 it restarts nothing, so the call that was interrupted does not get in the way of
 * ours, and with the old registers it restarts what it would have restarted without us.  The
 * restart block of calls with timeouts is touched neither by userfaultfd(2) nor by close(2).
 *
 * All signals are blocked in the thread meanwhile, so none is delivered on the altered registers:
 * they stay pending, in their order and with all they carry.  SIGSTOP can't be blocked and needs
 * no frame: it is passed on, and the thread, though its process is stopped, does our calls.  (A
 * mask that only lasts for a call, as ppoll's, counts as the mask behind it: the call is restarted
 * and sets its own again, and then takes a signal that waits for it.)
 *
 * The general registers are enough: `syscall` clobbers rax, rcx and r11 and nothing else, and the
 * kernel keeps the others' contents (floating point, vectors) for the thread whatever it does.
 *
 * Until a thread's registers are altered everything has a deadline.  From then on there is none:
 * the thread must be brought back.
 */
#include "guest/borrow_thread.h"

#include "common/clock.h"
#include "common/fdpass.h"
#include "guest/helper.h"
#include "guest/process.h"
#include "guest/tracee.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* A thread that does not stop within this time sleeps uninterruptibly, or gets no CPU. */
#define STOP_NS       (20 * NS_PER_MS)

#define SYSCALL_BYTES 0x050fu /* 0f 05, little-endian */
#define SIGSET_BYTES  8ul     /* of the kernel's sigset_t */

/* The restart code for "as often as it takes, but not past a handler": include/linux/errno.h. */
#define ERESTARTNOHAND 514

struct borrow {
    const struct borrow_plan *plan;
    int pidfd;
    pid_t tid;
    int status;   /* the thread's, as waitpid last told it */
    bool stopped; /* it has not gone on since then */
    bool gone;
    struct user_regs_struct regs; /* the thread's own */
    uint64_t mask;                /* its blocked signals */
    struct borrow_report report;
    int fd;
};

/*
 * Calls that fail with EINTR when a thread is stopped and goes on, though no handler has run
 * (signal(7)), and that have done nothing by then.  io_uring_enter fails so only when it has
 * submitted nothing.
 */
static const long not_restarted[] = {
    SYS_epoll_wait,   SYS_epoll_pwait,   SYS_epoll_pwait2,    SYS_semop,          SYS_semtimedop,
    SYS_io_getevents, SYS_io_pgetevents, SYS_rt_sigtimedwait, SYS_io_uring_enter,
};

bool borrow_restarts(long number)
{
    for (size_t i = 0; i < sizeof(not_restarted) / sizeof(not_restarted[0]); i++) {
        if (not_restarted[i] == number) {
            return false;
        }
    }
    return true;
}

static bool fail(struct borrow *b, enum borrow_outcome outcome, int err)
{
    b->report.outcome = outcome;
    b->report.err = err;
    return false;
}

/* ---- stopping a thread ---- */

/* Since the plan was made. */
static bool is_traced(const struct borrow *b)
{
    return process_status(b->plan->pid, b->tid, "TracerPid:", 10) > 0;
}

/* Without a way to suspend them, only a thread without seccomp filters is taken. */
static bool seize(struct borrow *b)
{
    int rc = tracee_seize(b->tid, PTRACE_O_SUSPEND_SECCOMP);
    if (rc == -EPERM || rc == -EINVAL) {
        if (process_status(b->plan->pid, b->tid, "Seccomp:", 10) > 0) {
            return fail(b, BORROW_SECCOMP, -rc);
        }
        rc = tracee_seize(b->tid, 0);
    }
    if (rc == -ESRCH || (rc == -EPERM && is_traced(b))) {
        return fail(b, BORROW_NONE, -rc);
    }
    return rc == 0 || fail(b, BORROW_FORBIDDEN, -rc);
}

/*
 * The borrowed thread's next state until `deadline_ns`; false at the deadline or when it has ended.
 * Others that stop are threads that were given up: they go on.
 */
static bool await_thread(struct borrow *b, uint64_t deadline_ns)
{
    int status;
    pid_t tid;
    while ((tid = tracee_next(&status, deadline_ns)) > 0) {
        bool gone = tracee_state(status) == TRACEE_GONE;
        if (tid == b->tid) {
            b->status = status;
            b->stopped = !gone;
            b->gone = gone;
            return !gone;
        }
        if (!gone) {
            tracee_let_go(tid, status);
        }
    }
    b->gone = tid < 0;
    return false;
}

static void go_on(struct borrow *b, enum __ptrace_request how, int signal)
{
    b->stopped = false;
    ptrace(how, b->tid, NULL, (long)signal);
}

static bool stop_thread(struct borrow *b)
{
    uint64_t deadline = clock_ns() + STOP_NS;
    ptrace(PTRACE_INTERRUPT, b->tid, NULL, NULL);
    while (await_thread(b, deadline)) {
        if (tracee_state(b->status) == TRACEE_EVENT) {
            return true;
        }
        go_on(b, PTRACE_CONT, tracee_signal(b->status));
    }
    return fail(b, BORROW_NONE, 0);
}

/*
 * Inside a restartable sequence (rseq(2)) a detour would pass unnoticed: the kernel forgets the
 * sequence when it finds the thread elsewhere, and it must be aborted instead.  They last for
 * nanoseconds; only user code has them.
 */
static bool in_rseq(const struct borrow *b)
{
    struct __ptrace_rseq_configuration config = {0};
    uint64_t sequence;
    return (long)b->regs.orig_rax < 0 &&
           ptrace(PTRACE_GET_RSEQ_CONFIGURATION, b->tid, sizeof(config), &config) > 0 &&
           config.rseq_abi_pointer && tracee_peek(b->tid, config.rseq_abi_pointer + 8, &sequence) &&
           sequence != 0;
}

/* The process may also have become another program since the plan was made. */
static bool is_fit(const struct borrow *b)
{
    uint64_t code;
    return tracee_peek(b->tid, b->plan->syscall_at, &code) && (code & 0xffff) == SYSCALL_BYTES &&
           !in_rseq(b);
}

/* ---- the calls ---- */

static bool set_mask(const struct borrow *b, uint64_t mask)
{
    return ptrace(PTRACE_SETSIGMASK, b->tid, SIGSET_BYTES, &mask) == 0;
}

static bool block_signals(struct borrow *b)
{
    return ptrace(PTRACE_GETSIGMASK, b->tid, SIGSET_BYTES, &b->mask) == 0 && set_mask(b, ~0ULL);
}

/* What the thread goes on with while it has other registers than its own. */
static int passed_on(int status)
{
    return tracee_signal(status) == SIGSTOP ? SIGSTOP : 0;
}

/*
 * Lets the thread go on to the next entry to, or exit from, a system call.  False when it has not
 * come there until the deadline, has ended, or got a signal that can't be blocked: a fault, as the
 * instruction is gone.
 */
static bool run_to_call(struct borrow *b, uint64_t deadline_ns)
{
    do {
        if (tracee_signal(b->status) != passed_on(b->status)) {
            return false;
        }
        go_on(b, PTRACE_SYSCALL, passed_on(b->status));
        if (!await_thread(b, deadline_ns)) {
            return false;
        }
    } while (tracee_state(b->status) != TRACEE_CALL);
    return true;
}

/* Registers with which the kernel restarts nothing, and that are about to make a system call. */
static struct user_regs_struct call_regs(const struct borrow *b, long number, uint64_t argument)
{
    struct user_regs_struct regs = b->regs;
    regs.rip = b->plan->syscall_at;
    regs.orig_rax = (unsigned long long)-1;
    regs.rax = (unsigned long long)number;
    regs.rdi = argument;
    return regs;
}

/* Makes the thread call `number`; its result.  The deadline is for the call's begin. */
static bool call(struct borrow *b, long number, uint64_t argument, uint64_t deadline_ns,
                 long *result)
{
    struct user_regs_struct regs = call_regs(b, number, argument);
    if (!tracee_write(b->tid, &regs) || !run_to_call(b, deadline_ns) ||
        !run_to_call(b, UINT64_MAX) || !tracee_read(b->tid, &regs)) {
        return fail(b, BORROW_NONE, 0);
    }
    *result = (long)regs.rax;
    return true;
}

/* A process whose threads don't share their descriptors might have given us another. */
static bool is_userfaultfd(int fd)
{
    static const char expected[] = "anon_inode:[userfaultfd]";
    char path[40], target[sizeof(expected)];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return readlink(path, target, sizeof(target)) == sizeof(expected) - 1 &&
           memcmp(target, expected, sizeof(expected) - 1) == 0;
}

static bool take(struct borrow *b, int theirs)
{
    b->fd = (int)syscall(SYS_pidfd_getfd, b->pidfd, theirs, 0);
    if (b->fd < 0) {
        return fail(b, BORROW_NOT_TAKEN, errno);
    }
    return is_userfaultfd(b->fd) || fail(b, BORROW_NOT_TAKEN, EBADF);
}

static bool make_userfaultfd(struct borrow *b)
{
    const uint64_t flags = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;
    long fd, closed;
    if (!call(b, SYS_userfaultfd, flags, clock_ns() + STOP_NS, &fd)) {
        return false;
    }
    if (fd < 0) {
        return fail(b, BORROW_REFUSED, (int)-fd);
    }
    bool taken = take(b, (int)fd);
    return call(b, SYS_close, (uint64_t)fd, UINT64_MAX, &closed) && taken;
}

/* ---- giving it back ---- */

/* At the entry to a call that is not wanted any more this voids it. */
static void void_call(struct borrow *b)
{
    struct user_regs_struct regs = call_regs(b, -1, 0);
    tracee_write(b->tid, &regs);
}

/*
 * Brings the thread back to where registers may be put back, wherever it is.  An interrupt is acted
 * on before anything of user mode runs.
 */
static void come_back(struct borrow *b)
{
    if (b->gone) {
        return;
    }
    ptrace(PTRACE_INTERRUPT, b->tid, NULL, NULL);
    do {
        if (b->stopped && tracee_state(b->status) == TRACEE_CALL) {
            void_call(b);
        }
        if (b->stopped) {
            go_on(b, PTRACE_CONT, passed_on(b->status));
        }
    } while (await_thread(b, UINT64_MAX) && tracee_state(b->status) != TRACEE_EVENT);
}

/* As if the thread had not been stopped in its call. */
static void hide_interruption(struct user_regs_struct *regs)
{
    if ((long)regs->orig_rax >= 0 && (long)regs->rax == -EINTR &&
        !borrow_restarts((long)regs->orig_rax)) {
        regs->rax = (unsigned long long)-ERESTARTNOHAND;
    }
}

static void use_thread(struct borrow *b)
{
    if (!tracee_read(b->tid, &b->regs)) {
        fail(b, BORROW_NOT_64_BIT, 0);
        return;
    }
    bool fit = is_fit(b) && block_signals(b);
    if (!fit) {
        fail(b, BORROW_NONE, 0);
    } else {
        make_userfaultfd(b);
        come_back(b);
    }
    hide_interruption(&b->regs);
    tracee_write(b->tid, &b->regs); /* fails when it is gone */
    if (fit) {
        set_mask(b, b->mask);
    }
}

static void borrow_thread(struct borrow *b, pid_t tid)
{
    b->tid = tid;
    b->gone = b->stopped = false;
    b->report = (struct borrow_report){.outcome = BORROW_DONE};
    if (!seize(b)) {
        return;
    }
    uint64_t begun = clock_ns();
    if (stop_thread(b)) {
        use_thread(b);
    }
    if (b->stopped) {
        tracee_let_go(tid, b->status);
    }
    b->report.stopped_ns = clock_ns() - begun;
}

/* ---- the helper ---- */

/* Whoever waits for the report has given up, or is gone. */
static bool is_unwanted(int sock)
{
    struct pollfd end = {.fd = sock};
    return poll(&end, 1, 0) > 0;
}

/* What may be different with another thread. */
static bool try_another(const struct borrow *b)
{
    static const bool of_one_thread[] = {
        [BORROW_NONE] = true,       [BORROW_FORBIDDEN] = true,  [BORROW_SECCOMP] = true,
        [BORROW_NOT_64_BIT] = true, [BORROW_NOT_TAKEN] = false,
    };
    return of_one_thread[b->report.outcome];
}

void borrow_main(int sock, const void *plan)
{
    struct borrow b = {.plan = plan, .fd = -1};
    bool again = false;
    prctl(PR_SET_NAME, HELPER_NAME "borrow");
    b.report.outcome = BORROW_NONE;
    b.pidfd = (int)syscall(SYS_pidfd_open, b.plan->pid, 0);
    for (unsigned i = 0; i < b.plan->count && try_another(&b); i++) {
        if (is_unwanted(sock)) {
            return;
        }
        if (clock_ns() >= b.plan->deadline_ns) {
            break;
        }
        borrow_thread(&b, b.plan->tids[i]);
        again |= b.report.outcome == BORROW_NONE;
    }
    if (again && try_another(&b)) {
        b.report.outcome = BORROW_NONE; /* the first may do it when it is asked again */
    }
    struct iovec iov = {.iov_base = &b.report, .iov_len = sizeof(b.report)};
    fdpass_send(sock, &iov, 1, b.report.outcome == BORROW_DONE ? b.fd : -1);
}
