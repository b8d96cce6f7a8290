/* SPDX-License-Identifier: BSD-3-Clause */
#include "protocol/receive.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The most that Linux passes in one message; with room for all none is lost to truncation. */
#define FDS_PER_MESSAGE 253

int fd_queue_take(struct fd_queue *queue)
{
    if (queue->count == 0) {
        return -1;
    }
    int fd = queue->fds[0];
    queue->count--;
    memmove(queue->fds, queue->fds + 1, queue->count * sizeof(queue->fds[0]));
    return fd;
}

void fd_queue_clear(struct fd_queue *queue)
{
    while (queue->count > 0) {
        close(queue->fds[--queue->count]);
    }
}

static void fd_queue_put(struct fd_queue *queue, int fd)
{
    if (queue->count == FD_QUEUE_MAX) {
        close(fd);
        return;
    }
    queue->fds[queue->count++] = fd;
}

static void collect_fds(const struct cmsghdr *cmsg, struct fd_queue *queue)
{
    size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(fd), sizeof(fd));
        fd_queue_put(queue, fd);
    }
}

ssize_t receive(int fd, void *bytes, size_t size, struct fd_queue *queue)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FDS_PER_MESSAGE * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = bytes, .iov_len = size};
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control),
    };
    ssize_t got;
    do {
        got = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return -1;
    }
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
        if (cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS) {
            collect_fds(cmsg, queue);
        }
    }
    return got;
}
