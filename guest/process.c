/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/process.h"

#include "common/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* PF_IO_WORKER and PF_USER_WORKER of the kernel's include/linux/sched.h. */
#define WORKER_FLAGS 0x4010u

/* The kernel writes some 1,500 bytes; a process's CPU lists make it more. */
#define STATUS_ROOM 8192

ssize_t process_read(pid_t pid, pid_t tid, const char *name, char *buf, size_t room)
{
    char path[64];
    size_t length = 0;
    snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", pid, tid, name);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    for (ssize_t n = 1; n > 0 && length < room - 1; length += (size_t)(n > 0 ? n : 0)) {
        n = read(fd, buf + length, room - 1 - length);
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
    }
    buf[length] = '\0';
    return (ssize_t)length;
}

int64_t process_status(pid_t pid, pid_t tid, const char *field, int base)
{
    char text[STATUS_ROOM];
    if (process_read(pid, tid, "status", text, sizeof(text)) < 0) {
        return -1;
    }
    /* The first line has the process's own name in it: a field begins behind a newline. */
    for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n')) {
        if (strncmp(line + 1, field, strlen(field)) == 0) {
            return (int64_t)strtoull(line + 1 + strlen(field), NULL, base);
        }
    }
    return -1;
}

bool process_syscall(pid_t pid, pid_t tid, long *number)
{
    char text[256];
    return process_read(pid, tid, "syscall", text, sizeof(text)) > 0 &&
           sscanf(text, "%ld", number) == 1 && *number >= 0;
}

/* proc_pid_stat(5): the state stands behind the name, which may hold anything, and the flags are
 * the seventh field there. */
static bool read_stat(pid_t pid, pid_t tid, char *state, unsigned *flags)
{
    char text[1024];
    if (process_read(pid, tid, "stat", text, sizeof(text)) <= 0) {
        return false;
    }
    const char *name_end = strrchr(text, ')');
    return name_end && sscanf(name_end + 1, " %c %*d %*d %*d %*d %*d %u", state, flags) == 2;
}

bool process_is_worker(pid_t pid, pid_t tid)
{
    char state;
    unsigned flags;
    return read_stat(pid, tid, &state, &flags) && (flags & WORKER_FLAGS);
}

bool process_is_stuck(pid_t pid, pid_t tid)
{
    char state;
    unsigned flags;
    return read_stat(pid, tid, &state, &flags) && state == 'D';
}

bool process_is_called(pid_t pid, const char *prefix)
{
    char name[32];
    return process_read(pid, pid, "comm", name, sizeof(name)) > 0 &&
           strncmp(name, prefix, strlen(prefix)) == 0;
}
