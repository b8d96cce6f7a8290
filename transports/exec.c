/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * exec:COMMAND, run by /bin/sh: outgoing is written to its standard input, incoming read from its
 * standard output.  One way only.  A command that does not exit with status 0 has failed the
 * migration; one that outlives its channel is ended, with its whole process group.
 */
#include "common/cleanup.h"
#include "transports/fdchannel.h"
#include "transports/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

struct exec_endpoint {
    struct endpoint endpoint;
    char *command;
};

struct exec_channel {
    struct fd_channel base;
    pid_t pid; /* 0: reaped */
    int pidfd;
};

/* ---- the channel ---- */

static bool check_status(const struct exec_channel *c, int status, struct error **errp)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return true;
    }
    if (WIFEXITED(status)) {
        error_set(errp, "exec-failed", "%s: the command exited with status %d", c->base.peer,
                  WEXITSTATUS(status));
    } else {
        error_set(errp, "exec-failed", "%s: the command was ended by signal %d", c->base.peer,
                  WTERMSIG(status));
    }
    return false;
}

/* Reads to the end, so that a command that still writes can end, then awaits its exit. */
static bool exec_finish(struct channel *channel, const struct wait *w, struct error **errp)
{
    struct exec_channel *c = (struct exec_channel *)channel;
    struct wait named = *w;
    named.what = "the command";
    fd_close(&c->base.fd);
    if (!wait_fd(c->pidfd, POLLIN, &named, errp)) {
        return false;
    }
    int status = 0;
    waitpid(c->pid, &status, 0);
    c->pid = 0;
    return check_status(c, status, errp);
}

static void exec_close(struct channel *channel)
{
    struct exec_channel *c = (struct exec_channel *)channel;
    fd_close(&c->base.fd);
    if (c->pid) {
        kill(-c->pid, SIGKILL);
        waitpid(c->pid, NULL, 0);
    }
    fd_close(&c->pidfd);
    free(c);
}

static const struct channel_ops exec_channel_ops = {
    .write = fd_channel_write,
    .read = fd_channel_read,
    .in_place = true,
    .readable = fd_channel_readable,
    .finish = exec_finish,
    .end_writing = fd_channel_end_writing,
    .close = exec_close,
};

/* ---- starting the command ---- */

/* Runs /bin/sh -c with `theirs` as its descriptor `as` (0 or 1), in a process group of its own. */
static pid_t spawn(const char *command, int theirs, int as, struct error **errp)
{
    pid_t pid = 0;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t signals;
    char *const argv[] = {(char *)"sh", (char *)"-c", (char *)command, NULL};

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, theirs, as);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF |
                                        POSIX_SPAWN_SETSIGMASK);
    sigemptyset(&signals);
    posix_spawnattr_setsigmask(&attr, &signals);
    sigaddset(&signals, SIGPIPE); /* the daemon ignores it, the command must not */
    posix_spawnattr_setsigdefault(&attr, &signals);
    int err = posix_spawn(&pid, "/bin/sh", &actions, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    if (err) {
        error_set(errp, "exec-failed", "exec: /bin/sh can't be started: %s", strerror(err));
        return -1;
    }
    return pid;
}

/* `as` is the command's end: 0 when we write to it, 1 when we read from it. */
static struct channel *exec_start(struct exec_endpoint *e, int as, struct error **errp)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        error_set(errp, "system-error", "pipe: %s", strerror(errno));
        return NULL;
    }
    CLEANUP_CLOSE int theirs = ends[as];
    CLEANUP_CLOSE int ours = ends[!as];
    fcntl(ours, F_SETPIPE_SZ, 1 << 20); /* fewer switches between us and the command */
    pid_t pid = spawn(e->command, theirs, as, errp);
    if (pid < 0) {
        return NULL;
    }
    struct exec_channel *c = calloc(1, sizeof(*c));
    if (!c) {
        abort();
    }
    char peer[64];
    snprintf(peer, sizeof(peer), "exec:%.50s", e->command);
    fd_channel_init(&c->base, &exec_channel_ops, fd_steal(&ours), peer);
    c->pid = pid;
    c->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    return &c->base.channel;
}

static struct channel *exec_connect(struct endpoint *endpoint, const struct wait *w,
                                    struct error **errp)
{
    (void)w;
    return exec_start((struct exec_endpoint *)endpoint, 0, errp);
}

static struct listener *exec_listen(struct endpoint *endpoint, const struct wait *w,
                                    struct error **errp)
{
    (void)w;
    struct channel *channel = exec_start((struct exec_endpoint *)endpoint, 1, errp);
    return channel ? single_listener_new(channel, ((struct exec_channel *)channel)->base.peer)
                   : NULL;
}

static struct endpoint *exec_parse(const char *rest, const struct fd_finder *fds,
                                   struct error **errp)
{
    (void)fds;
    if (!rest[0]) {
        error_set(errp, "uri-invalid", "exec: takes a command");
        return NULL;
    }
    struct exec_endpoint *e = calloc(1, sizeof(*e));
    if (!e || !(e->command = strdup(rest))) {
        abort();
    }
    e->endpoint.ops = &transport_exec;
    return &e->endpoint;
}

static void exec_free(struct endpoint *endpoint)
{
    struct exec_endpoint *e = (struct exec_endpoint *)endpoint;
    free(e->command);
    free(e);
}

const struct endpoint_ops transport_exec = {
    .scheme = "exec",
    .parse = exec_parse,
    .connect = exec_connect,
    .listen = exec_listen,
    .free = exec_free,
};
