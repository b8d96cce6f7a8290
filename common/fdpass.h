/* SPDX-License-Identifier: BSD-3-Clause */
/* Messages with at most one descriptor over a SOCK_SEQPACKET unix socket. */
#ifndef FERRY_COMMON_FDPASS_H
#define FERRY_COMMON_FDPASS_H

#include <stddef.h>
#include <sys/types.h>

struct iovec;

/*
 * Sends one message, with `fd` unless that is -1.  0 or -errno; -EAGAIN when the socket is
 * non-blocking and its buffer is full.  Never raises SIGPIPE.
 */
int fdpass_send(int sock, const struct iovec *iov, int iovcnt, int fd);

/*
 * Receives one message into buf.  Returns its length (0: end of stream) or -errno: -EMSGSIZE when
 * it did not fit or carried more than one descriptor.  *fd is the caller's, or -1.
 */
ssize_t fdpass_recv(int sock, void *buf, size_t room, int *fd);

#endif
