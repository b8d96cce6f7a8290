/* SPDX-License-Identifier: BSD-3-Clause */
/* fd:NAME (by getfd) and fd:NUMBER (inherited): a socket, a pipe or a file that somebody else
 * opened. */
#include "common/cleanup.h"
#include "transports/fdchannel.h"
#include "transports/transport.h"

#include <stdio.h>

struct fd_endpoint {
    struct endpoint endpoint;
    int fd;
    char uri[64];
};

static struct endpoint *fd_parse(const char *rest, const struct fd_finder *fds, struct error **errp)
{
    int fd = fds->take(fds->opaque, rest, errp);
    if (fd < 0) {
        return NULL;
    }
    struct fd_endpoint *e = calloc(1, sizeof(*e));
    if (!e) {
        abort();
    }
    e->endpoint.ops = &transport_fd;
    e->fd = fd;
    snprintf(e->uri, sizeof(e->uri), "fd:%s", rest);
    return &e->endpoint;
}

static struct channel *fd_connect(struct endpoint *endpoint, const struct wait *w,
                                  struct error **errp)
{
    struct fd_endpoint *e = (struct fd_endpoint *)endpoint;
    (void)w;
    if (e->fd < 0) {
        error_set(errp, "channel-closed", "%s: the descriptor was used up", e->uri);
        return NULL;
    }
    return fd_channel_new(fd_steal(&e->fd), e->uri);
}

static struct listener *fd_listen(struct endpoint *endpoint, const struct wait *w,
                                  struct error **errp)
{
    struct fd_endpoint *e = (struct fd_endpoint *)endpoint;
    struct channel *channel = fd_connect(endpoint, w, errp);
    return channel ? single_listener_new(channel, e->uri) : NULL;
}

static void fd_free(struct endpoint *endpoint)
{
    struct fd_endpoint *e = (struct fd_endpoint *)endpoint;
    fd_close(&e->fd);
    free(e);
}

const struct endpoint_ops transport_fd = {
    .scheme = "fd",
    .parse = fd_parse,
    .connect = fd_connect,
    .listen = fd_listen,
    .free = fd_free,
};
