/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/tracee.h"

#include "common/clock.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* What PTRACE_O_TRACESYSGOOD adds to a system call's stop. */
#define CALL_SIGNAL (SIGTRAP | 0x80)

enum tracee_state tracee_state(int status)
{
    if (!WIFSTOPPED(status)) {
        return TRACEE_GONE;
    }
    if (status >> 16 == PTRACE_EVENT_STOP) {
        return TRACEE_EVENT;
    }
    return WSTOPSIG(status) == CALL_SIGNAL ? TRACEE_CALL : TRACEE_SIGNAL;
}

int tracee_signal(int status)
{
    return tracee_state(status) == TRACEE_SIGNAL ? WSTOPSIG(status) : 0;
}

int tracee_seize(pid_t tid, uint64_t options)
{
    return ptrace(PTRACE_SEIZE, tid, NULL, options | PTRACE_O_TRACESYSGOOD) < 0 ? -errno : 0;
}

/* Blocked as it is, SIGCHLD stays pending from the moment that a thread has stopped. */
static bool await_news(uint64_t deadline_ns)
{
    uint64_t now = clock_ns();
    if (now >= deadline_ns) {
        return false;
    }
    struct timespec left = {.tv_sec = (time_t)((deadline_ns - now) / NS_PER_SEC),
                            .tv_nsec = (long)((deadline_ns - now) % NS_PER_SEC)};
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigtimedwait(&children, NULL, &left);
    return true;
}

/* A helper has no children: whatever waitpid(-1) finds is a seized thread. */
pid_t tracee_next(int *status, uint64_t deadline_ns)
{
    pid_t tid;
    do {
        tid = waitpid(-1, status, __WALL | WNOHANG);
    } while (tid == 0 && await_news(deadline_ns));
    return tid;
}

void tracee_let_go(pid_t tid, int status)
{
    ptrace(PTRACE_DETACH, tid, NULL, (long)tracee_signal(status));
}

/* The kernel has another, shorter set for 32-bit code. */
bool tracee_read(pid_t tid, struct user_regs_struct *regs)
{
    struct iovec iov = {.iov_base = regs, .iov_len = sizeof(*regs)};
    return ptrace(PTRACE_GETREGSET, tid, (unsigned long)NT_PRSTATUS, &iov) == 0 &&
           iov.iov_len == sizeof(*regs);
}

bool tracee_write(pid_t tid, const struct user_regs_struct *regs)
{
    struct iovec iov = {.iov_base = (void *)regs, .iov_len = sizeof(*regs)};
    return ptrace(PTRACE_SETREGSET, tid, (unsigned long)NT_PRSTATUS, &iov) == 0;
}

bool tracee_peek(pid_t tid, uint64_t address, uint64_t *value)
{
    errno = 0;
    *value = (uint64_t)ptrace(PTRACE_PEEKDATA, tid, address, NULL);
    return errno == 0;
}
