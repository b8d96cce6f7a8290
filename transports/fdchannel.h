/* SPDX-License-Identifier: BSD-3-Clause */
/* The channel over a descriptor, which all schemes made of sockets and pipes share. */
#ifndef FERRY_TRANSPORTS_FDCHANNEL_H
#define FERRY_TRANSPORTS_FDCHANNEL_H

#include "transports/channel.h"
#include "transports/transport.h"

#define FD_CHANNEL_PEER 64

struct fd_channel {
    struct channel channel;
    int fd;
    bool is_socket;
    bool spins;                 /* the last wait for bytes was short */
    char peer[FD_CHANNEL_PEER]; /* for error texts: "tcp:127.0.0.1:4444" */
};

extern const struct channel_ops fd_channel_ops;

/* Fills a channel that is embedded in a larger one; takes over fd and makes it non-blocking. */
void fd_channel_init(struct fd_channel *c, const struct channel_ops *ops, int fd, const char *peer);

struct channel *fd_channel_new(int fd, const char *peer);

/* What a larger channel's ops share. */
bool fd_channel_write(struct channel *channel, struct iovec *iov, int iovcnt, const struct wait *w,
                      struct error **errp);
ssize_t fd_channel_read(struct channel *channel, void *buf, size_t room, const struct wait *w,
                        struct error **errp);
bool fd_channel_readable(struct channel *channel);
void fd_channel_end_writing(struct channel *channel);

/* A socket that listens, for tcp: and unix:. */
struct listener *socket_listener_new(int fd, const char *address, const char *unlink_path);

/* A listener that yields one channel, ready-made. */
struct listener *single_listener_new(struct channel *channel, const char *address);

/* Waits until a non-blocking connect has come to its end. */
bool socket_await_connect(int fd, const char *peer, const struct wait *w, struct error **errp);

#endif
