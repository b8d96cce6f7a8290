/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Slows a foreign process's vCPUs down: short stops of their threads, by ptrace.
 *
 * A period is a stop and a run, of 1 ms the shorter one: at 20 percent 1 ms of 5, at 80 percent 4
 * ms of 5.  A vCPU is held only where it stands in ioctl(KVM_RUN), which has ended with EINTR by
 * then, as after any signal: there it holds none of its VMM's locks, nor any of KVM's.  Found
 * elsewhere it goes on at once and is asked again soon.  Between stops the threads are not traced
 * at all.
 *
 * A signal that is sent to a vCPU's thread (a VMM kicks its vCPUs so) ends its stop within 0.2 ms,
 * until the next one; so does one for the process that this thread might have to take.
 *
 * Limits: x86-64.  A vCPU that spends its time outside of KVM_RUN, in its VMM's device models, is
 * held too little.  One that has a blocked signal pending for good is never held.  The stops' times
 * are those of a process on a busy host, which may be late.  The helper takes about a tenth of a
 * CPU while it throttles, most of it to look for signals, for which it looks less often the more
 * vCPUs there are.  Two can't trace a thread: a
 * debugger's are passed over, and borrow_userfaultfd passes over those that are held just then (it
 * fails with guest-timeout where there are no others; a VMM has other threads than its vCPUs).
 *
 * The holding is done by a helper (helper.h): when ferryd ends, however it does, all threads go on.
 */
#ifndef FERRY_GUEST_VCPUS_H
#define FERRY_GUEST_VCPUS_H

#include "common/error.h"

#include <stdbool.h>
#include <sys/types.h>

#define VCPUS_MAX 1024u

struct vcpus;

/*
 * For these threads (ids in the process, at most VCPUS_MAX), at 0 percent; whether the process may
 * be traced is borrow_permitted's to say.  A thread that has ended is none any more; one that is
 * added later is not held.  NULL: system-error, no-tracking.
 */
struct vcpus *vcpus_hold(pid_t pid, const pid_t *tids, unsigned count, struct error **errp);

/*
 * To be held for so much of the time, 0 to 99 percent, from now on; 0 lets all go.  Does not wait.
 * False: the helper is gone, and nothing is held.
 */
bool vcpus_set(struct vcpus *v, unsigned percent);

/* All threads go on when this returns.  NULL is allowed. */
void vcpus_release(struct vcpus *v);

#endif
