/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A thread of a foreign process under ptrace(2), x86-64: how it is stopped, looked at and let go.
 * For helpers (helper.h): everything is async-signal-safe, by one thread, and all signals are
 * blocked in it.
 *
 * Threads are seized (PTRACE_SEIZE), never attached to: that sends them no SIGSTOP.  What stops one
 * is PTRACE_INTERRUPT, and it stops in a PTRACE_EVENT_STOP, inside the kernel's delivery of
 * signals.  A call that it was blocked in has returned one of the kernel's restart codes by then,
 * which the kernel acts on after the stop (arch_do_signal_or_restart of the kernel's
 * arch/x86/kernel/signal.c).
 */
#ifndef FERRY_GUEST_TRACEE_H
#define FERRY_GUEST_TRACEE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/* What waitpid() tells of a thread. */
enum tracee_state {
    TRACEE_GONE,   /* it has ended */
    TRACEE_EVENT,  /* in a PTRACE_EVENT_STOP: interrupted, or stopped as a part of its process */
    TRACEE_CALL,   /* it enters or leaves a system call (PTRACE_SYSCALL) */
    TRACEE_SIGNAL, /* it is about to take a signal */
};

enum tracee_state tracee_state(int status);

/* The signal that a thread in this state is to go on with: what it is about to take, or 0. */
int tracee_signal(int status);

/* Seizes it with these PTRACE_O_ options, in addition to PTRACE_O_TRACESYSGOOD; 0 or -errno. */
int tracee_seize(pid_t tid, uint64_t options);

/*
 * The next state that any seized thread comes to until `deadline_ns` (CLOCK_MONOTONIC; UINT64_MAX:
 * none): its id, 0 at the deadline, -1 when no thread is seized.
 */
pid_t tracee_next(int *status, uint64_t deadline_ns);

/* Gives a stopped thread back, with the signal that it was about to take. */
void tracee_let_go(pid_t tid, int status);

/* The registers of a stopped thread.  False as well when it does not run 64-bit code. */
bool tracee_read(pid_t tid, struct user_regs_struct *regs);
bool tracee_write(pid_t tid, const struct user_regs_struct *regs);

/* Eight bytes of its memory; false when there is none. */
bool tracee_peek(pid_t tid, uint64_t address, uint64_t *value);

#endif
