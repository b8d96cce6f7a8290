/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/agent_internal.h"

#include "common/cleanup.h"
#include "common/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

_Static_assert(GUEST_NAME_SIZE == WIRE_NAME_SIZE, "names have one length");
_Static_assert(GUEST_TEXT_SIZE == WIRE_TEXT_SIZE, "texts have one length");
_Static_assert(GUEST_BLOCKERS_MAX == WIRE_BLOCKERS_MAX, "blockers have one limit");
_Static_assert(GUEST_BLOCKS_MAX == WIRE_BLOCKS_MAX, "blocks have one limit");
_Static_assert((int)GUEST_SPENT == (int)WIRE_STATES, "those before it are the wire's");
_Static_assert(GUEST_DISKS_MAX == WIRE_DISKS_MAX, "disks have one limit");

/* News taken from a VMM between two calls of agent_expire, and messages read in one go. */
#define NEWS_MAX 200u
#define READ_MAX 64

/* ---- requests ---- */

static const char *const request_names[] = {
    [WIRE_LOG_START] = "to start dirty logging", [WIRE_LOG_SYNC] = "for the dirty log",
    [WIRE_LOG_CLEAR] = "to clear the dirty log", [WIRE_LOG_STOP] = "to stop dirty logging",
    [WIRE_STOP] = "to stop the guest",           [WIRE_RESUME] = "to resume the guest",
    [WIRE_SAVE] = "to save the device state",    [WIRE_LOAD] = "to load the device state",
    [WIRE_THROTTLE] = "to throttle the guest",   [WIRE_GIVE_AWAY] = "to give the guest away",
    [WIRE_TAKE_BACK] = "to take the guest back", [WIRE_RELEASE] = "to release the guest",
    [WIRE_START] = "to start the guest",         [WIRE_ANNOUNCE] = "to announce the guest",
};

static void set_lost(const struct agent *a, struct error **errp)
{
    error_set(errp, "guest-lost", "The VMM of guest '%s' went away", a->guest.name);
}

/* A call's outcome as an error; true when it went well. */
static bool check_reply(const struct agent *a, const struct agent_call *call, struct error **errp)
{
    if (!call->done) {
        set_lost(a, errp);
        return false;
    }
    if (call->reply.status < 0) {
        error_set(errp, "guest-refused", "Guest '%s': the VMM was asked %s: %s", a->guest.name,
                  request_names[call->type],
                  call->reply.text[0] ? call->reply.text : strerror(-call->reply.status));
        return false;
    }
    return true;
}

static void enqueue(struct agent *a, struct agent_call *call)
{
    LOCK_SCOPE(&a->lock);
    call->seq = ++a->last_seq;
    TAILQ_INSERT_TAIL(&a->calls, call, link);
}

static void dequeue(struct agent *a, struct agent_call *call)
{
    LOCK_SCOPE(&a->lock);
    TAILQ_REMOVE(&a->calls, call, link);
}

static bool is_lost(struct agent *a)
{
    LOCK_SCOPE(&a->lock);
    return a->lost;
}

/* Sends; a VMM that does not read makes it wait for room (w NULL: does not wait). */
static bool send_request(struct agent *a, struct agent_call *call, const void *body, int fd,
                         const struct wait *w, struct error **errp)
{
    if (is_lost(a)) {
        set_lost(a, errp);
        return false;
    }
    for (;;) {
        int err = wire_send(a->sock, call->type, call->seq, body, fd);
        if (!err) {
            call->sent = true;
            return true;
        }
        if (err != -EAGAIN) {
            set_lost(a, errp);
            return false;
        }
        if (!w) {
            error_set(errp, "guest-timeout", "The VMM of guest '%s' takes no requests",
                      a->guest.name);
            return false;
        }
        if (!wait_fd(a->sock, POLLOUT, w, errp)) {
            return false;
        }
    }
}

/* Sleeps until the main thread has seen the reply.  An older call's late wake-up changes nothing.
 */
static bool await_reply(struct agent *a, struct agent_call *call, const struct wait *w,
                        struct error **errp)
{
    bool forever = w->timeout_ms < 0;
    uint64_t deadline = forever ? 0 : clock_ns() + (uint64_t)w->timeout_ms * NS_PER_MS;
    for (;;) {
        uint64_t count;
        ssize_t ignored = read(a->reply_fd, &count, sizeof(count));
        (void)ignored;
        pthread_mutex_lock(&a->lock);
        bool done = call->done || a->lost;
        pthread_mutex_unlock(&a->lock);
        if (done) {
            return check_reply(a, call, errp);
        }
        uint64_t now = clock_ns();
        struct wait left = *w;
        if (!forever) {
            left.timeout_ms = now < deadline ? (int)((deadline - now) / NS_PER_MS) + 1 : 0;
        }
        if (!wait_fd(a->reply_fd, POLLIN, &left, errp)) {
            return false;
        }
    }
}

bool agent_call(struct agent *a, struct agent_call *call, const void *body, int fd,
                const struct wait *w, struct error **errp)
{
    char what[GUEST_NAME_SIZE + 64];
    struct error *err = NULL;
    struct wait named = *w;
    snprintf(what, sizeof(what), "the VMM of guest '%s', asked %s", a->guest.name,
             request_names[call->type]);
    named.what = what;
    enqueue(a, call);
    bool ok = send_request(a, call, body, fd, &named, &err) && await_reply(a, call, &named, &err);
    dequeue(a, call);
    if (err && strcmp(err->code, "timeout") == 0) {
        err->code = "guest-timeout"; /* the peer's silence and the VMM's are told apart */
    }
    if (err) {
        error_move(errp, err);
    }
    return ok;
}

/* ---- requests of the main thread ---- */

static void finish_async(struct agent *a, struct agent_call *call, struct error *err)
{
    dequeue(a, call);
    call->done_fn(call->opaque, err);
    free(call);
}

static void call_async(struct agent *a, uint32_t type, const void *body, int timeout_ms,
                       guest_done *done, void *opaque)
{
    struct agent_call *call = calloc(1, sizeof(*call));
    struct error *err = NULL;
    if (!call) {
        abort();
    }
    *call = (struct agent_call){.type = type,
                                .done_fn = done,
                                .opaque = opaque,
                                .deadline_ns = clock_ns() + (uint64_t)timeout_ms * NS_PER_MS};
    enqueue(a, call);
    if (!send_request(a, call, body, -1, NULL, &err)) {
        finish_async(a, call, err);
    }
}

void agent_ask(struct guest *g, enum guest_request request, int timeout_ms, guest_done *done,
               void *opaque)
{
    static const struct {
        uint32_t type;
        union wire_body body;
    } requests[] = {
        [GUEST_ASK_PAUSE] = {WIRE_STOP, {.stop = {.migration = 0}}},
        [GUEST_ASK_CONTINUE] = {WIRE_RESUME, {.resume = {.migration = 0}}},
        [GUEST_ASK_TAKE_BACK] = {.type = WIRE_TAKE_BACK},
        [GUEST_ASK_RESUME] = {WIRE_RESUME, {.resume = {.migration = 1}}},
        [GUEST_ASK_RELEASE] = {.type = WIRE_RELEASE},
        [GUEST_ASK_LEAVE] = {0}, /* nothing was set */
    };
    if (!requests[request].type) {
        done(opaque, NULL);
        return;
    }
    call_async(agent_of(g), requests[request].type, &requests[request].body, timeout_ms, done,
               opaque);
}

void agent_announce(struct guest *g, const struct guest_announce *how, int timeout_ms,
                    guest_done *done, void *opaque)
{
    struct wire_announce body = agent_wire_announce(how);
    call_async(agent_of(g), WIRE_ANNOUNCE, &body, timeout_ms, done, opaque);
}

/* The first asynchronous call, of all or of those past their deadline; NULL: none. */
static struct agent_call *find_async(struct agent *a, uint64_t now_ns, bool all)
{
    LOCK_SCOPE(&a->lock);
    struct agent_call *call;
    TAILQ_FOREACH(call, &a->calls, link)
    {
        if (call->done_fn && (all || call->deadline_ns <= now_ns)) {
            return call;
        }
    }
    return NULL;
}

void agent_expire(struct guest *g)
{
    struct agent *a = agent_of(g);
    struct agent_call *call;
    a->told = 0;
    while ((call = find_async(a, clock_ns(), false))) {
        struct error *err = NULL;
        error_set(&err, "guest-timeout", "The VMM of guest '%s' did not answer when asked %s",
                  g->name, request_names[call->type]);
        finish_async(a, call, err);
    }
}

void agent_lost(struct guest *g)
{
    struct agent *a = agent_of(g);
    struct agent_call *call;
    pthread_mutex_lock(&a->lock);
    a->lost = true;
    pthread_mutex_unlock(&a->lock);
    agent_wake(a);
    while ((call = find_async(a, 0, true))) {
        struct error *err = NULL;
        set_lost(a, &err);
        finish_async(a, call, err);
    }
}

/* ---- what comes in ---- */

void agent_wake(struct agent *a)
{
    uint64_t one = 1;
    ssize_t ignored = write(a->reply_fd, &one, sizeof(one));
    (void)ignored;
}

static void set_state(struct agent *a, uint32_t state)
{
    enum guest_state from = guest_get_state(&a->guest);
    if (state < WIRE_STATES && state != from) {
        atomic_store(&a->guest.state, (int)state);
        a->events.state_changed(a->events.opaque, &a->guest, from);
    }
}

void agent_make_printable(char text[WIRE_TEXT_SIZE])
{
    text[WIRE_TEXT_SIZE - 1] = '\0';
    for (char *c = text; *c; c++) {
        *c = (char)(*c >= ' ' && *c < 0x7f ? *c : '?');
    }
}

/* A reply nobody waits for any more (a deadline, a cancel) still tells the state. */
static bool on_reply(struct agent *a, const struct wire_message *msg, struct error **errp)
{
    struct agent_call *call;
    struct agent_call *async = NULL;
    (void)errp;
    set_state(a, msg->body.reply.state);
    pthread_mutex_lock(&a->lock);
    TAILQ_FOREACH(call, &a->calls, link)
    {
        if (call->seq == msg->head.seq) {
            call->reply = msg->body.reply;
            agent_make_printable(call->reply.text);
            call->done = true; /* from here on a job's call may vanish once the lock is dropped */
            async = call->done_fn ? call : NULL;
            break;
        }
    }
    pthread_mutex_unlock(&a->lock);
    if (async) {
        struct error *err = NULL;
        check_reply(a, async, &err);
        finish_async(a, async, err);
    } else {
        agent_wake(a);
    }
    return true;
}

/* News become events to every client, or keep the main thread: a VMM must not drown them. */
static bool count_news(struct agent *a, struct error **errp)
{
    if (++a->told > NEWS_MAX) {
        error_set(errp, "guest-protocol",
                  "The VMM of guest '%s' changes its state or its blockers too often",
                  a->guest.name);
        return false;
    }
    return true;
}

static bool on_state(struct agent *a, const struct wire_message *msg, struct error **errp)
{
    if (!count_news(a, errp)) {
        return false;
    }
    set_state(a, msg->body.state.state);
    return true;
}

static bool on_blocker(struct agent *a, const struct wire_message *msg, struct error **errp)
{
    return count_news(a, errp) && agent_take_blocker(a, &msg->body.blocker, errp);
}

static bool on_shutdown(struct agent *a, const struct wire_message *msg, struct error **errp)
{
    (void)msg;
    (void)errp;
    a->events.shut_down(a->events.opaque, &a->guest, true, "guest-shutdown");
    return true;
}

static bool dispatch(struct agent *a, const struct wire_message *msg, struct error **errp)
{
    static bool (*const handlers[])(struct agent *, const struct wire_message *,
                                    struct error **) = {
        [WIRE_REPLY] = on_reply,
        [WIRE_STATE] = on_state,
        [WIRE_SHUTDOWN] = on_shutdown,
        [WIRE_BLOCKER] = on_blocker,
    };
    uint32_t type = msg->head.type;
    if (type < sizeof(handlers) / sizeof(handlers[0]) && handlers[type]) {
        return handlers[type](a, msg, errp);
    }
    error_set(errp, "guest-protocol", "The VMM of guest '%s' sent message %u out of place",
              a->guest.name, type);
    return false;
}

bool agent_read(struct guest *g, struct error **errp)
{
    struct agent *a = agent_of(g);
    for (int i = 0; i < READ_MAX; i++) {
        struct wire_message msg;
        CLEANUP_CLOSE int fd = -1;
        int n = wire_recv(a->sock, &msg, &fd);
        if (n == -EAGAIN) {
            return true;
        }
        if (n == -EBADMSG) {
            error_set(errp, "guest-protocol", "The VMM sent a message that is none of libferry's");
            return false;
        }
        if (n <= 0) {
            set_lost(a, errp);
            return false;
        }
        bool ok = a->attached ? dispatch(a, &msg, errp) : agent_introduce(a, &msg, &fd, errp);
        if (!ok) {
            return false;
        }
    }
    return true;
}

/* ---- life ---- */

void agent_free(struct guest *g)
{
    struct agent *a = agent_of(g);
    guest_close_files(g);
    dirtymap_unmap(&a->map);
    close(a->reply_fd);
    close(a->sock);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

struct guest *agent_new(int sock, const struct guest_events *events)
{
    struct agent *a = calloc(1, sizeof(*a));
    struct ucred cred = {0};
    socklen_t length = sizeof(cred);
    if (!a) {
        abort();
    }
    int reply_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (reply_fd < 0) {
        free(a);
        close(sock);
        return NULL;
    }
    a->guest.ops = &agent_ops;
    a->guest.refs = 1;
    a->events = *events;
    a->sock = sock;
    a->reply_fd = reply_fd;
    pthread_mutex_init(&a->lock, NULL);
    TAILQ_INIT(&a->calls);
    fcntl(sock, F_SETFL, fcntl(sock, F_GETFL) | O_NONBLOCK);
    getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &length);
    a->guest.pid = cred.pid;
    return &a->guest;
}
