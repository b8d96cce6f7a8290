/* SPDX-License-Identifier: BSD-3-Clause */
/* Reads bytes, and the descriptors that came with them, from a unix socket. */
#ifndef FERRY_PROTOCOL_RECEIVE_H
#define FERRY_PROTOCOL_RECEIVE_H

#include <stddef.h>
#include <sys/types.h>

/* No command takes more than one; a client that piles them up would use up the daemon's. */
#define FD_QUEUE_MAX 16

/* Descriptors received and not taken yet, oldest first.  All zero is an empty queue. */
struct fd_queue {
    int fds[FD_QUEUE_MAX];
    size_t count;
};

/* The oldest, now the caller's; -1 when there is none. */
int fd_queue_take(struct fd_queue *queue);

/* Closes all. */
void fd_queue_clear(struct fd_queue *queue);

/*
 * Like recv, never blocking; descriptors go to the queue, those that do not fit are closed.
 * Returns the number of bytes, 0 at the end, -1 with errno.
 */
ssize_t receive(int fd, void *bytes, size_t size, struct fd_queue *queue);

#endif
