/* SPDX-License-Identifier: BSD-3-Clause */
#include "qemu/guardian.h"

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fdpass.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* How long a command is refused before the next one has its turn. */
#define PATIENCE_NS (10 * NS_PER_SEC)
/* Between two attempts at one command. */
#define AGAIN_NS (5 * NS_PER_MS)

/* Some dozen capabilities are most of it; a message that goes as one. */
#define TESTAMENT_MAX 16384u

/* It begins with a byte that has QEMU forget what ferryd had half said (QEMU's QMP specification);
 * one that is empty holds nothing else. */
#define FORGET '\xff'
#define EMPTY  1u

#define ID     "ferry-guardian"
/* Of a command that is given once; it begins as the others'. */
#define ID_ONCE ID ": once"

/* ---- the helper: async-signal-safe calls only ---- */

struct heir {
    int monitor;
    char said[4096]; /* by QEMU: the line that it is at */
    size_t length;
};

/* For as long as it takes, or until QEMU ends: one that hangs may yet go on. */
static void await_ready(const struct heir *h, short events)
{
    struct pollfd fd = {.fd = h->monitor, .events = events};
    poll(&fd, 1, -1);
}

static bool tell(const struct heir *h, const char *command, size_t length)
{
    while (length) {
        ssize_t n = send(h->monitor, command, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            return false;
        }
        if (n < 0) {
            await_ready(h, POLLOUT);
        }
        command += n > 0 ? n : 0;
        length -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* Takes what has come; false: nothing more comes. */
static bool hear(struct heir *h)
{
    if (h->length == sizeof(h->said)) {
        h->length = 0; /* an event of that length: no answer to us */
    }
    await_ready(h, POLLIN);
    ssize_t n = recv(h->monitor, h->said + h->length, sizeof(h->said) - h->length, MSG_DONTWAIT);
    h->length += n > 0 ? (size_t)n : 0;
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* The length of the first whole line, or 0. */
static size_t line_length(const struct heir *h)
{
    const char *end = memchr(h->said, '\n', h->length);
    return end ? (size_t)(end - h->said) + 1 : 0;
}

static bool holds(const struct heir *h, size_t length, const char *word)
{
    return memmem(h->said, length, word, strlen(word));
}

/* The answer to query-migrate where QEMU's migration is not paused yet: see qemu_cancel_if_safe. */
static bool is_under_way(const struct heir *h, size_t length)
{
    return holds(h, length, "\"status\": \"setup\"") || holds(h, length, "\"status\": \"active\"");
}

/* QEMU forgets commands of a client that hangs up: each is waited for.  False: no answer. */
static bool await_answer(struct heir *h, bool *done)
{
    for (;;) {
        size_t length = line_length(h);
        bool answer = length && holds(h, length, ID);
        *done = answer && !holds(h, length, "\"error\"") && !is_under_way(h, length);
        memmove(h->said, h->said + length, h->length - length);
        h->length -= length;
        if (answer) {
            return true;
        }
        if (!length && !hear(h)) {
            return false;
        }
    }
}

/* False: QEMU has gone. */
static bool execute(struct heir *h, const char *command, size_t length)
{
    const struct timespec again = {.tv_nsec = AGAIN_NS};
    const uint64_t patience_ns =
        memmem(command, length, ID_ONCE, strlen(ID_ONCE)) ? 0 : PATIENCE_NS;
    uint64_t deadline_ns = 0;
    for (;;) {
        bool done;
        if (!tell(h, command, length) || !await_answer(h, &done)) {
            return false;
        }
        deadline_ns = deadline_ns ? deadline_ns : clock_ns() + patience_ns;
        if (done || clock_ns() >= deadline_ns) {
            return true;
        }
        nanosleep(&again, NULL);
    }
}

/* A command a line. */
static void execute_all(int monitor, const char *testament, size_t length)
{
    static struct heir h; /* too large for a stack; a helper is a process of its own */
    h.monitor = monitor;
    bool there = true;
    while (there && length) {
        const char *end = memchr(testament, '\n', length);
        size_t line = end ? (size_t)(end - testament) + 1 : length;
        there = execute(&h, testament, line);
        testament += line;
        length -= line;
    }
}

static void stand_guard(int sock, const void *plan)
{
    static char testament[TESTAMENT_MAX], next[TESTAMENT_MAX];
    size_t length = 0;
    char word = 0;
    int monitor = -1;
    (void)plan;
    if (fdpass_recv(sock, &word, sizeof(word), &monitor) <= 0 || monitor < 0) {
        return; /* nothing has been started yet */
    }
    ssize_t n;
    while ((n = recv(sock, next, sizeof(next), 0)) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0) {
            length = (size_t)n;
            memcpy(testament, next, length);
        }
    }
    if (length > EMPTY) {
        execute_all(monitor, testament, length);
    }
}

/* ---- ferryd ---- */

static bool set_failed(const char *what, int err, struct error **errp)
{
    error_set(errp, "system-error", "No guardian for the VMM: %s: %s", what, strerror(err));
    return false;
}

bool guardian_post(struct guardian *g, int monitor, struct error **errp)
{
    char word = 0;
    struct iovec iov = {.iov_base = &word, .iov_len = sizeof(word)};
    if (!helper_start(&g->helper, stand_guard, NULL, errp)) {
        return false;
    }
    atomic_store(&g->on, true);
    int err = fdpass_send(g->helper.sock, &iov, 1, monitor);
    return !err || set_failed("its socket", -err, errp);
}

/* The commands, a line each, with the ID by which their answers are known. */
static size_t write_testament(json_t *commands, char *text, size_t room)
{
    size_t length = EMPTY, i;
    json_t *command;
    text[0] = FORGET;
    json_array_foreach(commands, i, command)
    {
        bool once = json_is_true(json_object_get(command, "once"));
        json_object_del(command, "once");
        json_object_set_new(command, "id", json_string(once ? ID_ONCE : ID));
        size_t n = json_dumpb(command, text + length, room - length, JSON_COMPACT);
        if (n >= room - length) {
            return 0;
        }
        length += n;
        text[length++] = '\n';
    }
    return length;
}

bool guardian_entrust(struct guardian *g, json_t *commands, struct error **errp)
{
    char text[TESTAMENT_MAX];
    size_t length = write_testament(commands, text, sizeof(text));
    json_decref(commands);
    if (!length) {
        return set_failed("its testament", EMSGSIZE, errp);
    }
    ssize_t n = send(g->helper.sock, text, length, MSG_NOSIGNAL);
    return n == (ssize_t)length || set_failed("its testament", errno, errp);
}

void guardian_end(struct guardian *g)
{
    if (guardian_is_on(g)) {
        guardian_entrust(g, NULL, NULL);
        helper_end(&g->helper);
    }
    atomic_store(&g->on, false);
}

void guardian_leave(struct guardian *g)
{
    if (guardian_is_on(g)) {
        helper_leave(&g->helper);
    }
    atomic_store(&g->on, false);
}
