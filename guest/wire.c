/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/wire.h"

#include "common/fdpass.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* 1 + the body's length, so that a type that is not listed reads as 0. */
static const uint16_t body_lengths[] = {
    [WIRE_HELLO] = 1 + sizeof(struct wire_hello),
    [WIRE_BLOCK] = 1 + sizeof(struct wire_block),
    [WIRE_READY] = 1,
    [WIRE_REPLY] = 1 + sizeof(struct wire_reply),
    [WIRE_STATE] = 1 + sizeof(struct wire_state),
    [WIRE_SHUTDOWN] = 1,
    [WIRE_DISK] = 1 + sizeof(struct wire_disk),
    [WIRE_BLOCKER] = 1 + sizeof(struct wire_blocker),
    [WIRE_WELCOME] = 1 + sizeof(struct wire_welcome),
    [WIRE_REFUSE] = 1 + sizeof(struct wire_refuse),
    [WIRE_LOG_START] = 1,
    [WIRE_LOG_SYNC] = 1,
    [WIRE_LOG_CLEAR] = 1 + sizeof(struct wire_log_clear),
    [WIRE_LOG_STOP] = 1,
    [WIRE_STOP] = 1 + sizeof(struct wire_stop),
    [WIRE_RESUME] = 1 + sizeof(struct wire_resume),
    [WIRE_SAVE] = 1,
    [WIRE_LOAD] = 1,
    [WIRE_THROTTLE] = 1 + sizeof(struct wire_throttle),
    [WIRE_GIVE_AWAY] = 1 + sizeof(struct wire_give_away),
    [WIRE_TAKE_BACK] = 1,
    [WIRE_RELEASE] = 1,
    [WIRE_START] = 1 + sizeof(struct wire_start),
    [WIRE_ANNOUNCE] = 1 + sizeof(struct wire_announce),
    [WIRE_NOTIFY] = 1 + sizeof(struct wire_notify),
};

_Static_assert(sizeof(struct wire_message) <= WIRE_MESSAGE_MAX, "a message fits its limit");

int wire_body_length(uint32_t type)
{
    if (type >= sizeof(body_lengths) / sizeof(body_lengths[0])) {
        return -1;
    }
    return (int)body_lengths[type] - 1;
}

int wire_send(int sock, uint32_t type, uint64_t seq, const void *body, int fd)
{
    struct wire_head head = {.type = type, .length = (uint32_t)wire_body_length(type), .seq = seq};
    struct iovec iov[2] = {
        {.iov_base = &head, .iov_len = sizeof(head)},
        {.iov_base = (void *)body, .iov_len = head.length},
    };
    return fdpass_send(sock, iov, head.length ? 2 : 1, fd);
}

int wire_recv(int sock, struct wire_message *msg, int *fd)
{
    ssize_t n = fdpass_recv(sock, msg, sizeof(*msg), fd);
    if (n <= 0) {
        return n == -EMSGSIZE ? -EBADMSG : (int)n;
    }
    int length = (size_t)n < sizeof(msg->head) ? -1 : wire_body_length(msg->head.type);
    if (length < 0 || msg->head.length != (uint32_t)length ||
        (size_t)n != sizeof(msg->head) + (size_t)length) {
        if (*fd >= 0) {
            close(*fd);
            *fd = -1;
        }
        return -EBADMSG;
    }
    return 1;
}
