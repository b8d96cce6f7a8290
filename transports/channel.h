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
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct channel;

/* A range of shared memory, the same on both sides: the n-th here is the n-th there. */
struct channel_region {
    const char *name; /* for error texts */
    int fd;
    uint64_t offset; /* in the file, bytes; page-aligned, as is the length */
    uint64_t length;
};

/* What both ends agree to share for direct placement. */
struct channel_sharing {
    const struct channel_region *regions;
    unsigned count;
    bool offer;   /* this end's memory is placed into; false: this end places */
    bool pin_all; /* all of it is made ready at once; the same on both sides */
    uint64_t
        chunk; /* bytes made ready together otherwise, a power of two; the placing end's word */
};

struct channel_ops {
    /*
     * write: all of iov (which is used up on the way), or false.  Errors: "channel-closed",
     * "ram-vanished" (the bytes lie in memory that is gone), those of wait_fd.
     */
    bool (*write)(struct channel *c, struct iovec *iov, int iovcnt, const struct wait *w,
                  struct error **errp);
    /*
     * read: 1 to `room` bytes, 0 at the end of the stream, -1.  Where in_place says so, `buf` may
     * be memory that somebody takes away: "ram-vanished", and not a signal, when it is gone.
     */
    ssize_t (*read)(struct channel *c, void *buf, size_t room, const struct wait *w,
                    struct error **errp);
    bool in_place;
    /* readable: whether read would return at once; never waits. */
    bool (*readable)(struct channel *c);
    /*
     * finish: nothing more will be written; returns when the other end has taken everything and
     * closed, or exited with status 0.  For channels that go one way.
     */
    bool (*finish)(struct channel *c, const struct wait *w, struct error **errp);
    /* round_trip_ns: the shortest time lately from this end to the other and back; 0, or NULL: it
     * is not known. */
    uint64_t (*round_trip_ns)(struct channel *c);
    /* end_writing: the peer reads the end of the stream; reading goes on. */
    void (*end_writing)(struct channel *c);
    void (*close)(struct channel *c);

    /*
     * Direct placement, for channels that can put memory where it belongs at the peer without its
     * help; NULL for all others.
     *
     * share: both ends call it, each with its own regions, before anything is placed.  Errors:
     * those of read, "memlock-limit", "rdma-register".
     */
    bool (*share)(struct channel *c, const struct channel_sharing *sharing, const struct wait *w,
                  struct error **errp);
    /*
     * place: [offset, offset + length) of a region, page-aligned, goes to the same place at the
     * peer: what it holds at some moment between this call and the peer's reading of what is
     * written next; or zeroes, without looking at it.  Errors: those of write.
     */
    bool (*place)(struct channel *c, unsigned region, uint64_t offset, uint64_t length, bool zeroes,
                  const struct wait *w, struct error **errp);
    /* unshare: from here on the peer can't place anything any more.  Again is allowed. */
    void (*unshare)(struct channel *c);
};

struct channel {
    const struct channel_ops *ops;
    bool two_way;    /* both ends may write */
    uint64_t placed; /* bytes that were placed and whose arrival was confirmed */
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

static inline uint64_t channel_round_trip_ns(struct channel *c)
{
    return c->ops->round_trip_ns ? c->ops->round_trip_ns(c) : 0;
}

static inline bool channel_finish(struct channel *c, const struct wait *w, struct error **errp)
{
    return c->ops->finish(c, w, errp);
}

static inline void channel_end_writing(struct channel *c)
{
    c->ops->end_writing(c);
}

static inline void channel_unshare(struct channel *c)
{
    if (c && c->ops->unshare) {
        c->ops->unshare(c);
    }
}

static inline void channel_close(struct channel *c)
{
    if (c) {
        c->ops->close(c);
    }
}

#endif
