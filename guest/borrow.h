/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A userfaultfd of a foreign process's memory, made by that process in one system call that is put
 * into one of its threads.
 *
 * A userfaultfd acts on the memory of the process that makes it, whoever holds it then, and only
 * the process itself can make one.  So one of its threads is borrowed: it is stopped, makes
 * userfaultfd(2) at a `syscall` instruction of its vDSO, its descriptor is fetched and closed, and
 * it goes on as if nothing had been: with its registers, its mask of signals and all signals that
 * came meanwhile, and in the call that it was blocked in.  That takes well under a millisecond.
 * The other threads go on all the time.
 *
 * What the borrowed thread may notice:
 *   - ioctl(KVM_RUN) fails with EINTR, as after any signal; a VMM expects that (KVM's API).
 *   - A call that the kernel never restarts and that has a timeout (epoll_wait, sigtimedwait,
 *     semtimedop, io_getevents) waits anew for all of it, rather than to fail with EINTR; a socket
 *     with SO_RCVTIMEO does fail so (signal(7)).  Threads in other calls are taken first.
 *   - A process that is stopped (SIGSTOP) stays so.
 *   - One that could not be stopped in time, and was given up for another, may have a call fail
 * with EINTR when it stops after all.
 *
 * The work is done by a helper (helper.h) that finishes it even when ferryd is killed half-way.
 *
 * Limits: x86-64, 64-bit processes with a vDSO.  A thread under a seccomp filter can only be
 * borrowed with CAP_SYS_ADMIN, and by a ferryd that has no filter itself (PTRACE_O_SUSPEND_SECCOMP,
 * ptrace(2)).  A thread that is traced, also by guest/vcpus.h, is passed over.
 */
#ifndef FERRY_GUEST_BORROW_H
#define FERRY_GUEST_BORROW_H

#include "common/wait.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Whether borrow_userfaultfd may be expected to work, found out without disturbing the process.
 * Errors: no-permission, no-tracking, guest-lost, system-error.
 */
bool borrow_permitted(pid_t pid, struct error **errp);

/*
 * The descriptor (close-on-exec, non-blocking, for user mode's faults only, UFFDIO_API not done
 * yet) or -1.  *stopped_ns: how long the thread was kept, at most.  w->timeout_ms is for all of it.
 * From any thread.  Errors: those of borrow_permitted, cancelled, guest-timeout (no thread stopped,
 * or it did not come back).
 *
 * UFFD_USER_MODE_ONLY is what lets an unprivileged process make one (vm.unprivileged_userfaultfd).
 * Nothing is lost by it: faults that the kernel makes for KVM or for read() are resolved by
 * UFFD_FEATURE_WP_ASYNC without asking who they are for.
 */
int borrow_userfaultfd(pid_t pid, const struct wait *w, uint64_t *stopped_ns, struct error **errp);

#endif
