/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The guests: connections of VMMs, and the entries by which commands know them.
 *
 * A connection begins as a stranger, with a deadline for its introduction; when the VMM has
 * introduced its guest, the guest gets an entry.  When the connection ends, a job at work on the
 * guest fails, and the entry is kept only if there is a job to tell about.
 */
#include "daemon/ferryd.h"

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "daemon/messages.h"
#include "protocol/qmp.h"
#include "qemu/qemu.h"

#include <errno.h>
#include <event2/event.h>
#include <string.h>
#include <sys/socket.h>

/* How long a VMM may take to introduce itself, and how many may be at it: they hold descriptors. */
#define INTRODUCTION_NS (10 * NS_PER_SEC)
#define STRANGERS_MAX   64u
/* Guests attached at once, and entries kept of guests that are gone. */
#define GUESTS_MAX 1024u
#define GONE_MAX   64u
#define TICK_MS    200

struct connection {
    struct ferryd *d;
    struct guest *guest;
    struct entry *entry; /* NULL: a stranger */
    struct event *event;
    uint64_t deadline_ns;       /* of a stranger */
    char name[GUEST_NAME_SIZE]; /* that guest-attach expects; empty: any */
    struct qmp_request *attach; /* a guest-attach to answer */
    TAILQ_ENTRY(connection) link;
};

/* ---- what a VMM tells ---- */

static void post_event(struct ferryd *d, const char *event, const char *name)
{
    qmp_event(d->qmp, event, json_pack("{s:s}", "guest", name));
}

static struct connection *find_connection(struct ferryd *d, const struct guest *g)
{
    struct connection *c;
    TAILQ_FOREACH(c, &d->connections, link)
    {
        if (c->guest == g) {
            break;
        }
    }
    return c;
}

static unsigned count_connections(struct ferryd *d)
{
    unsigned n = 0;
    struct connection *c;
    TAILQ_FOREACH(c, &d->connections, link)
    {
        n++;
    }
    return n;
}

static bool check_welcome(struct ferryd *d, const struct connection *c, const struct entry *e,
                          struct error **errp)
{
    const char *name = c->guest->name;
    if (c->name[0] && strcmp(c->name, name) != 0) {
        error_set(errp, "guest-name", "The VMM calls its guest '%s', not '%s'", name, c->name);
        return false;
    }
    if (e && e->guest) {
        error_set(errp, "guest-exists", "A guest named '%s' is attached already", name);
        return false;
    }
    if (e && entry_is_busy(e)) {
        error_set(errp, "migration-active", "A migration of guest '%s' is still ending", name);
        return false;
    }
    if (count_connections(d) - d->strangers >= GUESTS_MAX) {
        error_set(errp, "guest-too-many", "%u guests are attached already", GUESTS_MAX);
        return false;
    }
    return true;
}

static void settled(void *opaque, struct error *err)
{
    struct guest *g = opaque;
    if (err) {
        log_warning("guest %s: %s", g->name, err->text);
        error_free(err);
    }
    guest_unref(g);
}

/*
 * A VMM that had lost its connection comes back with a guest that it gave away in a job whose
 * outcome is known here: it is told.
 */
static void settle(struct entry *e)
{
    struct guest *g = e->guest;
    uint8_t uuid[GUEST_UUID_SIZE];
    if (!e->job || guest_get_state(g) != GUEST_GIVEN_AWAY || g->released) {
        return;
    }
    job_get_uuid(e->job, uuid);
    if (memcmp(uuid, g->job, sizeof(uuid)) != 0) {
        return;
    }
    int timeout_ms = (int)param_get(e->params, PARAM_GUEST_TIMEOUT);
    if (job_get_status(e->job) == JOB_COMPLETED) {
        g->ops->ask(g, GUEST_ASK_RELEASE, timeout_ms, settled, guest_ref(g));
        return;
    }
    log_info("guest %s: its migration failed: taken back", g->name);
    g->ops->ask(g, GUEST_ASK_TAKE_BACK, timeout_ms, settled, guest_ref(g));
    g->ops->ask(g, GUEST_ASK_RESUME, timeout_ms, settled, guest_ref(g));
}

static bool on_attached(void *opaque, struct guest *g, struct error **errp)
{
    struct ferryd *d = opaque;
    struct connection *c = find_connection(d, g);
    struct entry *e = entry_find(d, g->name);
    if (!check_welcome(d, c, e, errp)) {
        return false;
    }
    c->entry = e ? e : entry_new(d, g->name);
    entry_attach(d, c->entry, g);
    d->strangers--;
    struct log_fields fields = {.guest = g->name, .message_id = MESSAGE_ATTACHED};
    log_with(LOG_LEVEL_INFO, &fields,
             "guest %s: attached, VMM process %d, %u RAM blocks, %llu MiB, tracking %s", g->name,
             (int)g->pid, g->nblocks, (unsigned long long)g->ram >> 20, g->tracking);
    post_event(d, "GUEST_ATTACHED", g->name);
    if (c->attach) {
        qmp_return(c->attach, NULL);
        c->attach = NULL;
    }
    return true;
}

static void on_welcomed(void *opaque, struct guest *g)
{
    settle(find_connection(opaque, g)->entry);
}

static void on_state(void *opaque, struct guest *g, enum guest_state from)
{
    struct ferryd *d = opaque;
    enum guest_state to = guest_get_state(g);
    if (to == GUEST_RUNNING) {
        post_event(d, "RESUME", g->name);
    } else if (from == GUEST_RUNNING) {
        post_event(d, "STOP", g->name);
    }
}

static void on_shut_down(void *opaque, struct guest *g, bool by_guest, const char *reason)
{
    struct ferryd *d = opaque;
    log_info("guest %s: shut down (%s)", g->name, reason);
    qmp_event(d->qmp, "SHUTDOWN",
              json_pack("{s:b, s:s, s:s}", "guest", by_guest, "reason", reason, "name", g->name));
}

/* ---- connections ---- */

static void connection_free(struct connection *c)
{
    TAILQ_REMOVE(&c->d->connections, c, link);
    if (!c->entry) {
        c->d->strangers--;
    }
    event_free(c->event);
    guest_unref(c->guest);
    free(c);
}

/* The end of a connection; `err` says why and is taken over. */
static void connection_end(struct connection *c, struct error *err)
{
    struct ferryd *d = c->d;
    struct entry *e = c->entry;
    const char *name = c->guest->name[0] ? c->guest->name : "(unnamed)";
    struct log_fields fields = {.guest = name, .code = err->code, .message_id = MESSAGE_DETACHED};
    log_with(LOG_LEVEL_INFO, &fields, "guest %s: detached: %s", name, err->text);
    c->guest->ops->lost(c->guest);
    if (e) {
        /* One that guest-detach has parked has told so, unless it is still being left. */
        if (!e->parked || !c->guest->ops->comes_back) {
            qmp_event(d->qmp, "GUEST_DETACHED",
                      json_pack("{s:s, s:s}", "guest", e->name, "reason", err->text));
        }
        if (entry_is_busy(e)) {
            job_abort(e->job, error_copy(err));
        }
        entry_detach(d, e);
    }
    if (c->attach) {
        qmp_fail(c->attach, error_copy(err));
    }
    error_free(err);
    connection_free(c);
}

static void on_readable(evutil_socket_t fd, short events, void *arg)
{
    struct connection *c = arg;
    struct error *err = NULL;
    (void)fd;
    (void)events;
    if (!c->guest->ops->read(c->guest, &err)) {
        connection_end(c, err);
    }
}

/* Listens to a guest's VMM from now on; takes the guest's reference over. */
static void listen_to(struct ferryd *d, struct guest *g, int sock, const char *name,
                      struct qmp_request *attach)
{
    struct connection *c = calloc(1, sizeof(*c));
    if (!c) {
        abort();
    }
    c->d = d;
    c->guest = g;
    c->attach = attach;
    c->deadline_ns = clock_ns() + INTRODUCTION_NS;
    strcpy(c->name, name);
    c->event = event_new(loop_base(d->loop), sock, EV_READ | EV_PERSIST, on_readable, c);
    if (!c->event || event_add(c->event, NULL) < 0) {
        abort();
    }
    d->strangers++;
    TAILQ_INSERT_TAIL(&d->connections, c, link);
}

static struct guest_events events_for(struct ferryd *d)
{
    return (struct guest_events){.attached = on_attached,
                                 .welcomed = on_welcomed,
                                 .state_changed = on_state,
                                 .shut_down = on_shut_down,
                                 .opaque = d};
}

bool guests_adopt(struct ferryd *d, int sock, const char *name, struct qmp_request *attach,
                  struct error **errp)
{
    struct guest_events events = events_for(d);
    struct guest *g = agent_new(sock, &events);
    if (!g) {
        error_set(errp, "system-error", "No descriptors left for another guest");
        return false;
    }
    listen_to(d, g, sock, name, attach);
    return true;
}

bool guests_adopt_qemu(struct ferryd *d, int sock, const char *name, struct qmp_request *attach,
                       struct error **errp)
{
    struct guest_events events = events_for(d);
    struct guest *g = qemu_new(sock, name, &events, errp);
    if (!g) {
        return false;
    }
    listen_to(d, g, sock, name, attach);
    return true;
}

void guests_drop(struct ferryd *d, struct entry *e)
{
    struct error *err = NULL;
    error_set(&err, "guest-lost", "guest-detach");
    connection_end(find_connection(d, e->guest), err);
}

static void on_connect(evutil_socket_t fd, short events, void *arg)
{
    struct ferryd *d = arg;
    (void)events;
    int sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct error *err = NULL;
    if (sock >= 0 && d->strangers < STRANGERS_MAX) {
        if (!guests_adopt(d, sock, "", NULL, &err)) {
            log_error("%s", err->text);
            error_free(err);
        }
    } else if (sock >= 0) {
        close(sock); /* libferry tries again */
    } else if (errno == EMFILE || errno == ENFILE) {
        event_del(d->guests_event); /* the tick listens again */
        log_error("no descriptors left for VMMs that connect");
    }
}

static void on_tick(evutil_socket_t fd, short events, void *arg)
{
    struct ferryd *d = arg;
    struct connection *c, *next;
    uint64_t now = clock_ns();
    (void)fd;
    (void)events;
    for (c = TAILQ_FIRST(&d->connections); c; c = next) {
        next = TAILQ_NEXT(c, link);
        c->guest->ops->expire(c->guest);
        if (!c->entry && now > c->deadline_ns) {
            struct error *err = NULL;
            error_set(&err, "guest-timeout", "The VMM did not introduce its guest in time");
            connection_end(c, err);
        }
    }
    event_add(d->guests_event, NULL);
}

bool guests_init(struct ferryd *d, int fd, struct error **errp)
{
    struct timeval tick = {.tv_usec = TICK_MS * 1000L};
    struct event_base *base = loop_base(d->loop);
    d->guests_fd = fd;
    d->guests_event = event_new(base, fd, EV_READ | EV_PERSIST, on_connect, d);
    d->tick = event_new(base, -1, EV_PERSIST, on_tick, d);
    if (!d->guests_event || !d->tick || event_add(d->guests_event, NULL) < 0 ||
        event_add(d->tick, &tick) < 0) {
        error_set(errp, "system-error", "No events for the guests socket");
        return false;
    }
    return true;
}

void guests_free(struct ferryd *d)
{
    struct connection *c;
    struct entry *e;
    while ((c = TAILQ_FIRST(&d->connections))) {
        c->guest->ops->lost(c->guest);
        if (c->attach) {
            struct error *err = NULL;
            error_set(&err, "guest-lost", "ferryd ends");
            qmp_fail(c->attach, err);
        }
        connection_free(c);
    }
    while ((e = TAILQ_FIRST(&d->entries))) {
        entry_free(d, e);
    }
    if (d->guests_event) {
        event_free(d->guests_event);
    }
    if (d->tick) {
        event_free(d->tick);
    }
    fd_close(&d->guests_fd);
}
