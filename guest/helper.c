/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/helper.h"

#include "common/cleanup.h"
#include "common/wait.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define END_MS 1000

/* Other jobs' channels and sockets must end when ferryd closes them. */
static void close_all_but(int sock)
{
    unsigned keep = (unsigned)sock;
    if (keep > STDERR_FILENO + 1) {
        syscall(SYS_close_range, STDERR_FILENO + 1, keep - 1, 0);
    }
    syscall(SYS_close_range, keep + 1, ~0U, 0);
}

/* A thread stands still while its helper waits for a CPU.  Without the right to it, it may be late.
 */
static void hurry(void)
{
    const struct sched_param least = {.sched_priority = 1};
    sched_setscheduler(0, SCHED_FIFO, &least);
}

static void run_child(helper_main *run, int sock, const void *plan)
{
    signal(SIGCHLD, SIG_DFL);
    close_all_but(sock);
    hurry();
    run(sock, plan);
    _exit(0);
}

/* With all signals blocked: a child inherits that. */
static pid_t fork_blocked(helper_main *run, int sock, const void *plan)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pid_t pid = fork();
    if (pid == 0) {
        run_child(run, sock, plan);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pid;
}

static void *reap(void *opaque)
{
    pid_t *pid = opaque;
    waitpid(*pid, NULL, 0);
    free(pid);
    return NULL;
}

/* Whenever it ends, it is to leave no zombie. */
static void reap_later(pid_t pid)
{
    pthread_t thread;
    pid_t *copy = malloc(sizeof(*copy));
    if (!copy) {
        abort();
    }
    *copy = pid;
    if (pthread_create(&thread, NULL, reap, copy) == 0) {
        pthread_detach(thread);
    } else {
        free(copy);
    }
}

bool helper_start(struct helper *h, helper_main *run, const void *plan, struct error **errp)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
        error_set(errp, "system-error", "socketpair: %s", strerror(errno));
        return false;
    }
    CLEANUP_CLOSE int ours = ends[0];
    CLEANUP_CLOSE int theirs = ends[1];
    pid_t pid = fork_blocked(run, theirs, plan);
    if (pid < 0) {
        error_set(errp, "system-error", "A helper can't be forked: %s", strerror(errno));
        return false;
    }
    CLEANUP_CLOSE int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) { /* it ends when its socket does */
        error_set(errp, "system-error", "A helper can't be watched: %s", strerror(errno));
        reap_later(pid);
        return false;
    }
    *h = (struct helper){.sock = fd_steal(&ours), .pid = pid, .pidfd = fd_steal(&pidfd)};
    return true;
}

void helper_leave(struct helper *h)
{
    fd_close(&h->sock);
    fd_close(&h->pidfd);
    reap_later(h->pid);
}

bool helper_end(struct helper *h)
{
    const struct wait end = {.cancel_fd = -1, .timeout_ms = END_MS, .what = "a helper"};
    fd_close(&h->sock);
    bool ended = wait_fd(h->pidfd, POLLIN, &end, NULL);
    if (ended) {
        waitpid(h->pid, NULL, 0);
    } else {
        reap_later(h->pid);
    }
    fd_close(&h->pidfd);
    return ended;
}
