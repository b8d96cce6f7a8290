/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A process of ours that does one thing to a foreign process, by ptrace, and ends.
 *
 * It must be a process of its own: whoever dies while it has a thread of another process stopped
 * with altered registers takes that process along, and ferryd may be killed at any time.  So
 * nothing that happens to ferryd happens to its helper: all signals are blocked in it, it is never
 * killed, and it hears of ferryd's end, or that ferryd has lost interest, as the end of its socket.
 * Only SIGKILL, sent to the helper itself, is left to do harm.
 */
#ifndef FERRY_GUEST_HELPER_H
#define FERRY_GUEST_HELPER_H

#include "common/error.h"

#include <stdbool.h>
#include <sys/types.h>

/* What the names begin with that helpers give themselves; comm of proc_pid_comm(5). */
#define HELPER_NAME "ferry-"

/*
 * What it does.  Runs in the forked child of a process with threads: only what is async-signal-safe
 * (signal-safety(7)) is allowed.  `sock` (SOCK_SEQPACKET) leads to whoever started it; it and the
 * standard streams are its only descriptors.  SIGCHLD has its default disposition.
 */
typedef void helper_main(int sock, const void *plan);

struct helper {
    int sock;
    pid_t pid;
    int pidfd;
};

/* `plan` is copied, as all memory is.  Errors: system-error. */
bool helper_start(struct helper *h, helper_main *run, const void *plan, struct error **errp);

/*
 * Closes the socket and awaits the helper's end, which comes within milliseconds.  One that has to
 * bring back a thread that gets no CPU is left to that: true when it has ended.
 */
bool helper_end(struct helper *h);

/* Closes the socket and leaves the helper to what it does then. */
void helper_leave(struct helper *h);

#endif
