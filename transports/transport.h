/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Endpoints: where a migration goes to or comes from, made from a URI.
 *
 *   tcp:HOST:PORT   names, IPv4, [IPv6]; an empty host listens everywhere, port 0 on a free one
 *   unix:PATH       unix:@NAME is an abstract name
 *   fd:NAME         a descriptor given with getfd; fd:NUMBER one that the daemon inherited
 *   rdma:HOST:PORT  like tcp:, over an RDMA device; RAM is placed at the peer by RDMA WRITE
 *   exec:COMMAND    run by /bin/sh; outgoing writes to its input, incoming reads its output
 *
 * Parsing needs no peer and never blocks; connecting, listening and accepting do, on the job's
 * thread.
 */
#ifndef FERRY_TRANSPORTS_TRANSPORT_H
#define FERRY_TRANSPORTS_TRANSPORT_H

#include "transports/channel.h"

struct allow_list;
struct endpoint;
struct listener;

/* How fd: finds its descriptor: the caller owns what it gets; -1 with an error. */
struct fd_finder {
    int (*take)(void *opaque, const char *name, struct error **errp);
    void *opaque;
};

struct endpoint_ops {
    const char *scheme;
    /* parse: what follows "scheme:". */
    struct endpoint *(*parse)(const char *rest, const struct fd_finder *fds, struct error **errp);
    struct channel *(*connect)(struct endpoint *e, const struct wait *w, struct error **errp);
    struct listener *(*listen)(struct endpoint *e, const struct wait *w, struct error **errp);
    void (*free)(struct endpoint *e);
    bool reconnects; /* connect may be called again after a channel broke */
};

struct endpoint {
    const struct endpoint_ops *ops;
    struct allow_list *allowed; /* where it may listen; NULL: anywhere */
};

struct listener_ops {
    struct channel *(*accept)(struct listener *l, const struct wait *w, struct error **errp);
    /* Whether accept would answer at once. */
    bool (*ready)(struct listener *l);
    /* Where it listens, as a URI with the port that was given; owned by the listener. */
    const char *(*address)(struct listener *l);
    void (*close)(struct listener *l);
    bool again; /* accept may be called again after a channel broke */
};

struct listener {
    const struct listener_ops *ops;
};

/* Errors: "uri-unknown" (no such scheme), "uri-invalid", "fd-unknown", "rdma-no-device". */
struct endpoint *endpoint_parse(const char *uri, const struct fd_finder *fds, struct error **errp);
void endpoint_free(struct endpoint *e); /* NULL is allowed */

/* Has it listen only where `allowed` (NULL: anywhere) says; "listen-forbidden" comes from listen.
 */
void endpoint_restrict(struct endpoint *e, struct allow_list *allowed);

static inline struct channel *endpoint_connect(struct endpoint *e, const struct wait *w,
                                               struct error **errp)
{
    return e->ops->connect(e, w, errp);
}

static inline struct listener *endpoint_listen(struct endpoint *e, const struct wait *w,
                                               struct error **errp)
{
    return e->ops->listen(e, w, errp);
}

static inline struct channel *listener_accept(struct listener *l, const struct wait *w,
                                              struct error **errp)
{
    return l->ops->accept(l, w, errp);
}

static inline const char *listener_address(struct listener *l)
{
    return l->ops->address(l);
}

static inline void listener_close(struct listener *l)
{
    if (l) {
        l->ops->close(l);
    }
}

/* The schemes, one row each. */
extern const struct endpoint_ops transport_tcp;
extern const struct endpoint_ops transport_unix;
extern const struct endpoint_ops transport_fd;
extern const struct endpoint_ops transport_exec;
extern const struct endpoint_ops transport_rdma;

#endif
