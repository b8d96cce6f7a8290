/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A channel is one byte stream to a peer; a transport makes channels for URIs of its scheme.
 *
 * All of a channel's functions are called by the thread of the job that owns it.  Each blocks for
 * at most the wait's timeout of silence and gives up at once when the wait is cancelled.  What is
 * peculiar to a scheme stays in its file.
 */
#ifndef FERRY_TRANSPORTS_CHANNEL_H
#define FERRY_TRANSPORTS_CHANNEL_H

#include "common/error.h"
#include "common/wait.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

struct channel;

struct channel_ops {
    /*
     * write: all of iov (which is used up on the way), or false.  Errors: "channel-closed",
     * "ram-vanished" (the bytes lie in memory that is gone), those of wait_fd.
     */
    bool (*write)(struct channel *c, struct iovec *iov, int iovcnt, const struct wait *w,
                  struct error **errp);
    /* read: 1 to `room` bytes, 0 at the end of the stream, -1. */
    ssize_t (*read)(struct channel *c, void *buf, size_t room, const struct wait *w,
                    struct error **errp);
    /* readable: whether read would return at once; never waits. */
    bool (*readable)(struct channel *c);
    /*
     * finish: nothing more will be written; returns when the other end has taken everything and
     * closed, or exited with status 0.  For channels that go one way.
     */
    bool (*finish)(struct channel *c, const struct wait *w, struct error **errp);
    /* end_writing: the peer reads the end of the stream; reading goes on. */
    void (*end_writing)(struct channel *c);
    void (*close)(struct channel *c);
};

struct channel {
    const struct channel_ops *ops;
    bool two_way; /* both ends may write */
};

static inline bool channel_write(struct channel *c, struct iovec *iov, int iovcnt,
                                 const struct wait *w, struct error **errp)
{
    return c->ops->write(c, iov, iovcnt, w, errp);
}

static inline ssize_t channel_read(struct channel *c, void *buf, size_t room, const struct wait *w,
                                   struct error **errp)
{
    return c->ops->read(c, buf, room, w, errp);
}

static inline bool channel_readable(struct channel *c)
{
    return c->ops->readable(c);
}

static inline bool channel_finish(struct channel *c, const struct wait *w, struct error **errp)
{
    return c->ops->finish(c, w, errp);
}

static inline void channel_end_writing(struct channel *c)
{
    c->ops->end_writing(c);
}

static inline void channel_close(struct channel *c)
{
    if (c) {
        c->ops->close(c);
    }
}

#endif
