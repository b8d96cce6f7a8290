/* SPDX-License-Identifier: BSD-3-Clause */
#include "qemu/vmstate.h"

#include "common/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PIECE 65536u

/* The stream's marks. */
#define END_MARK         0u
#define DESCRIPTION_MARK 6u
#define LENGTH_SIZE      4u

/* Return path messages. */
#define MESSAGE_HEAD 4u
#define MESSAGE_SHUT 1u
#define SHUT_SIZE    4u

static uint32_t get_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

static uint32_t get_be16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | (uint32_t)p[1];
}

bool vmstate_open(struct vmstate *s, size_t max, int *theirs, struct error **errp)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        error_set(errp, "system-error", "No sockets for the device state: %s", strerror(errno));
        return false;
    }
    fcntl(pair[0], F_SETFL, O_NONBLOCK); /* of this end alone: the other is QEMU's */
    *s = (struct vmstate){.fd = pair[0], .max = max};
    *theirs = pair[1];
    return true;
}

void vmstate_close(struct vmstate *s)
{
    fd_close(&s->fd);
    free(s->bytes);
    *s = VMSTATE_NONE;
}

static void make_room(struct vmstate *s)
{
    if (s->room - s->length < PIECE) {
        s->room = 2 * s->room + PIECE;
        s->bytes = realloc(s->bytes, s->room);
        if (!s->bytes) {
            abort();
        }
    }
}

bool vmstate_collect(struct vmstate *s, struct error **errp)
{
    while (!s->ended) {
        make_room(s);
        ssize_t n = recv(s->fd, s->bytes + s->length, PIECE, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            return true;
        }
        if (n <= 0) {
            s->ended = true;
            return true;
        }
        s->length += (size_t)n;
        if (s->length > s->max) {
            error_set(errp, "state-too-large",
                      "The VMM sent more than %zu bytes of device state: is all of its RAM shared?",
                      s->max);
            return false;
        }
    }
    return true;
}

/* Whether a description that begins at `at` is the last thing in the stream. */
static bool ends_with_description(const uint8_t *bytes, size_t length, size_t at)
{
    size_t head = at + 1 + LENGTH_SIZE;
    return at > 0 && bytes[at - 1] == END_MARK && head + 2 <= length &&
           get_be32(bytes + at + 1) == length - head && bytes[head] == '{' &&
           bytes[length - 1] == '}';
}

bool vmstate_is_complete(const uint8_t *bytes, size_t length)
{
    const uint8_t *last = length ? memrchr(bytes, DESCRIPTION_MARK, length) : NULL;
    size_t at = last ? (size_t)(last - bytes) : 0;
    /* The last one may be a byte of the length. */
    for (size_t back = 0; last && back <= LENGTH_SIZE && back <= at; back++) {
        if (bytes[at - back] == DESCRIPTION_MARK &&
            ends_with_description(bytes, length, at - back)) {
            return true;
        }
    }
    return false;
}

bool vmstate_confirm(const struct vmstate *s)
{
    static const uint8_t shut[MESSAGE_HEAD + SHUT_SIZE] = {0, MESSAGE_SHUT, 0, SHUT_SIZE};
    return send(s->fd, shut, sizeof(shut), MSG_NOSIGNAL) == (ssize_t)sizeof(shut);
}

enum vmstate_word vmstate_word(const uint8_t *bytes, size_t length)
{
    size_t at = 0;
    while (length - at >= MESSAGE_HEAD) {
        uint32_t type = get_be16(bytes + at);
        size_t size = get_be16(bytes + at + 2);
        if (length - at - MESSAGE_HEAD < size) {
            break;
        }
        if (type == MESSAGE_SHUT) {
            bool loaded = size == SHUT_SIZE && get_be32(bytes + at + MESSAGE_HEAD) == 0;
            return loaded ? VMSTATE_LOADED : VMSTATE_REJECTED;
        }
        at += MESSAGE_HEAD + size;
    }
    return VMSTATE_SILENT;
}
