/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/metrics.h"

#include "common/cleanup.h"
#include "common/log.h"
#include "daemon/sockets.h"
#include "protocol/pause.h"
#include "transports/resolve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define UNIX_SCHEME "unix:"

/* A scraper sends a line and some headers. */
#define HEADERS_MAX  8192
#define IDLE_SECONDS 10

/* One in a process: what evhttp hands to its listener's callbacks is evhttp's own. */
static struct {
    struct evhttp *http;
    struct evconnlistener *accepting; /* of http */
    struct accept_pause pause;
    char *path; /* of its unix socket; NULL: it has none */
} server;

static void on_request(struct evhttp_request *req, void *arg)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(req);
    struct evbuffer *body = evbuffer_new();
    if (!body) {
        evhttp_send_error(req, HTTP_INTERNAL, NULL);
        return;
    }
    metrics_write(arg, body);
    evhttp_add_header(headers, "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    evhttp_send_reply(req, HTTP_OK, NULL, body);
    evbuffer_free(body);
}

/* ---- where it listens ---- */

static bool is_loopback(const struct addrinfo *ai)
{
    const struct sockaddr_in *in = (const void *)ai->ai_addr;
    const struct sockaddr_in6 *in6 = (const void *)ai->ai_addr;
    return ai->ai_family == AF_INET ? ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET
                                    : IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

static bool is_path(const char *address)
{
    return strncmp(address, UNIX_SCHEME, strlen(UNIX_SCHEME)) == 0;
}

/* Addresses only: a name would have to be looked up.  The result is the caller's to free. */
static struct addrinfo *parse_port(const char *address, struct error **errp)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                          .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    CLEANUP_FREE char *host = NULL;
    CLEANUP_FREE char *port = NULL;
    struct addrinfo *found = NULL;
    if (!host_port_split(address, &host, &port) || !host ||
        getaddrinfo(host, port, &hints, &found) != 0) {
        error_set(errp, "option-invalid", "'%s' is neither unix:PATH nor IP:PORT", address);
        return NULL;
    }
    if (!is_loopback(found)) {
        error_set(errp, "option-invalid",
                  "'%s' can be reached from elsewhere, and asks nobody who he is: use a loopback "
                  "address, or unix:PATH, and a proxy",
                  address);
        freeaddrinfo(found);
        return NULL;
    }
    return found;
}

bool metrics_check(const char *address, struct error **errp)
{
    if (is_path(address)) {
        return true;
    }
    struct addrinfo *found = parse_port(address, errp);
    if (found) {
        freeaddrinfo(found);
    }
    return found;
}

static int bind_port(const struct addrinfo *ai, const char *address, struct error **errp)
{
    int on = 1;
    CLEANUP_CLOSE int fd =
        socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0) {
        error_set(errp, "listen-failed", "metrics: %s: %s", address, strerror(errno));
        return -1;
    }
    return fd_steal(&fd);
}

static int listen_port(const char *address, struct error **errp)
{
    struct addrinfo *found = parse_port(address, errp);
    int fd = found ? bind_port(found, address, errp) : -1;
    if (found) {
        freeaddrinfo(found);
    }
    return fd;
}

static int listen_at(const struct socket_options *o, struct error **errp)
{
    if (!is_path(o->path)) {
        return listen_port(o->path, errp);
    }
    struct socket_options own = *o;
    own.path = server.path = strdup(o->path + strlen(UNIX_SCHEME));
    return socket_listen(&own, SOCK_STREAM, errp);
}

/* With the port that the kernel chose. */
static void log_address(int fd, const char *address)
{
    struct sockaddr_storage addr = {0};
    socklen_t length = sizeof(addr);
    char port[NI_MAXSERV] = "";
    getsockname(fd, (struct sockaddr *)&addr, &length);
    if (addr.ss_family != AF_UNIX) {
        getnameinfo((struct sockaddr *)&addr, length, NULL, 0, port, sizeof(port), NI_NUMERICSERV);
    }
    log_info("metrics at %s%s%s", address, *port ? ", port " : "", port);
}

/* ---- life ---- */

static void on_accept_error(struct evconnlistener *accepting, void *arg)
{
    (void)accepting;
    (void)arg;
    accept_pause_begin(&server.pause);
}

/* Takes over `fd`. */
static bool start(struct ferryd *d, int fd)
{
    struct event_base *base = loop_base(d->loop);
    server.http = evhttp_new(base);
    bool pauses = accept_pause_init(&server.pause, base, "a scraper's connection");
    /* evhttp puts its own callback, and the argument of it, into the listener. */
    server.accepting =
        evconnlistener_new(base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    if (!server.accepting) {
        close(fd);
    }
    if (!server.http || !pauses || !server.accepting ||
        !evhttp_bind_listener(server.http, server.accepting)) {
        return false;
    }
    server.pause.listener = server.accepting;
    evconnlistener_set_error_cb(server.accepting, on_accept_error);
    evhttp_set_allowed_methods(server.http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
    evhttp_set_max_headers_size(server.http, HEADERS_MAX);
    evhttp_set_max_body_size(server.http, 0);
    evhttp_set_timeout(server.http, IDLE_SECONDS);
    return evhttp_set_cb(server.http, "/metrics", on_request, d) == 0;
}

bool metrics_serve(struct ferryd *d, const struct socket_options *o, struct error **errp)
{
    int fd = listen_at(o, errp);
    if (fd < 0) {
        free(server.path); /* whatever is there is not ours */
        server.path = NULL;
        return false;
    }
    log_address(fd, o->path);
    if (!start(d, fd)) {
        error_set(errp, "system-error", "No memory for the metrics");
        return false;
    }
    return true;
}

void metrics_end(void)
{
    accept_pause_destroy(&server.pause);
    if (server.http) {
        evhttp_free(server.http);
    }
    if (server.path) {
        unlink(server.path);
    }
    free(server.path);
}
