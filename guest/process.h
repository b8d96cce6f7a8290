/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What /proc tells of a process and its threads, without disturbing it.
 */
#ifndef FERRY_GUEST_PROCESS_H
#define FERRY_GUEST_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Reads /proc/PID/task/TID/NAME into `buf`, ended by a 0: bytes, or -errno.  This one and
 * process_status allocate nothing and lock nothing: they are for a forked child too.
 */
ssize_t process_read(pid_t pid, pid_t tid, const char *name, char *buf, size_t room);

/*
 * The number behind "FIELD:" (with its colon) in /proc/PID/task/TID/status, which is written in
 * that base; -1 when there is no such thread or field.
 */
int64_t process_status(pid_t pid, pid_t tid, const char *field, int base);

/*
 * Whether the thread is blocked in a system call: its number then.  False too when it is not ours
 * to know.
 */
bool process_syscall(pid_t pid, pid_t tid, long *number);

/* Whether the thread waits for something that no signal interrupts. */
bool process_is_stuck(pid_t pid, pid_t tid);

/* Whether the process's own name begins so. */
bool process_is_called(pid_t pid, const char *prefix);

/*
 * Whether the kernel made the thread for work of its own (io_uring, KVM, vhost): it never comes to
 * user mode, though it looks as if it stood in a call of the thread that it was made by.
 */
bool process_is_worker(pid_t pid, pid_t tid);

#endif
