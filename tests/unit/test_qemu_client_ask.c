/* SPDX-License-Identifier: BSD-3-Clause */
/* Commands for which nobody waits: the main thread's, and those whose reply is of no interest. */
#include "tests/unit/monitor_stage.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_MS 30000

static const struct client_command stop = {.name = "stop"}, cont = {.name = "cont"};

START_TEST(out_of_order)
{
    struct monitor m;
    struct told first = {0}, second = {0};
    monitor_open(&m);
    client_ask(m.c, &stop, PATIENCE_MS, note_told, &first);
    client_ask(m.c, &cont, PATIENCE_MS, note_told, &second);
    long long id = monitor_hear(&m, "stop");
    ck_assert_int_eq(monitor_hear(&m, "cont"), id + 1);
    monitor_say(&m, "{\"error\": {\"desc\": \"stuck\"}, \"id\": %lld}", id + 1);
    ck_assert_uint_eq(first.calls, 0);
    told_expect_error(&second, "guest-refused", "asked for cont: stuck");
    monitor_say(&m, "{\"return\": {}, \"id\": %lld}", id);
    monitor_say(&m, "{\"return\": {}, \"id\": %lld}", id); /* twice */
    told_expect(&first, "{}");
    monitor_close(&m);
}
END_TEST

/* Beside a thread that waits. */
START_TEST(beside_a_call)
{
    struct monitor m;
    struct told told = {0};
    struct asking a;
    monitor_open(&m);
    asking_begin(&a, &m, "query-status", &patient);
    long long waiting = monitor_hear(&m, "query-status");
    client_ask(m.c, &stop, PATIENCE_MS, note_told, &told);
    monitor_say(&m, "{\"return\": [1], \"id\": %lld}", (long long)monitor_hear(&m, "stop"));
    told_expect(&told, "[1]");
    client_expire(m.c);
    monitor_say(&m, "{\"return\": [2], \"id\": %lld}", waiting);
    asking_expect(&a, "[2]");
    monitor_close(&m);
}
END_TEST

START_TEST(expires)
{
    struct monitor m;
    struct told now = {0}, later = {0};
    monitor_open(&m);
    client_ask(m.c, &stop, 0, note_told, &now);
    client_ask(m.c, &cont, PATIENCE_MS, note_told, &later);
    client_expire(m.c);
    told_expect_error(&now, "guest-timeout", "guest 'g' did not answer: stop");
    ck_assert_uint_eq(later.calls, 0);
    monitor_say(&m, "{\"return\": {}, \"id\": %lld}", (long long)monitor_hear(&m, "stop"));
    ck_assert_uint_eq(now.calls, 1);
    client_lost(m.c);
    told_expect_error(&later, "guest-lost", NULL);
    struct told after = {0};
    client_ask(m.c, &stop, PATIENCE_MS, note_told, &after);
    told_expect_error(&after, "guest-lost", NULL);
    monitor_close(&m);
}
END_TEST

/* The main thread does not wait for a monitor that does not read. */
START_TEST(full_socket)
{
    static struct told told[20000];
    struct monitor m;
    size_t n = 0;
    monitor_open(&m);
    do {
        ck_assert_uint_lt(n, sizeof(told) / sizeof(told[0]));
        client_ask(m.c, &stop, PATIENCE_MS, note_told, &told[n++]);
    } while (!told[n - 1].calls);
    told_expect_error(&told[n - 1], "guest-timeout", "takes no QMP commands");
    client_tell(m.c, &stop);
    client_lost(m.c);
    for (size_t i = 0; i < n - 1; i++) {
        told_expect_error(&told[i], "guest-lost", NULL);
    }
    monitor_close(&m);
}
END_TEST

static void count(void *opaque, json_t *reply)
{
    (void)reply;
    ++*(unsigned *)opaque;
}

START_TEST(told_only)
{
    struct monitor m;
    unsigned seen = 0;
    struct client_command command = {
        .name = "query-status", .arguments = json_object(), .seen = count, .opaque = &seen};
    monitor_open(&m);
    client_tell(m.c, &command);
    long long id = monitor_hear(&m, "query-status");
    client_expire(m.c); /* these have no deadline */
    monitor_say(&m, "{\"return\": {}, \"id\": %lld}", id);
    ck_assert_uint_eq(seen, 1);
    monitor_say(&m, "{\"return\": {}, \"id\": %lld}", id);
    ck_assert_uint_eq(seen, 1);
    command.arguments = NULL;
    client_tell(m.c, &command);
    monitor_say(&m, "{\"error\": {}, \"id\": %lld}", (long long)monitor_hear(&m, "query-status"));
    client_tell(m.c, &command);
    client_lost(m.c);
    client_tell(m.c, &command);
    ck_assert_uint_eq(seen, 1);
    monitor_close(&m);
}
END_TEST

static void *tell_often(void *opaque)
{
    struct monitor *m = opaque;
    for (int i = 0; i < 50; i++) {
        client_tell(m->c, &stop);
    }
    return NULL;
}

/* The connection ends while another thread is sending: each command ends once. */
START_TEST(lost_meanwhile)
{
    for (int i = 0; i < 100; i++) {
        struct monitor m;
        pthread_t thread;
        monitor_open(&m);
        pthread_create(&thread, NULL, tell_often, &m);
        shutdown(m.far, SHUT_RDWR);
        client_lost(m.c);
        pthread_join(thread, NULL);
        monitor_close(&m);
    }
}
END_TEST

/* A thread that ends the connection makes the main thread look. */
START_TEST(hung_up)
{
    struct monitor m;
    struct error *err = NULL;
    char byte;
    monitor_open(&m);
    client_hang_up(m.c);
    expect_ok(wait_fd(m.far, POLLIN, &patient, &err), err);
    ck_assert_int_eq(recv(m.far, &byte, 1, 0), 0);
    ck_assert(!client_read(m.c, &err));
    expect_error(err, "guest-lost", NULL);
    monitor_close(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qemu/client/ask");
    unit_add(suite, "qemu/client/ask/out-of-order", out_of_order);
    unit_add(suite, "qemu/client/ask/beside-a-call", beside_a_call);
    unit_add(suite, "qemu/client/ask/expires", expires);
    unit_add(suite, "qemu/client/ask/full-socket", full_socket);
    unit_add(suite, "qemu/client/ask/told-only", told_only);
    unit_add(suite, "qemu/client/ask/lost-meanwhile", lost_meanwhile);
    unit_add(suite, "qemu/client/ask/hung-up", hung_up);
    return unit_run(suite);
}
