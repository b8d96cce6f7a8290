/* SPDX-License-Identifier: BSD-3-Clause */
/* The helper of borrow.c: one thread of those planned is borrowed. */
#ifndef FERRY_GUEST_BORROW_THREAD_H
#define FERRY_GUEST_BORROW_THREAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define BORROW_THREADS_MAX 64u

struct borrow_plan {
    pid_t pid;
    uint64_t syscall_at;  /* a `syscall` instruction of the process */
    uint64_t deadline_ns; /* CLOCK_MONOTONIC; no thread is begun with after it */
    unsigned count;
    pid_t tids[BORROW_THREADS_MAX]; /* in the order to try them */
};

enum borrow_outcome {
    BORROW_DONE,
    BORROW_NONE,       /* no thread stopped in time, or none was fit just now */
    BORROW_FORBIDDEN,  /* a thread may not be traced */
    BORROW_SECCOMP,    /* a thread has a seccomp filter that can't be suspended */
    BORROW_NOT_64_BIT, /* the thread does not run 64-bit code */
    BORROW_REFUSED,    /* the process's userfaultfd() failed */
    BORROW_NOT_TAKEN,  /* its descriptor could not be fetched */
};

/* The one message of the helper, with the descriptor if BORROW_DONE. */
struct borrow_report {
    int32_t outcome;
    int32_t err; /* errno of what failed, or 0 */
    uint64_t stopped_ns;
};

/*
 * Whether a call that is interrupted by a stop is restarted by the kernel, or means no harm by
 * failing with EINTR.
 */
bool borrow_restarts(long number);

/* A helper_main; `plan` is a struct borrow_plan. */
void borrow_main(int sock, const void *plan);

#endif
