/* SPDX-License-Identifier: BSD-3-Clause */
#include "qemu/client.h"

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fdpass.h"
#include "protocol/framing.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define WHO_SIZE 96

/* Seconds that an event may take to be read. */
#define EVENT_AGE_MAX 5

/* Bytes read in one go, and goes before others get their turn. */
#define READ_SIZE 65536u
#define READS_MAX 16

/* QEMU's longest answers, of some hundred disks or devices, are a few MiB.  More is read, parsed
 * and kept by the main thread for nobody's sake. */
#define ANSWER_MAX ((size_t)8 << 20)

/* An unfinished message's room that is kept for the next one. */
#define ROOM_KEPT ((size_t)1 << 20)

/*
 * A message that is shorter goes to a unix socket whole or not at all: the kernel takes at least
 * this much in one piece (half of the smallest send buffer).
 */
#define MESSAGE_MAX 2048u

/* One command under way.  That of a waiting thread lives on its stack, others on the heap. */
struct call {
    const char *name;
    json_int_t id;
    bool waits; /* a thread sleeps until it is done */
    bool done;
    json_t *reply;
    struct error *err;
    void (*seen)(void *opaque, json_t *reply);
    void *seen_opaque;
    client_done *done_fn; /* of client_ask; NULL: nobody is told */
    void *done_opaque;
    uint64_t deadline_ns; /* of client_ask's */
    TAILQ_ENTRY(call) link;
};

struct client {
    int sock, wake_fd;
    char who[WHO_SIZE];
    client_event *event;
    void *opaque;

    pthread_mutex_t lock; /* what follows, and what is sent */
    TAILQ_HEAD(calls, call) calls;
    json_int_t last_id;
    unsigned version; /* 0: no greeting yet */
    bool lost;

    /* The one other thread's. */
    struct {
        int fd; /* -1: none */
        client_take *take;
        void *opaque;
    } attended;

    /* The main thread's. */
    struct framing framing;
    char *text; /* an unfinished message */
    size_t length, room;
    uint64_t event_ns;
};

/* ---- calls ---- */

static void set_lost(const struct client *c, struct error **errp)
{
    error_set(errp, "guest-lost", "The VMM of %s closed its QMP connection", c->who);
}

bool client_is_lost(struct client *c)
{
    LOCK_SCOPE(&c->lock);
    return c->lost;
}

static uint64_t deadline_of(const struct wait *w)
{
    return w->timeout_ms < 0 ? 0 : clock_ns() + (uint64_t)w->timeout_ms * NS_PER_MS;
}

void client_attend(struct client *c, int fd, client_take *take, void *opaque)
{
    c->attended.fd = fd;
    c->attended.take = take;
    c->attended.opaque = opaque;
}

/* As client_sleep, or until one of `events` of the socket where there are some.  Negative
 * descriptors are passed over (poll(2)). */
static int sleep_or(struct client *c, short events, uint64_t deadline, const struct wait *w,
                    struct error **errp)
{
    struct pollfd fds[] = {{.fd = c->wake_fd, .events = POLLIN},
                           {.fd = c->attended.fd, .events = POLLIN},
                           {.fd = events ? c->sock : -1, .events = events}};
    int n = wait_any_until(fds, 3, deadline, w, errp);
    return n > 0 && fds[1].revents && !c->attended.take(c->attended.opaque, errp) ? -1 : n;
}

int client_sleep(struct client *c, uint64_t deadline_ns, const struct wait *w, struct error **errp)
{
    return sleep_or(c, 0, deadline_ns, w, errp);
}

/* `w` says what was asked. */
static bool wait_ready(struct client *c, short events, uint64_t deadline, const struct wait *w,
                       struct error **errp)
{
    int n = sleep_or(c, events, deadline, w, errp);
    if (n == 0) {
        error_set(errp, "guest-timeout", "The VMM of %s, asked for %s, did not answer within %d ms",
                  c->who, w->what, w->timeout_ms);
    }
    return n > 0;
}

/* Its ID, by which the answer is known. */
static json_int_t number(struct client *c, struct call *call)
{
    LOCK_SCOPE(&c->lock);
    return call->id = ++c->last_id;
}

static void enqueue(struct client *c, struct call *call)
{
    LOCK_SCOPE(&c->lock);
    TAILQ_INSERT_TAIL(&c->calls, call, link);
}

static struct call *find(struct client *c, json_int_t id)
{
    struct call *call;
    TAILQ_FOREACH(call, &c->calls, link)
    {
        if (call->id == id) {
            break;
        }
    }
    return call;
}

/* Takes a call out; what it may have got stays the caller's. */
static void dequeue(struct client *c, struct call *call)
{
    LOCK_SCOPE(&c->lock);
    TAILQ_REMOVE(&c->calls, call, link);
}

static char *encode(const struct call *call, json_t *arguments)
{
    json_t *message = json_pack("{s:s, s:I}", "execute", call->name, "id", call->id);
    if (arguments) {
        json_object_set_new(message, "arguments", arguments);
    }
    char *text = json_dumps(message, JSON_COMPACT);
    json_decref(message);
    if (!text) {
        abort();
    }
    return text;
}

/* 0, or -errno: -EAGAIN when the monitor does not read.  Locked: pieces of two messages don't mix.
 */
static int send_text(struct client *c, const char *text, int fd)
{
    LOCK_SCOPE(&c->lock);
    size_t length = strlen(text);
    for (size_t at = 0; at < length; at += MESSAGE_MAX) {
        size_t left = length - at;
        struct iovec iov = {.iov_base = (char *)text + at,
                            .iov_len = left < MESSAGE_MAX ? left : MESSAGE_MAX};
        int err = fdpass_send(c->sock, &iov, 1, at ? -1 : fd);
        if (err && at) { /* half a message can't be taken back */
            shutdown(c->sock, SHUT_RDWR);
            return -EPIPE;
        }
        if (err) {
            return err;
        }
    }
    return 0;
}

/* Sends what is encoded as `text`; a monitor that does not read makes it wait (w NULL: fail). */
static bool send_call(struct client *c, const char *text, int fd, const struct wait *w,
                      struct error **errp)
{
    uint64_t deadline = w ? deadline_of(w) : 0;
    for (;;) {
        int err = client_is_lost(c) ? -EPIPE : send_text(c, text, fd);
        if (!err) {
            return true;
        }
        if (err != -EAGAIN) {
            set_lost(c, errp);
            return false;
        }
        if (!w) {
            error_set(errp, "guest-timeout", "The VMM of %s takes no QMP commands", c->who);
            return false;
        }
        if (!wait_ready(c, POLLOUT, deadline, w, errp)) {
            return false;
        }
        client_woken(c); /* by a loss, or for what is looked at anew behind this */
    }
}

/* ---- a thread that waits ---- */

int client_socket(const struct client *c)
{
    return c->sock;
}

void client_woken(struct client *c)
{
    uint64_t count;
    ssize_t ignored = read(c->wake_fd, &count, sizeof(count));
    (void)ignored;
}

void client_wake(struct client *c)
{
    uint64_t one = 1;
    ssize_t ignored = write(c->wake_fd, &one, sizeof(one));
    (void)ignored;
}

/* Sleeps until ready(c, arg) holds, which is looked at with the lock held. */
static bool await(struct client *c, bool (*ready)(const struct client *c, const void *arg),
                  const void *arg, const struct wait *w, struct error **errp)
{
    uint64_t deadline = deadline_of(w);
    for (;;) {
        client_woken(c);
        pthread_mutex_lock(&c->lock);
        bool over = c->lost || ready(c, arg);
        pthread_mutex_unlock(&c->lock);
        if (over) {
            return true;
        }
        if (!wait_ready(c, 0, deadline, w, errp)) {
            return false;
        }
    }
}

static bool is_done(const struct client *c, const void *arg)
{
    const struct call *call = arg;
    (void)c;
    return call->done;
}

static bool is_greeted(const struct client *c, const void *arg)
{
    (void)arg;
    return c->version != 0;
}

unsigned client_greet(struct client *c, const struct wait *w, struct error **errp)
{
    struct wait named = *w;
    named.what = "the greeting";
    if (!await(c, is_greeted, NULL, &named, errp)) {
        return 0;
    }
    if (client_is_lost(c)) {
        set_lost(c, errp);
        return 0;
    }
    LOCK_SCOPE(&c->lock);
    return c->version;
}

static json_t *call_with_fd(struct client *c, const struct client_command *command, int fd,
                            const struct wait *w, struct error **errp)
{
    struct call call = {.name = command->name,
                        .waits = true,
                        .seen = command->seen,
                        .seen_opaque = command->opaque};
    struct wait named = *w;
    named.what = command->name;
    struct error *err = NULL;
    number(c, &call);
    CLEANUP_FREE char *text = encode(&call, command->arguments);
    enqueue(c, &call);
    bool over = send_call(c, text, fd, &named, &err) && await(c, is_done, &call, &named, &err);
    dequeue(c, &call);
    if (over && !call.done) {
        set_lost(c, &err);
    }
    if (call.done) { /* also at the last moment: what was done has been done */
        error_free(err);
        err = call.err;
    }
    if (err) {
        error_move(errp, err);
    }
    return call.reply;
}

json_t *client_call(struct client *c, const struct client_command *command, const struct wait *w,
                    struct error **errp)
{
    return call_with_fd(c, command, -1, w, errp);
}

bool client_send_fd(struct client *c, const char *name, int fd, const struct wait *w,
                    struct error **errp)
{
    struct client_command command = {.name = "getfd",
                                     .arguments = json_pack("{s:s}", "fdname", name)};
    json_t *reply = call_with_fd(c, &command, fd, w, errp);
    json_decref(reply);
    return reply;
}

/* ---- nobody waits ---- */

static void finish(struct call *call, struct error *err)
{
    if (call->done_fn) {
        call->done_fn(call->done_opaque, call->reply, err);
    } else {
        error_free(err);
    }
    json_decref(call->reply);
    free(call);
}

static struct call *new_call(const struct client_command *command)
{
    struct call *call = calloc(1, sizeof(*call));
    if (!call) {
        abort();
    }
    call->name = command->name;
    call->seen = command->seen;
    call->seen_opaque = command->opaque;
    call->deadline_ns = UINT64_MAX;
    return call;
}

/* Takes out the one of that ID, unless somebody else has. */
static struct call *take_call(struct client *c, json_int_t id)
{
    LOCK_SCOPE(&c->lock);
    struct call *call = find(c, id);
    if (call) {
        TAILQ_REMOVE(&c->calls, call, link);
    }
    return call;
}

/* Once it is in the list it is the main thread's, which may end it at any time. */
static void send_detached(struct client *c, struct call *call, json_t *arguments)
{
    struct error *err = NULL;
    json_int_t id = number(c, call);
    CLEANUP_FREE char *text = encode(call, arguments);
    enqueue(c, call);
    if (!send_call(c, text, -1, NULL, &err)) {
        struct call *unsent = take_call(c, id);
        if (unsent) {
            finish(unsent, err);
        } else {
            error_free(err);
        }
    }
}

void client_ask(struct client *c, const struct client_command *command, int timeout_ms,
                client_done *done, void *opaque)
{
    struct call *call = new_call(command);
    call->done_fn = done;
    call->done_opaque = opaque;
    call->deadline_ns = clock_ns() + (uint64_t)timeout_ms * NS_PER_MS;
    send_detached(c, call, command->arguments);
}

void client_tell(struct client *c, const struct client_command *command)
{
    send_detached(c, new_call(command), command->arguments);
}

void client_hang_up(struct client *c)
{
    shutdown(c->sock, SHUT_RDWR);
}

/* Takes out the first call for which nobody waits, of all or of those past their deadline. */
static struct call *take_detached(struct client *c, uint64_t now_ns, bool all)
{
    LOCK_SCOPE(&c->lock);
    struct call *call;
    TAILQ_FOREACH(call, &c->calls, link)
    {
        if (!call->waits && (all || call->deadline_ns <= now_ns)) {
            TAILQ_REMOVE(&c->calls, call, link);
            break;
        }
    }
    return call;
}

void client_expire(struct client *c)
{
    struct call *call;
    while ((call = take_detached(c, clock_ns(), false))) {
        struct error *err = NULL;
        error_set(&err, "guest-timeout", "The VMM of %s did not answer: %s", c->who, call->name);
        finish(call, err);
    }
}

void client_lost(struct client *c)
{
    struct call *call;
    pthread_mutex_lock(&c->lock);
    c->lost = true;
    pthread_mutex_unlock(&c->lock);
    client_wake(c);
    while ((call = take_detached(c, 0, true))) {
        struct error *err = NULL;
        set_lost(c, &err);
        finish(call, err);
    }
}

/* ---- what comes in ---- */

const char *client_words(const json_t *value, char words[CLIENT_WORDS])
{
    const char *text = json_string_value(value);
    snprintf(words, CLIENT_WORDS, "%s", text ? text : "(no words)");
    for (char *c = words; *c; c++) {
        if (*c < ' ' || *c >= 0x7f) {
            *c = '?';
        }
    }
    return words;
}

static void set_refused(const struct client *c, const char *name, const json_t *error,
                        struct error **errp)
{
    char words[CLIENT_WORDS];
    error_set(errp, "guest-refused", "The VMM of %s, asked for %s: %s", c->who, name,
              client_words(json_object_get(error, "desc"), words));
}

/* Copies what it calls: a thread that waits may give its call up meanwhile. */
static void show_reply(struct client *c, json_int_t id, json_t *reply)
{
    pthread_mutex_lock(&c->lock);
    struct call *call = find(c, id);
    void (*seen)(void *, json_t *) = call ? call->seen : NULL;
    void *opaque = call ? call->seen_opaque : NULL;
    pthread_mutex_unlock(&c->lock);
    if (seen) {
        seen(opaque, reply);
    }
}

/*
 * Fills in a call's outcome; one for which nobody waits is taken out and returned.  The reply
 * leaves the message: from here on it is the caller's thread's alone.
 */
static struct call *settle(struct client *c, json_int_t id, json_t *message)
{
    LOCK_SCOPE(&c->lock);
    struct call *call = find(c, id);
    if (!call) {
        return NULL;
    }
    call->reply = json_incref(json_object_get(message, "return"));
    json_object_del(message, "return");
    if (!call->reply) {
        set_refused(c, call->name, json_object_get(message, "error"), &call->err);
    }
    call->done = true;
    if (call->waits) {
        return NULL;
    }
    TAILQ_REMOVE(&c->calls, call, link);
    return call;
}

/* Also where numbers became inexact: no ID is that large. */
static json_int_t id_of(const json_t *message)
{
    double id = json_number_value(json_object_get(message, "id"));
    return id >= 1 && id <= (double)(1LL << 53) ? (json_int_t)id : 0;
}

/* One for which nobody waits any more (a deadline, a cancel) is dropped. */
static void on_reply(struct client *c, json_t *message)
{
    json_int_t id = id_of(message);
    json_t *reply = json_object_get(message, "return");
    if (reply) {
        show_reply(c, id, reply);
    }
    struct call *detached = settle(c, id, message);
    if (detached) {
        finish(detached, detached->err);
    }
    client_wake(c);
}

static void on_greeting(struct client *c, const json_t *greeting)
{
    int major = 0, minor = 0;
    json_t *qmp = json_object_get(greeting, "QMP");
    if (json_unpack(qmp, "{s:{s:{s:i, s:i}}}", "version", "qemu", "major", &major, "minor",
                    &minor) < 0 ||
        major < 0 || major > 999 || minor < 0 || minor > 999) {
        major = minor = 0;
    }
    LOCK_SCOPE(&c->lock);
    c->version = CLIENT_VERSION(major, minor) ? CLIENT_VERSION(major, minor) : 1;
}

/*
 * Timestamps are CLOCK_REALTIME's, in microseconds.  One from the future, or from long ago, is of a
 * clock that was set, and counts as now.
 */
static uint64_t time_of(const json_t *message)
{
    json_int_t seconds = 0, microseconds = 0;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    json_unpack(json_object_get(message, "timestamp"), "{s:I, s:I}", "seconds", &seconds,
                "microseconds", &microseconds);
    double age = (double)now.tv_sec - (double)seconds + (double)now.tv_nsec / 1e9 -
                 (double)microseconds / 1e6;
    uint64_t ns = age > 0 && age < EVENT_AGE_MAX ? (uint64_t)(age * 1e9) : 0;
    return clock_ns() - ns;
}

uint64_t client_event_ns(const struct client *c)
{
    return c->event_ns;
}

static void dispatch(struct client *c, json_t *message)
{
    const char *event = json_string_value(json_object_get(message, "event"));
    if (event) {
        c->event_ns = time_of(message);
        c->event(c->opaque, event, json_object_get(message, "data"));
    } else if (json_object_get(message, "QMP")) {
        on_greeting(c, message);
        client_wake(c);
    } else {
        on_reply(c, message);
    }
}

/*
 * QEMU sends numbers of 64 bits without a sign, and some are of the guest's choosing (a panic's
 * arguments).  They become inexact, as all numbers in their message.
 */
static json_t *parse(const char *text, size_t length, json_error_t *why)
{
    json_t *message = json_loadb(text, length, JSON_REJECT_DUPLICATES, why);
    if (!message && json_error_code(why) == json_error_numeric_overflow) {
        message = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, why);
    }
    return message;
}

static bool on_message(struct client *c, struct error **errp)
{
    json_error_t why;
    json_t *message = parse(c->text, c->length, &why);
    c->length = 0;
    if (c->room > ROOM_KEPT) {
        free(c->text);
        c->text = NULL;
        c->room = 0;
    }
    if (!json_is_object(message)) {
        error_set(errp, "guest-protocol", "The VMM of %s does not speak QMP: %s", c->who,
                  message ? "this is no object" : why.text);
        json_decref(message);
        return false;
    }
    dispatch(c, message);
    json_decref(message);
    return true;
}

static void keep(struct client *c, const char *bytes, size_t length)
{
    if (length > c->room - c->length) {
        c->room = c->length + length + READ_SIZE;
        c->text = realloc(c->text, c->room);
        if (!c->text) {
            abort();
        }
    }
    memcpy(c->text + c->length, bytes, length);
    c->length += length;
}

static void set_unreadable(const struct client *c, enum framing_result result, struct error **errp)
{
    if (result == FRAMING_TOO_LARGE) {
        error_set(errp, "guest-protocol", "The VMM of %s says more at once than %zu bytes", c->who,
                  ANSWER_MAX);
    } else {
        error_set(errp, "guest-protocol", "The VMM of %s does not speak QMP", c->who);
    }
}

static bool take_bytes(struct client *c, const char *bytes, size_t length, struct error **errp)
{
    while (length) {
        size_t used;
        enum framing_result result = framing_scan(&c->framing, bytes, length, &used);
        if (result == FRAMING_PARTIAL || result == FRAMING_COMPLETE) {
            keep(c, bytes, used);
        } else if (result != FRAMING_SKIPPED) {
            set_unreadable(c, result, errp);
            return false;
        }
        if (result == FRAMING_COMPLETE && !on_message(c, errp)) {
            return false;
        }
        bytes += used;
        length -= used;
    }
    return true;
}

bool client_read(struct client *c, struct error **errp)
{
    char bytes[READ_SIZE];
    for (int i = 0; i < READS_MAX; i++) {
        ssize_t n = recv(c->sock, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return true;
        }
        if (n <= 0) {
            set_lost(c, errp);
            return false;
        }
        if (!take_bytes(c, bytes, (size_t)n, errp)) {
            return false;
        }
    }
    return true;
}

/* ---- life ---- */

struct client *client_new(int sock, const char *who, client_event *event, void *opaque)
{
    struct client *c = calloc(1, sizeof(*c));
    if (!c) {
        abort();
    }
    c->sock = sock;
    c->attended.fd = -1;
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake_fd < 0) {
        close(sock);
        free(c);
        return NULL;
    }
    snprintf(c->who, sizeof(c->who), "%s", who);
    c->event = event;
    c->opaque = opaque;
    c->framing.limit = ANSWER_MAX;
    pthread_mutex_init(&c->lock, NULL);
    TAILQ_INIT(&c->calls);
    return c;
}

void client_free(struct client *c)
{
    close(c->sock);
    close(c->wake_fd);
    pthread_mutex_destroy(&c->lock);
    free(c->text);
    free(c);
}
