/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/monitor_stage.h"

#include "common/fdpass.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note_event(void *opaque, const char *name, const json_t *data)
{
    struct monitor *m = opaque;
    size_t at = strlen(m->events);
    char *text = data ? json_dumps(data, JSON_COMPACT | JSON_ENCODE_ANY) : strdup("-");
    snprintf(m->events + at, sizeof(m->events) - at, "%s %s\n", name, text);
    free(text);
}

void monitor_open(struct monitor *m)
{
    int ends[2];
    *m = (struct monitor){.fd = -1};
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    m->far = ends[1];
    m->c = client_new(ends[0], "guest 'g'", note_event, m);
    ck_assert_ptr_nonnull(m->c);
}

void monitor_close(struct monitor *m)
{
    if (m->far >= 0) {
        close(m->far);
    }
    client_free(m->c);
}

/* ---- the monitor says ---- */

void monitor_send(struct monitor *m, const char *bytes, size_t length)
{
    while (length) {
        ssize_t n = send(m->far, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) { /* the socket is full */
            monitor_read(m);
            continue;
        }
        bytes += n;
        length -= (size_t)n;
    }
}

void monitor_read(struct monitor *m)
{
    struct error *err = NULL;
    expect_ok(client_read(m->c, &err), err);
}

void monitor_say(struct monitor *m, const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    ck_assert_int_ge(length, 0);
    monitor_send(m, text, (size_t)length);
    monitor_read(m);
    free(text);
}

void monitor_greet(struct monitor *m)
{
    monitor_say(m,
                "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "
                "\"package\": \"Debian\"}, \"capabilities\": [\"oob\"]}}\r\n");
}

void monitor_offend(struct monitor *m, const char *bytes, size_t length, const char *part)
{
    struct error *err = NULL;
    while (length && !err) {
        ssize_t n = send(m->far, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        bytes += n > 0 ? n : 0;
        length -= n > 0 ? (size_t)n : 0;
        ck_assert(client_read(m->c, &err) == !err);
    }
    expect_error(err, "guest-protocol", part);
}

/* ---- the monitor hears ---- */

/* More of what the client has said. */
static void receive(struct monitor *m)
{
    struct error *err = NULL;
    int fd;
    expect_ok(wait_fd(m->far, POLLIN, &patient, &err), err);
    ssize_t n = fdpass_recv(m->far, m->heard + m->length, sizeof(m->heard) - m->length, &fd);
    ck_assert_int_gt(n, 0);
    m->length += (size_t)n;
    m->fd = fd >= 0 ? fd : m->fd;
}

/* The first command in what was heard; NULL: it goes on. */
static json_t *take_command(struct monitor *m)
{
    json_error_t why;
    json_t *command = json_loadb(m->heard, m->length, JSON_DISABLE_EOF_CHECK, &why);
    if (command) {
        m->length -= (size_t)why.position;
        memmove(m->heard, m->heard + why.position, m->length);
    }
    return command;
}

static json_t *hear(struct monitor *m)
{
    json_t *command;
    while (!(command = take_command(m))) {
        receive(m);
    }
    return command;
}

char *monitor_hear_text(struct monitor *m)
{
    json_t *command = hear(m);
    char *text = json_dumps(command, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(command);
    return text;
}

json_int_t monitor_hear(struct monitor *m, const char *name)
{
    json_t *command = hear(m);
    ck_assert_str_eq(json_string_value(json_object_get(command, "execute")), name);
    json_int_t id = json_integer_value(json_object_get(command, "id"));
    json_decref(command);
    return id;
}

/* ---- calls ---- */

static void *run(void *arg)
{
    struct asking *a = arg;
    if (a->greet) {
        a->version = client_greet(a->m->c, &a->w, &a->err);
    } else if (a->fd >= 0) {
        a->reply = client_send_fd(a->m->c, "name", a->fd, &a->w, &a->err) ? json_true() : NULL;
    } else {
        a->reply = client_call(a->m->c, &a->command, &a->w, &a->err);
    }
    return NULL;
}

void asking_start(struct asking *a)
{
    ck_assert_int_eq(pthread_create(&a->thread, NULL, run, a), 0);
}

void asking_begin(struct asking *a, struct monitor *m, const char *name, const struct wait *w)
{
    *a = (struct asking){.m = m, .command = {.name = name}, .w = *w, .fd = -1};
    asking_start(a);
}

void asking_greet(struct asking *a, struct monitor *m, const struct wait *w)
{
    *a = (struct asking){.m = m, .w = *w, .fd = -1, .greet = true};
    asking_start(a);
}

void asking_send_fd(struct asking *a, struct monitor *m, int fd)
{
    *a = (struct asking){.m = m, .w = patient, .fd = fd};
    asking_start(a);
}

static void expect_json(json_t *value, const char *text)
{
    char *got = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    ck_assert_pstr_eq(got, text);
    free(got);
}

void asking_expect(struct asking *a, const char *reply)
{
    pthread_join(a->thread, NULL);
    expect_ok(!a->err, a->err);
    expect_json(a->reply, reply);
    json_decref(a->reply);
}

void asking_expect_error(struct asking *a, const char *code, const char *part)
{
    pthread_join(a->thread, NULL);
    ck_assert_ptr_null(a->reply);
    ck_assert_uint_eq(a->version, 0);
    expect_error(a->err, code, part);
}

void note_told(void *opaque, json_t *reply, struct error *err)
{
    struct told *t = opaque;
    t->calls++;
    t->reply = reply ? json_dumps(reply, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    t->err = err;
}

void told_expect(struct told *t, const char *reply)
{
    ck_assert_uint_eq(t->calls, 1);
    ck_assert_ptr_null(t->err);
    ck_assert_pstr_eq(t->reply, reply);
    free(t->reply);
}

void told_expect_error(struct told *t, const char *code, const char *part)
{
    ck_assert_uint_eq(t->calls, 1);
    ck_assert_ptr_null(t->reply);
    expect_error(t->err, code, part);
}
