/* SPDX-License-Identifier: BSD-3-Clause */
/* unix:PATH and unix:@NAME. */
#include "common/cleanup.h"
#include "transports/allow.h"
#include "transports/fdchannel.h"
#include "transports/transport.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct unix_endpoint {
    struct endpoint endpoint;
    struct sockaddr_un addr;
    socklen_t length;
    char uri[sizeof(((struct sockaddr_un *)0)->sun_path) + 8];
};

static struct endpoint *unix_parse(const char *rest, const struct fd_finder *fds,
                                   struct error **errp)
{
    (void)fds;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t n = strlen(rest);
    if (!n || n >= sizeof(addr.sun_path)) {
        error_set(errp, "uri-invalid", "unix: takes a path of 1 to %zu bytes, not %zu",
                  sizeof(addr.sun_path) - 1, n);
        return NULL;
    }
    struct unix_endpoint *e = calloc(1, sizeof(*e));
    if (!e) {
        abort();
    }
    memcpy(addr.sun_path, rest, n);
    if (rest[0] == '@') {
        addr.sun_path[0] = '\0';
    }
    e->endpoint.ops = &transport_unix;
    e->addr = addr;
    /* An abstract name ends where the address does, a path with a NUL. */
    e->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (rest[0] != '@'));
    snprintf(e->uri, sizeof(e->uri), "unix:%s", rest);
    return &e->endpoint;
}

static int make_socket(struct error **errp)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set(errp, "system-error", "unix socket: %s", strerror(errno));
    }
    return fd;
}

/* A full backlog answers EAGAIN at once and can't be polled for: ask again, 10 ms later. */
static bool connect_patiently(struct unix_endpoint *e, int fd, const struct wait *w,
                              struct error **errp)
{
    for (int waited_ms = 0; connect(fd, (struct sockaddr *)&e->addr, e->length) < 0;
         waited_ms += 10) {
        if (errno != EAGAIN || (w->timeout_ms >= 0 && waited_ms >= w->timeout_ms)) {
            error_set(errp, "connect-failed", "Failed to connect to '%s': %s", e->uri,
                      strerror(errno));
            return false;
        }
        if (!wait_ns(10000000, w, errp)) {
            return false;
        }
    }
    return true;
}

static struct channel *unix_connect(struct endpoint *endpoint, const struct wait *w,
                                    struct error **errp)
{
    struct unix_endpoint *e = (struct unix_endpoint *)endpoint;
    CLEANUP_CLOSE int fd = make_socket(errp);
    if (fd < 0 || !connect_patiently(e, fd, w, errp)) {
        return NULL;
    }
    return fd_channel_new(fd_steal(&fd), e->uri);
}

/* Takes away a socket that nobody listens on any more; anything else at the path is left alone. */
static void remove_stale(const struct unix_endpoint *e)
{
    struct stat st;
    if (!e->addr.sun_path[0] || lstat(e->addr.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        return;
    }
    CLEANUP_CLOSE int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe >= 0 && connect(probe, (const struct sockaddr *)&e->addr, e->length) < 0 &&
        errno == ECONNREFUSED) {
        unlink(e->addr.sun_path);
    }
}

static struct listener *unix_listen(struct endpoint *endpoint, const struct wait *w,
                                    struct error **errp)
{
    struct unix_endpoint *e = (struct unix_endpoint *)endpoint;
    (void)w;
    if (!allow_list_has_path(endpoint->allowed, e->uri + strlen("unix:"))) {
        allow_list_refuse(endpoint->allowed, e->uri, errp);
        return NULL;
    }
    CLEANUP_CLOSE int fd = make_socket(errp);
    if (fd < 0) {
        return NULL;
    }
    remove_stale(e);
    if (bind(fd, (struct sockaddr *)&e->addr, e->length) < 0 || listen(fd, 1) < 0) {
        error_set(errp, "listen-failed", "Failed to listen on '%s': %s", e->uri, strerror(errno));
        return NULL;
    }
    const char *path = e->addr.sun_path[0] ? e->addr.sun_path : NULL;
    return socket_listener_new(fd_steal(&fd), e->uri, path);
}

static void unix_free(struct endpoint *endpoint)
{
    free(endpoint);
}

const struct endpoint_ops transport_unix = {
    .scheme = "unix",
    .parse = unix_parse,
    .connect = unix_connect,
    .listen = unix_listen,
    .free = unix_free,
    .reconnects = true,
};
