/* SPDX-License-Identifier: BSD-3-Clause */
#include "transports/fdchannel.h"

#include "common/cleanup.h"
#include "common/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* ---- writing ---- */

/* Drops `n` written bytes from the front; returns how many iovecs are left. */
static int iov_advance(struct iovec **iov, int iovcnt, size_t n)
{
    while (iovcnt && n >= (*iov)->iov_len) {
        n -= (*iov)->iov_len;
        (*iov)++;
        iovcnt--;
    }
    if (iovcnt) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + n;
        (*iov)->iov_len -= n;
    }
    return iovcnt;
}

static ssize_t write_some(struct fd_channel *c, struct iovec *iov, int iovcnt)
{
    if (!c->is_socket) {
        return writev(c->fd, iov, iovcnt); /* SIGPIPE is ignored by the whole daemon */
    }
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)iovcnt};
    return sendmsg(c->fd, &msg, MSG_NOSIGNAL);
}

/* The error names the peer. */
static bool wait_for(const struct fd_channel *c, short events, const struct wait *w,
                     struct error **errp)
{
    struct wait named = *w;
    named.peer = c->peer;
    return wait_fd(c->fd, events, &named, errp);
}

bool fd_channel_write(struct channel *channel, struct iovec *iov, int iovcnt, const struct wait *w,
                      struct error **errp)
{
    struct fd_channel *c = (struct fd_channel *)channel;
    iovcnt = iov_advance(&iov, iovcnt, 0);
    while (iovcnt) {
        ssize_t n = write_some(c, iov, iovcnt);
        if (n >= 0) {
            iovcnt = iov_advance(&iov, iovcnt, (size_t)n);
        } else if (errno == EAGAIN) {
            if (!wait_for(c, POLLOUT, w, errp)) {
                return false;
            }
        } else if (errno == EFAULT) {
            error_set(errp, "ram-vanished", "RAM was taken away while it was being sent");
            return false;
        } else if (errno != EINTR) {
            error_set(errp, "channel-closed", "%s: %s", c->peer, strerror(errno));
            return false;
        }
    }
    return true;
}

/* ---- reading ---- */

/*
 * A reader's wait that is likely to be shorter than this is spent looking: about what it takes to
 * be put to sleep and woken.  Between the pieces of a fast link hardly more time passes, and the
 * scheduler wakes the two ends of a connection within a host on one CPU, where they take turns
 * while another one is idle: in the downtime that is half of it.  The first wait that lasts longer
 * ends the looking, until one was short again, so that a slow link costs nothing (kernel doc: halt
 * polling, Documentation/virt/kvm/halt-polling.rst, does the same).  A writer that waits does so
 * for a reader that is slower: it sleeps.
 */
#define SPIN_NS 50000u

static bool comes_soon(int fd)
{
    struct pollfd look = {.fd = fd, .events = POLLIN};
    uint64_t end = clock_ns() + SPIN_NS;
    do {
        if (poll(&look, 1, 0) > 0) {
            return true;
        }
    } while (clock_ns() < end);
    return false;
}

static bool await_bytes(struct fd_channel *c, const struct wait *w, struct error **errp)
{
    if (c->spins && comes_soon(c->fd)) {
        return true;
    }
    uint64_t start = clock_ns();
    bool ok = wait_for(c, POLLIN, w, errp);
    c->spins = clock_ns() - start < SPIN_NS;
    return ok;
}

ssize_t fd_channel_read(struct channel *channel, void *buf, size_t room, const struct wait *w,
                        struct error **errp)
{
    struct fd_channel *c = (struct fd_channel *)channel;
    for (;;) {
        ssize_t n = read(c->fd, buf, room);
        if (n >= 0) {
            return n;
        }
        if (errno == EAGAIN) {
            if (!await_bytes(c, w, errp)) {
                return -1;
            }
        } else if (errno == EFAULT) {
            error_set(errp, "ram-vanished", "RAM was taken away while it was being received");
            return -1;
        } else if (errno != EINTR) {
            error_set(errp, "channel-closed", "%s: %s", c->peer, strerror(errno));
            return -1;
        }
    }
}

bool fd_channel_readable(struct channel *channel)
{
    struct fd_channel *c = (struct fd_channel *)channel;
    struct pollfd fd = {.fd = c->fd, .events = POLLIN};
    return poll(&fd, 1, 0) > 0;
}

/*
 * The kernel's minimum of the last minutes: what is queued for a full link does not count, nor does
 * a packet that was lost (tcp(7), TCP_INFO).
 */
static uint64_t fd_channel_round_trip_ns(struct channel *channel)
{
    struct fd_channel *c = (struct fd_channel *)channel;
    struct tcp_info info = {0};
    socklen_t length = sizeof(info);
    if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0 ||
        length < offsetof(struct tcp_info, tcpi_min_rtt) + sizeof(info.tcpi_min_rtt) ||
        info.tcpi_min_rtt == UINT32_MAX) {
        return 0;
    }
    return (uint64_t)info.tcpi_min_rtt * 1000; /* us */
}

/* ---- the end ---- */

void fd_channel_end_writing(struct channel *channel)
{
    struct fd_channel *c = (struct fd_channel *)channel;
    if (c->is_socket) {
        shutdown(c->fd, SHUT_WR);
    } else {
        fd_close(&c->fd);
    }
}

static bool fd_channel_finish(struct channel *channel, const struct wait *w, struct error **errp)
{
    struct fd_channel *c = (struct fd_channel *)channel;
    fd_channel_end_writing(channel);
    /* A pipe or a file took the bytes when write returned; a socket's peer closes when it is done.
     */
    while (c->is_socket) {
        char ignored[256];
        ssize_t n = fd_channel_read(channel, ignored, sizeof(ignored), w, errp);
        if (n <= 0) {
            return n == 0;
        }
    }
    return true;
}

static void fd_channel_close(struct channel *channel)
{
    struct fd_channel *c = (struct fd_channel *)channel;
    fd_close(&c->fd);
    free(c);
}

const struct channel_ops fd_channel_ops = {
    .write = fd_channel_write,
    .read = fd_channel_read,
    .in_place = true,
    .readable = fd_channel_readable,
    .finish = fd_channel_finish,
    .round_trip_ns = fd_channel_round_trip_ns,
    .end_writing = fd_channel_end_writing,
    .close = fd_channel_close,
};

void fd_channel_init(struct fd_channel *c, const struct channel_ops *ops, int fd, const char *peer)
{
    struct stat st;
    *c = (struct fd_channel){.channel.ops = ops, .fd = fd};
    c->is_socket = fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
    c->channel.two_way = c->is_socket;
    snprintf(c->peer, sizeof(c->peer), "%s", peer);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

struct channel *fd_channel_new(int fd, const char *peer)
{
    struct fd_channel *c = malloc(sizeof(*c));
    if (!c) {
        abort();
    }
    fd_channel_init(c, &fd_channel_ops, fd, peer);
    return &c->channel;
}

bool socket_await_connect(int fd, const char *peer, const struct wait *w, struct error **errp)
{
    int err = 0;
    socklen_t length = sizeof(err);
    struct wait named = *w;
    named.peer = peer;
    if (!wait_fd(fd, POLLOUT, &named, errp)) {
        return false;
    }
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &length);
    if (err) {
        error_set(errp, "connect-failed", "Failed to connect to '%s': %s", peer, strerror(err));
        return false;
    }
    return true;
}

/* ---- listeners ---- */

struct socket_listener {
    struct listener listener;
    int fd;
    char *address;
    char *unlink_path;
};

/* The other end of a connection, as far as it has an address of its own. */
static void name_peer(int fd, const char *address, char *peer, size_t size)
{
    struct sockaddr_storage addr = {0};
    socklen_t length = sizeof(addr);
    char host[NI_MAXHOST], port[NI_MAXSERV];
    bool named = getpeername(fd, (struct sockaddr *)&addr, &length) == 0 &&
                 addr.ss_family != AF_UNIX &&
                 getnameinfo((struct sockaddr *)&addr, length, host, sizeof(host), port,
                             sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) == 0;
    if (named) {
        snprintf(peer, size, strchr(host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
    } else {
        snprintf(peer, size, "%s", address);
    }
}

static struct channel *socket_accept(struct listener *listener, const struct wait *w,
                                     struct error **errp)
{
    struct socket_listener *l = (struct socket_listener *)listener;
    for (;;) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            char peer[FD_CHANNEL_PEER];
            name_peer(fd, l->address, peer, sizeof(peer));
            return fd_channel_new(fd, peer);
        }
        if (errno == EAGAIN || errno == ECONNABORTED) {
            if (!wait_fd(l->fd, POLLIN, w, errp)) {
                return NULL;
            }
        } else if (errno != EINTR) {
            error_set(errp, "listen-failed", "%s: accept: %s", l->address, strerror(errno));
            return NULL;
        }
    }
}

static bool socket_ready(struct listener *listener)
{
    struct pollfd fd = {.fd = ((struct socket_listener *)listener)->fd, .events = POLLIN};
    return poll(&fd, 1, 0) > 0;
}

static const char *socket_address(struct listener *listener)
{
    return ((struct socket_listener *)listener)->address;
}

static void socket_close(struct listener *listener)
{
    struct socket_listener *l = (struct socket_listener *)listener;
    close(l->fd);
    if (l->unlink_path) {
        unlink(l->unlink_path);
    }
    free(l->unlink_path);
    free(l->address);
    free(l);
}

static const struct listener_ops socket_listener_ops = {
    .accept = socket_accept,
    .ready = socket_ready,
    .address = socket_address,
    .close = socket_close,
    .again = true,
};

static char *copy_text(const char *text)
{
    char *copy = strdup(text);
    if (!copy) {
        abort();
    }
    return copy;
}

struct listener *socket_listener_new(int fd, const char *address, const char *unlink_path)
{
    struct socket_listener *l = calloc(1, sizeof(*l));
    if (!l) {
        abort();
    }
    l->listener.ops = &socket_listener_ops;
    l->fd = fd;
    l->address = copy_text(address);
    l->unlink_path = unlink_path ? copy_text(unlink_path) : NULL;
    return &l->listener;
}

struct single_listener {
    struct listener listener;
    struct channel *channel;
    char *address;
};

static struct channel *single_accept(struct listener *listener, const struct wait *w,
                                     struct error **errp)
{
    struct single_listener *l = (struct single_listener *)listener;
    struct channel *channel = l->channel;
    (void)w;
    l->channel = NULL;
    if (!channel) {
        error_set(errp, "channel-closed", "%s: there is no second connection", l->address);
    }
    return channel;
}

static bool single_ready(struct listener *listener)
{
    return ((struct single_listener *)listener)->channel != NULL;
}

static const char *single_address(struct listener *listener)
{
    return ((struct single_listener *)listener)->address;
}

static void single_close(struct listener *listener)
{
    struct single_listener *l = (struct single_listener *)listener;
    channel_close(l->channel);
    free(l->address);
    free(l);
}

static const struct listener_ops single_listener_ops = {
    .accept = single_accept,
    .ready = single_ready,
    .address = single_address,
    .close = single_close,
};

struct listener *single_listener_new(struct channel *channel, const char *address)
{
    struct single_listener *l = calloc(1, sizeof(*l));
    if (!l) {
        abort();
    }
    l->listener.ops = &single_listener_ops;
    l->channel = channel;
    l->address = copy_text(address);
    return &l->listener;
}
