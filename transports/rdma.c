/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rdma:HOST:PORT: reliable connections made with the RDMA connection manager, over whichever device
 * (InfiniBand, RoCE, iWARP) has the address.  Each connection has an event channel of its own, so
 * that a listener's callers and a connection's end are told apart.
 */
#include "transports/allow.h"
#include "transports/rdma_internal.h"

#include "common/cleanup.h"
#include "common/clock.h"
#include "transports/resolve.h"
#include "transports/transport.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

/* A caller whose connection is not up within this time is not waited for. */
#define ESTABLISH_MS 5000
/* 4.096 us * 2^17 = 0.54 s without an answer, eight times: a peer that vanished is noticed in 4 s.
 */
#define ACK_TIMEOUT 17
#define RETRIES     7
/* The kernel misses some of its neighbours' answers and looks again only when its time is up, so
 * it is given little, often. */
#define RESOLVE_MS    200
#define RESOLVE_TRIES 20
#define ROUTE_MS      2000

struct rdma_endpoint {
    struct endpoint endpoint;
    char *uri;  /* as given */
    char *host; /* NULL: none given */
    char *port;
};

static void rdma_endpoint_free(struct endpoint *endpoint)
{
    struct rdma_endpoint *e = (struct rdma_endpoint *)endpoint;
    free(e->uri);
    free(e->host);
    free(e->port);
    free(e);
}

/* Just looks into sysfs. */
static bool have_device(const char *uri, struct error **errp)
{
    int count = 0;
    struct ibv_device **devices = ibv_get_device_list(&count);
    if (devices) {
        ibv_free_device_list(devices);
    }
    if (!count) {
        error_set(errp, "rdma-no-device", "'%s': there is no RDMA device on this host", uri);
    }
    return count > 0;
}

static struct endpoint *rdma_parse(const char *rest, const struct fd_finder *fds,
                                   struct error **errp)
{
    (void)fds;
    struct rdma_endpoint *e = calloc(1, sizeof(*e));
    if (!e || asprintf(&e->uri, "rdma:%s", rest) < 0) {
        abort();
    }
    e->endpoint.ops = &transport_rdma;
    if (!host_port_split(rest, &e->host, &e->port)) {
        error_set(errp, "uri-invalid",
                  "'%s' is not rdma:HOST:PORT (an IPv6 address goes in brackets, a port is 0 to "
                  "65535)",
                  e->uri);
    } else if (have_device(e->uri, errp)) {
        return &e->endpoint;
    }
    rdma_endpoint_free(&e->endpoint);
    return NULL;
}

/* ---- the connection manager's events ---- */

static struct rdma_event_channel *open_events(const char *uri, struct error **errp)
{
    struct rdma_event_channel *events = rdma_create_event_channel();
    if (!events) {
        error_set(errp, "rdma-no-device", "'%s': there is no RDMA connection manager here: %s", uri,
                  strerror(errno));
        return NULL;
    }
    fcntl(events->fd, F_SETFL, fcntl(events->fd, F_GETFL) | O_NONBLOCK);
    return events;
}

/* The next event, to be acknowledged; NULL with the wait's error. */
static struct rdma_cm_event *next_event(struct rdma_event_channel *events, const struct wait *w,
                                        struct error **errp)
{
    struct rdma_cm_event *event;
    while (rdma_get_cm_event(events, &event) != 0) {
        if (errno != EAGAIN && errno != EINTR) {
            error_set(errp, "system-error", "The RDMA connection manager: %s", strerror(errno));
            return NULL;
        }
        if (!wait_fd(events->fd, POLLIN, w, errp)) {
            return NULL;
        }
    }
    return event;
}

static const char *refusal_text(const struct rdma_cm_event *event)
{
    return event->event == RDMA_CM_EVENT_REJECTED ? "nobody listens there, or the call was refused"
           : event->event == RDMA_CM_EVENT_UNREACHABLE ? "it can't be reached"
                                                       : rdma_event_str(event->event);
}

/* Waits for that event; its private data goes to `hello`, where that is not NULL. */
static bool expect_event(struct rdma_event_channel *events, enum rdma_cm_event_type type,
                         const char *uri, struct rdma_hello *hello, const struct wait *w,
                         struct error **errp)
{
    struct rdma_cm_event *event = next_event(events, w, errp);
    if (!event) {
        return false;
    }
    bool ok = event->event == type;
    if (!ok) {
        error_set(errp, "connect-failed", "Failed to connect to '%s': %s (%d)", uri,
                  refusal_text(event), event->status);
    } else if (hello && event->param.conn.private_data_len >= sizeof(*hello)) {
        memcpy(hello, event->param.conn.private_data, sizeof(*hello));
    }
    rdma_ack_cm_event(event);
    return ok;
}

static bool hello_fits(const struct rdma_hello *hello)
{
    uint32_t credits = le32toh(hello->credits);
    return le64toh(hello->magic) == RDMA_MAGIC && le32toh(hello->version) == RDMA_VERSION &&
           le32toh(hello->buffer) >= RDMA_BUFFER_MIN && credits >= 4 && credits <= UINT16_MAX;
}

/* RNR: a peer without a buffer for us breaks the protocol of credits, and is still waited for. */
static struct rdma_conn_param connection(const struct rdma_hello *mine)
{
    return (struct rdma_conn_param){
        .private_data = mine,
        .private_data_len = sizeof(*mine),
        .responder_resources = 1,
        .initiator_depth = 1,
        .retry_count = RETRIES,
        .rnr_retry_count = 7,
    };
}

static void set_ack_timeout(struct rdma_cm_id *id)
{
    uint8_t timeout = ACK_TIMEOUT;
    rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof(timeout));
}

/* ---- connecting ---- */

static bool step_failed(const char *uri, struct error **errp)
{
    error_set(errp, "connect-failed", "Failed to connect to '%s': %s", uri, strerror(errno));
    return false;
}

/* Finds the device. */
static bool find_device(struct rdma_cm_id *id, const struct addrinfo *ai, const char *uri,
                        const struct wait *w, struct error **errp)
{
    struct error *err = NULL;
    for (int i = 0; i < RESOLVE_TRIES; i++) {
        error_free(err);
        err = NULL;
        if (rdma_resolve_addr(id, NULL, ai->ai_addr, RESOLVE_MS) != 0) {
            return step_failed(uri, errp);
        }
        if (expect_event(id->channel, RDMA_CM_EVENT_ADDR_RESOLVED, uri, NULL, w, &err)) {
            return true;
        }
        if (strcmp(err->code, "connect-failed") != 0) {
            break;
        }
    }
    error_move(errp, err);
    return false;
}

/* Finds the device and the way to the peer. */
static bool find_way(struct rdma_cm_id *id, const struct addrinfo *ai, const char *uri,
                     const struct wait *w, struct error **errp)
{
    if (!find_device(id, ai, uri, w, errp)) {
        return false;
    }
    set_ack_timeout(id);
    return rdma_resolve_route(id, ROUTE_MS) == 0
               ? expect_event(id->channel, RDMA_CM_EVENT_ROUTE_RESOLVED, uri, NULL, w, errp)
               : step_failed(uri, errp);
}

static bool shake_hands(struct rdma_channel *c, const char *uri, const struct wait *w,
                        struct error **errp)
{
    struct rdma_hello mine, theirs = {0};
    rdma_hello_mine(&mine);
    struct rdma_conn_param param = connection(&mine);
    if (rdma_connect(c->id, &param) != 0) {
        return step_failed(uri, errp);
    }
    if (!expect_event(c->id->channel, RDMA_CM_EVENT_ESTABLISHED, uri, &theirs, w, errp)) {
        return false;
    }
    if (!hello_fits(&theirs)) {
        error_set(errp, "connect-failed", "'%s' is no ferryd of this version", uri);
        return false;
    }
    rdma_channel_open(c, &theirs);
    return true;
}

static struct channel *connect_by(struct rdma_cm_id *id, const struct addrinfo *ai, const char *uri,
                                  const struct wait *w, struct error **errp)
{
    if (!find_way(id, ai, uri, w, errp)) {
        return NULL;
    }
    struct rdma_channel *c = rdma_channel_new(id, uri, errp);
    if (c && !shake_hands(c, uri, w, errp)) {
        rdma_channel_free(c);
        c = NULL;
    }
    return c ? &c->channel : NULL;
}

static struct channel *connect_to(const struct addrinfo *ai, const char *uri, const struct wait *w,
                                  struct error **errp)
{
    struct rdma_event_channel *events = open_events(uri, errp);
    struct rdma_cm_id *id = NULL;
    struct channel *channel = NULL;
    if (events && rdma_create_id(events, &id, NULL, RDMA_PS_TCP) != 0) {
        step_failed(uri, errp);
    }
    if (id) {
        channel = connect_by(id, ai, uri, w, errp);
    }
    if (!channel && id) {
        rdma_destroy_id(id);
    }
    if (!channel && events) {
        rdma_destroy_event_channel(events);
    }
    return channel;
}

/* Tries each address in turn; the last one's error is reported, a cancel ends it at once. */
static struct channel *rdma_connect_endpoint(struct endpoint *endpoint, const struct wait *w,
                                             struct error **errp)
{
    struct rdma_endpoint *e = (struct rdma_endpoint *)endpoint;
    struct addrinfo *found = resolve(e->host ? e->host : "localhost", e->port, false, w, errp);
    struct channel *channel = NULL;
    struct error *err = NULL;
    struct wait named = *w;
    named.peer = e->uri;
    for (struct addrinfo *ai = found; ai && !channel; ai = ai->ai_next) {
        error_free(err);
        err = NULL;
        channel = connect_to(ai, e->uri, &named, &err);
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

/* ---- listening ---- */

struct rdma_listener {
    struct listener listener;
    struct rdma_event_channel *events;
    struct rdma_cm_id *id;
    char address[NI_MAXHOST + NI_MAXSERV + 16];
};

static void rdma_listener_close(struct listener *listener)
{
    struct rdma_listener *l = (struct rdma_listener *)listener;
    struct rdma_cm_event *event;
    /* Callers that were not taken are turned away. */
    while (rdma_get_cm_event(l->events, &event) == 0) {
        struct rdma_cm_id *caller =
            event->event == RDMA_CM_EVENT_CONNECT_REQUEST ? event->id : NULL;
        rdma_ack_cm_event(event);
        if (caller) {
            rdma_reject(caller, NULL, 0);
            rdma_destroy_id(caller);
        }
    }
    rdma_destroy_id(l->id);
    rdma_destroy_event_channel(l->events);
    free(l);
}

static bool rdma_listener_ready(struct listener *listener)
{
    struct pollfd fd = {.fd = ((struct rdma_listener *)listener)->events->fd, .events = POLLIN};
    return poll(&fd, 1, 0) > 0;
}

static const char *rdma_listener_address(struct listener *listener)
{
    return ((struct rdma_listener *)listener)->address;
}

/* The next caller with a hello of ours; others are turned away. */
static struct rdma_cm_id *next_caller(struct rdma_listener *l, struct rdma_hello *hello,
                                      const struct wait *w, struct error **errp)
{
    for (;;) {
        struct rdma_cm_event *event = next_event(l->events, w, errp);
        if (!event) {
            return NULL;
        }
        struct rdma_cm_id *id = event->id;
        enum rdma_cm_event_type type = event->event;
        *hello = (struct rdma_hello){0};
        if (type == RDMA_CM_EVENT_CONNECT_REQUEST &&
            event->param.conn.private_data_len >= sizeof(*hello)) {
            memcpy(hello, event->param.conn.private_data, sizeof(*hello));
        }
        rdma_ack_cm_event(event);
        if (type == RDMA_CM_EVENT_DEVICE_REMOVAL) {
            error_set(errp, "listen-failed", "%s: the RDMA device was taken away", l->address);
            return NULL;
        }
        if (type == RDMA_CM_EVENT_CONNECT_REQUEST && hello_fits(hello)) {
            return id;
        }
        if (type == RDMA_CM_EVENT_CONNECT_REQUEST) {
            rdma_reject(id, NULL, 0);
            rdma_destroy_id(id);
        }
    }
}

static bool welcome(struct rdma_channel *c, const struct rdma_hello *theirs, const struct wait *w,
                    struct error **errp)
{
    struct rdma_hello mine;
    rdma_hello_mine(&mine);
    struct rdma_conn_param param = connection(&mine);
    set_ack_timeout(c->id);
    if (rdma_accept(c->id, &param) != 0) {
        return step_failed(c->peer, errp);
    }
    if (!expect_event(c->id->channel, RDMA_CM_EVENT_ESTABLISHED, c->peer, NULL, w, errp)) {
        return false;
    }
    rdma_channel_open(c, theirs);
    return true;
}

/* A channel with that caller; takes over `id`. */
static struct channel *take_caller(struct rdma_listener *l, struct rdma_cm_id *id,
                                   const struct rdma_hello *theirs, const struct wait *w,
                                   struct error **errp)
{
    struct rdma_channel *c = NULL;
    struct rdma_event_channel *events = open_events(l->address, errp);
    if (events && rdma_migrate_id(id, events) == 0) {
        c = rdma_channel_new(id, l->address, errp);
    }
    if (c && welcome(c, theirs, w, errp)) {
        return &c->channel;
    }
    if (c) {
        rdma_channel_free(c);
    }
    rdma_destroy_id(id);
    if (events) {
        rdma_destroy_event_channel(events);
    }
    return NULL;
}

/* A caller who does not come through must not keep the others out. */
static struct channel *rdma_listener_accept(struct listener *listener, const struct wait *w,
                                            struct error **errp)
{
    struct rdma_listener *l = (struct rdma_listener *)listener;
    for (;;) {
        struct rdma_hello theirs;
        struct error *err = NULL;
        struct rdma_cm_id *id = next_caller(l, &theirs, w, errp);
        if (!id) {
            return NULL;
        }
        struct wait brief = {
            .cancel_fd = w->cancel_fd, .timeout_ms = ESTABLISH_MS, .what = "the caller"};
        if (w->timeout_ms >= 0 && w->timeout_ms < ESTABLISH_MS) {
            brief.timeout_ms = w->timeout_ms; /* whoever looks in here has more to look after */
        }
        struct channel *channel = take_caller(l, id, &theirs, &brief, &err);
        bool ours =
            err && strcmp(err->code, "timeout") != 0 && strcmp(err->code, "connect-failed") != 0;
        if (channel || ours) {
            error_move(errp, err);
            return channel;
        }
        error_free(err);
    }
}

static const struct listener_ops rdma_listener_ops = {
    .accept = rdma_listener_accept,
    .ready = rdma_listener_ready,
    .address = rdma_listener_address,
    .close = rdma_listener_close,
    .again = true,
};

static void set_address(struct rdma_listener *l)
{
    struct sockaddr *addr = rdma_get_local_addr(l->id);
    char host[NI_MAXHOST];
    socklen_t length =
        addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    if (getnameinfo(addr, length, host, sizeof(host), NULL, 0, NI_NUMERICHOST) != 0) {
        strcpy(host, "?");
    }
    snprintf(l->address, sizeof(l->address),
             addr->sa_family == AF_INET6 ? "rdma:[%s]:%u" : "rdma:%s:%u", host,
             ntohs(rdma_get_src_port(l->id)));
}

static bool listen_on(struct rdma_listener *l, const struct addrinfo *ai)
{
    if (rdma_create_id(l->events, &l->id, NULL, RDMA_PS_TCP) != 0) {
        l->id = NULL;
        return false;
    }
    if (rdma_bind_addr(l->id, ai->ai_addr) == 0 && rdma_listen(l->id, 1) == 0) {
        return true;
    }
    int why = errno;
    rdma_destroy_id(l->id);
    l->id = NULL;
    errno = why;
    return false;
}

static struct listener *rdma_listen_endpoint(struct endpoint *endpoint, const struct wait *w,
                                             struct error **errp)
{
    struct rdma_endpoint *e = (struct rdma_endpoint *)endpoint;
    struct rdma_event_channel *events = open_events(e->uri, errp);
    struct addrinfo *found = events ? resolve(e->host, e->port, true, w, errp) : NULL;
    struct rdma_listener *l = calloc(1, sizeof(*l));
    if (!l) {
        abort();
    }
    l->listener.ops = &rdma_listener_ops;
    l->events = events;
    bool tried = false;
    for (struct addrinfo *ai = found; ai && !l->id; ai = ai->ai_next) {
        if (allow_list_has_address(endpoint->allowed, ai)) {
            tried = true;
            listen_on(l, ai);
        }
    }
    if (l->id) {
        freeaddrinfo(found);
        set_address(l);
        return &l->listener;
    }
    if (found && !tried) {
        allow_list_refuse(endpoint->allowed, e->uri, errp);
        freeaddrinfo(found);
    } else if (found) {
        error_set(errp, "listen-failed", "Failed to listen on '%s': %s", e->uri, strerror(errno));
        freeaddrinfo(found);
    }
    if (events) {
        rdma_destroy_event_channel(events);
    }
    free(l);
    return NULL;
}

const struct endpoint_ops transport_rdma = {
    .scheme = "rdma",
    .parse = rdma_parse,
    .connect = rdma_connect_endpoint,
    .listen = rdma_listen_endpoint,
    .free = rdma_endpoint_free,
    .reconnects = true,
};
