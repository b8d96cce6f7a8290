/* SPDX-License-Identifier: BSD-3-Clause */
/* tcp:HOST:PORT, with names, IPv4 and [IPv6]. */
#include "common/cleanup.h"
#include "transports/allow.h"
#include "transports/fdchannel.h"
#include "transports/resolve.h"
#include "transports/transport.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

struct tcp_endpoint {
    struct endpoint endpoint;
    char *uri;  /* as given */
    char *host; /* NULL: none given */
    char *port;
};

static void tcp_free(struct endpoint *endpoint)
{
    struct tcp_endpoint *e = (struct tcp_endpoint *)endpoint;
    free(e->uri);
    free(e->host);
    free(e->port);
    free(e);
}

static struct endpoint *tcp_parse(const char *rest, const struct fd_finder *fds,
                                  struct error **errp)
{
    (void)fds;
    struct tcp_endpoint *e = calloc(1, sizeof(*e));
    if (!e || asprintf(&e->uri, "tcp:%s", rest) < 0) {
        abort();
    }
    e->endpoint.ops = &transport_tcp;
    if (!host_port_split(rest, &e->host, &e->port)) {
        error_set(errp, "uri-invalid",
                  "'%s' is not tcp:HOST:PORT (an IPv6 address goes in brackets, a port is 0 to "
                  "65535)",
                  e->uri);
        tcp_free(&e->endpoint);
        return NULL;
    }
    return &e->endpoint;
}

static void tune(int fd)
{
    int on = 1;
    /* The handover's messages are small and each is waited for. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    /* A host that vanished while we only read is noticed. */
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

static struct channel *connect_to(const struct addrinfo *ai, const char *uri, const struct wait *w,
                                  struct error **errp)
{
    CLEANUP_CLOSE int fd =
        socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);
    if (fd < 0) {
        error_set(errp, "system-error", "socket for '%s': %s", uri, strerror(errno));
        return NULL;
    }
    if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0 && errno != EINPROGRESS) {
        error_set(errp, "connect-failed", "Failed to connect to '%s': %s", uri, strerror(errno));
        return NULL;
    }
    if (!socket_await_connect(fd, uri, w, errp)) {
        return NULL;
    }
    tune(fd);
    return fd_channel_new(fd_steal(&fd), uri);
}

/* Tries each address in turn; the last one's error is reported, a cancel ends it at once. */
static struct channel *tcp_connect(struct endpoint *endpoint, const struct wait *w,
                                   struct error **errp)
{
    struct tcp_endpoint *e = (struct tcp_endpoint *)endpoint;
    struct addrinfo *found = resolve(e->host ? e->host : "localhost", e->port, false, w, errp);
    struct channel *channel = NULL;
    struct error *err = NULL;
    for (struct addrinfo *ai = found; ai && !channel; ai = ai->ai_next) {
        error_free(err);
        err = NULL;
        channel = connect_to(ai, e->uri, w, &err);
        if (!channel && wait_cancelled(w, NULL)) {
            break;
        }
    }
    if (found) {
        freeaddrinfo(found);
    }
    if (err) {
        error_move(errp, err);
    }
    return channel;
}

static int listen_on(const struct addrinfo *ai)
{
    int on = 1;
    CLEANUP_CLOSE int fd =
        socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, 1) < 0) {
        return -1;
    }
    return fd_steal(&fd);
}

/* The URI of where `fd` listens, with the port that the kernel chose. */
static void bound_uri(int fd, char *uri, size_t size)
{
    struct sockaddr_storage addr = {0};
    socklen_t length = sizeof(addr);
    char host[NI_MAXHOST], port[NI_MAXSERV];
    getsockname(fd, (struct sockaddr *)&addr, &length);
    if (getnameinfo((struct sockaddr *)&addr, length, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        strcpy(host, "?");
        strcpy(port, "?");
    }
    snprintf(uri, size, addr.ss_family == AF_INET6 ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
}

static struct listener *tcp_listen(struct endpoint *endpoint, const struct wait *w,
                                   struct error **errp)
{
    struct tcp_endpoint *e = (struct tcp_endpoint *)endpoint;
    struct addrinfo *found = resolve(e->host, e->port, true, w, errp);
    if (!found) {
        return NULL;
    }
    int fd = -1;
    bool tried = false;
    for (struct addrinfo *ai = found; ai && fd < 0; ai = ai->ai_next) {
        if (allow_list_has_address(endpoint->allowed, ai)) {
            tried = true;
            fd = listen_on(ai);
        }
    }
    int err = errno;
    freeaddrinfo(found);
    if (!tried) {
        allow_list_refuse(endpoint->allowed, e->uri, errp);
        return NULL;
    }
    if (fd < 0) {
        error_set(errp, "listen-failed", "Failed to listen on '%s': %s", e->uri, strerror(err));
        return NULL;
    }
    char uri[NI_MAXHOST + NI_MAXSERV + 16];
    bound_uri(fd, uri, sizeof(uri));
    tune(fd); /* inherited by what it accepts */
    return socket_listener_new(fd, uri, NULL);
}

const struct endpoint_ops transport_tcp = {
    .scheme = "tcp",
    .parse = tcp_parse,
    .connect = tcp_connect,
    .listen = tcp_listen,
    .free = tcp_free,
    .reconnects = true,
};
