/* SPDX-License-Identifier: BSD-3-Clause */
/* Commands of a thread that waits for the reply. */
#include "tests/unit/monitor_stage.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void reply(struct monitor *m, json_int_t id, const char *text)
{
    monitor_say(m, "{\"return\": %s, \"id\": %lld}\r\n", text, (long long)id);
}

START_TEST(replied)
{
    struct monitor m;
    struct asking a;
    monitor_open(&m);
    asking_begin(&a, &m, "query-status", &patient);
    json_int_t id = monitor_hear(&m, "query-status");
    monitor_say(&m, "{\"event\": \"STOP\"}");
    reply(&m, id + 1, "\"for nobody\"");
    monitor_say(&m, "{\"error\": {\"desc\": \"for nobody\"}, \"id\": %lld}", (long long)id + 1);
    monitor_say(&m, "{\"return\": \"for nobody\"}");
    reply(&m, id, "{\"running\": true}");
    asking_expect(&a, "{\"running\":true}");
    ck_assert_str_eq(m.events, "STOP -\n");
    asking_begin(&a, &m, "query-status", &patient);
    ck_assert_int_gt(monitor_hear(&m, "query-status"), id);
    reply(&m, id, "\"late\""); /* to the call before */
    reply(&m, id + 1, "null");
    asking_expect(&a, "null");
    monitor_close(&m);
}
END_TEST

START_TEST(arguments)
{
    struct monitor m;
    struct error *err = NULL;
    const struct wait now = {.cancel_fd = -1, .timeout_ms = 0, .what = "QEMU"};
    struct client_command command = {.name = "migrate",
                                     .arguments = json_pack("{s:s}", "uri", "fd:\"x\" \u00e4")};
    monitor_open(&m);
    ck_assert_ptr_null(client_call(m.c, &command, &now, &err));
    expect_error(err, "guest-timeout", "guest 'g', asked for migrate, did not answer within 0 ms");
    char *heard = monitor_hear_text(&m);
    ck_assert_str_eq(
        heard,
        "{\"arguments\":{\"uri\":\"fd:\\\"x\\\" \u00e4\"},\"execute\":\"migrate\",\"id\":1}");
    free(heard);
    monitor_close(&m);
}
END_TEST

START_TEST(refused)
{
    static const struct {
        const char *error, *part;
    } rows[] = {
        {"{\"class\": \"GenericError\", \"desc\": \"No such device\"}",
         "The VMM of guest 'g', asked for cont: No such device"},
        {"{\"desc\": \"two\\nlines\\u001b[31m\"}", "two?lines?[31m"},
        {"{\"desc\": 5}", "(no words)"},
        {"{}", "(no words)"},
        {"null", "(no words)"},
        {"[1]", "(no words)"},
    };
    struct monitor m;
    monitor_open(&m);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct asking a;
        asking_begin(&a, &m, "cont", &patient);
        json_int_t id = monitor_hear(&m, "cont");
        monitor_say(&m, "{\"error\": %s, \"id\": %lld}", rows[i].error, (long long)id);
        asking_expect_error(&a, "guest-refused", rows[i].part);
    }
    monitor_close(&m);
}
END_TEST

/* An error that nobody wants is freed. */
START_TEST(no_error_wanted)
{
    struct monitor m;
    struct client_command command = {.name = "cont"};
    monitor_open(&m);
    ck_assert_ptr_null(client_call(m.c, &command, &hasty, NULL));
    client_lost(m.c);
    ck_assert_ptr_null(client_call(m.c, &command, &patient, NULL));
    monitor_close(&m);
}
END_TEST

/* ---- the end ---- */

START_TEST(lost)
{
    struct monitor m;
    struct asking a;
    monitor_open(&m);
    ck_assert(!client_is_lost(m.c));
    asking_begin(&a, &m, "cont", &patient);
    monitor_hear(&m, "cont");
    client_lost(m.c);
    client_hang_up(m.c);
    ck_assert(client_is_lost(m.c));
    asking_expect_error(&a, "guest-lost", NULL);
    asking_begin(&a, &m, "cont", &patient);
    asking_expect_error(&a, "guest-lost", NULL);
    char byte;
    ck_assert_int_eq(recv(m.far, &byte, 1, 0), 0); /* it serves others now */
    monitor_close(&m);
}
END_TEST

START_TEST(timed_out)
{
    struct monitor m;
    struct asking a;
    monitor_open(&m);
    asking_begin(&a, &m, "stop", &hasty);
    asking_expect_error(&a, "guest-timeout", "asked for stop, did not answer within 20 ms");
    reply(&m, monitor_hear(&m, "stop"), "{}"); /* too late */
    monitor_close(&m);
}
END_TEST

/* News that wake the waiter all the time do not keep it from seeing its deadline. */
START_TEST(timed_out_among_news)
{
    struct monitor m;
    struct asking a;
    monitor_open(&m);
    asking_begin(&a, &m, "stop", &hasty);
    while (pthread_tryjoin_np(a.thread, NULL) != 0) {
        monitor_say(&m, "{\"return\": {}, \"id\": 77}");
    }
    ck_assert_ptr_null(a.reply);
    expect_error(a.err, "guest-timeout", "asked for stop");
    monitor_close(&m);
}
END_TEST

START_TEST(cancelled)
{
    struct monitor m;
    struct asking a;
    uint64_t one = 1;
    struct wait w = patient;
    w.cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    monitor_open(&m);
    asking_begin(&a, &m, "stop", &w);
    monitor_hear(&m, "stop");
    ck_assert_int_eq(write(w.cancel_fd, &one, sizeof(one)), sizeof(one));
    asking_expect_error(&a, "cancelled", NULL);
    asking_begin(&a, &m, "stop", &w); /* it is asked all the same */
    asking_expect_error(&a, "cancelled", NULL);
    monitor_hear(&m, "stop");
    close(w.cancel_fd);
    monitor_close(&m);
}
END_TEST

/* A cancel and the reply at once: either counts, never both. */
START_TEST(cancelled_as_it_is_replied)
{
    struct monitor m;
    uint64_t one = 1;
    struct wait w = patient;
    w.cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    monitor_open(&m);
    for (int i = 0; i < 500; i++) {
        struct asking a;
        asking_begin(&a, &m, "stop", &w);
        json_int_t id = monitor_hear(&m, "stop");
        ck_assert_int_eq(write(w.cancel_fd, &one, sizeof(one)), sizeof(one));
        reply(&m, id, "{}");
        pthread_join(a.thread, NULL);
        ck_assert_msg(!a.reply != !a.err, "a reply %p and an error %p", (void *)a.reply,
                      (void *)a.err);
        json_decref(a.reply);
        error_free(a.err);
        ck_assert_int_eq(read(w.cancel_fd, &one, sizeof(one)), sizeof(one));
        one = 1;
    }
    close(w.cancel_fd);
    monitor_close(&m);
}
END_TEST

/* ---- seen ---- */

static void see(void *opaque, json_t *reply_seen)
{
    json_incref(reply_seen);
    *(json_t **)opaque = reply_seen;
}

/* What was marked is there as soon as the caller goes on: it is plain memory of both threads. */
START_TEST(seen_first)
{
    struct monitor m;
    struct asking a;
    json_t *noted = NULL;
    monitor_open(&m);
    for (int i = 0; i < 100; i++) {
        a = (struct asking){.m = &m,
                            .command = {.name = "cont", .seen = see, .opaque = &noted},
                            .w = patient,
                            .fd = -1};
        asking_start(&a);
        reply(&m, monitor_hear(&m, "cont"), "[5]");
        asking_expect(&a, "[5]");
        ck_assert_ptr_nonnull(noted);
        json_decref(noted);
        noted = NULL;
    }
    monitor_close(&m);
}
END_TEST

START_TEST(not_seen)
{
    struct monitor m;
    struct error *err = NULL;
    json_t *noted = NULL;
    struct client_command command = {.name = "cont", .seen = see, .opaque = &noted};
    monitor_open(&m);
    ck_assert_ptr_null(client_call(m.c, &command, &hasty, &err));
    expect_error(err, "guest-timeout", NULL);
    reply(&m, monitor_hear(&m, "cont"), "{}"); /* given up before */
    ck_assert_ptr_null(noted);
    struct asking a = {.m = &m, .command = command, .w = patient, .fd = -1};
    asking_start(&a);
    monitor_say(&m, "{\"error\": {}, \"id\": %lld}", (long long)monitor_hear(&m, "cont"));
    asking_expect_error(&a, "guest-refused", NULL);
    ck_assert_ptr_null(noted);
    monitor_close(&m);
}
END_TEST

/* ---- a monitor that does not read ---- */

/* Commands of the main thread until the socket takes no more. */
static void fill(struct monitor *m)
{
    struct client_command command = {.name = "query-status"};
    struct told told = {0};
    while (!told.calls) {
        client_ask(m->c, &command, 0, note_told, &told);
        if (!told.calls) {
            client_expire(m->c);
            ck_assert_uint_eq(told.calls, 1);
            bool full = strstr(told.err->text, "takes no QMP commands");
            error_free(told.err);
            told = (struct told){.calls = full};
        }
    }
    error_free(told.err);
}

START_TEST(does_not_read)
{
    struct monitor m;
    struct asking a;
    monitor_open(&m);
    fill(&m);
    asking_begin(&a, &m, "stop", &hasty);
    asking_expect_error(&a, "guest-timeout", "asked for stop, did not answer");
    asking_begin(&a, &m, "stop", &patient);
    char *heard;
    do { /* room for it */
        heard = monitor_hear_text(&m);
        bool it = strstr(heard, "\"stop\"");
        free(heard);
        if (it) {
            break;
        }
    } while (true);
    client_lost(m.c);
    asking_expect_error(&a, "guest-lost", NULL);
    monitor_close(&m);
}
END_TEST

/* Whoever waits for room hears of a loss at once, though the socket is open yet. */
START_TEST(does_not_read_and_is_lost)
{
    struct monitor m;
    struct asking a;
    monitor_open(&m);
    fill(&m);
    asking_begin(&a, &m, "stop", &patient);
    client_lost(m.c);
    asking_expect_error(&a, "guest-lost", NULL);
    monitor_close(&m);
}
END_TEST

/* Half a message can't be taken back, and what follows would be part of it. */
START_TEST(half_a_message)
{
    struct monitor m;
    struct error *err = NULL;
    char *text = malloc((1 << 20) + 1);
    memset(text, 'x', 1 << 20);
    text[1 << 20] = '\0';
    struct client_command command = {.name = "migrate", .arguments = json_pack("{s:s}", "u", text)};
    monitor_open(&m);
    ck_assert_ptr_null(client_call(m.c, &command, &patient, &err));
    expect_error(err, "guest-lost", NULL);
    err = NULL;
    ck_assert(!client_read(m.c, &err));
    expect_error(err, "guest-lost", NULL);
    free(text);
    monitor_close(&m);
}
END_TEST

START_TEST(closed_at_the_far_end)
{
    struct monitor m;
    struct asking a;
    monitor_open(&m);
    close(m.far);
    m.far = -1;
    asking_begin(&a, &m, "stop", &patient);
    asking_expect_error(&a, "guest-lost", NULL);
    monitor_close(&m);
}
END_TEST

/* ---- descriptors ---- */

START_TEST(with_a_descriptor)
{
    struct monitor m;
    struct asking a;
    struct stat mine, theirs;
    int fd = file_new(1);
    monitor_open(&m);
    asking_send_fd(&a, &m, fd);
    char *heard = monitor_hear_text(&m);
    ck_assert_str_eq(heard, "{\"arguments\":{\"fdname\":\"name\"},\"execute\":\"getfd\",\"id\":1}");
    free(heard);
    reply(&m, 1, "{}");
    asking_expect(&a, "true");
    ck_assert_int_eq(fstat(fd, &mine), 0); /* still open here */
    ck_assert_int_eq(fstat(m.fd, &theirs), 0);
    ck_assert_uint_eq(mine.st_ino, theirs.st_ino);
    close(m.fd);
    close(fd);
    monitor_close(&m);
}
END_TEST

/* ---- sleeping ---- */

static int sleep_once(struct monitor *m, uint64_t deadline_ns)
{
    struct wait w = {.cancel_fd = -1};
    return client_sleep(m->c, deadline_ns, &w, NULL);
}

START_TEST(woken)
{
    struct monitor m;
    monitor_open(&m);
    ck_assert_int_eq(sleep_once(&m, 1), 0); /* a deadline that is past */
    client_wake(m.c);
    ck_assert_int_eq(sleep_once(&m, 0), 1);
    client_woken(m.c);
    ck_assert_int_eq(sleep_once(&m, 1), 0);
    client_lost(m.c);
    ck_assert_int_eq(sleep_once(&m, 0), 1);
    monitor_close(&m);
}
END_TEST

/* What is attended to: a pipe, of which a byte says how its taking ends. */
struct attended {
    int ends[2];
    _Atomic int taken;
};

static bool take_byte(void *opaque, struct error **errp)
{
    struct attended *a = opaque;
    char byte = 0;
    ck_assert_int_eq(read(a->ends[0], &byte, 1), 1);
    atomic_fetch_add(&a->taken, 1);
    if (byte == 'x') {
        error_set(errp, "state-too-large", "Too much");
    }
    return byte != 'x';
}

static void attend(struct attended *a, struct monitor *m)
{
    ck_assert_int_eq(pipe(a->ends), 0);
    client_attend(m->c, a->ends[0], take_byte, a);
}

static void attended_close(struct attended *a)
{
    close(a->ends[0]);
    close(a->ends[1]);
}

/* The monitor answers only when what is attended to was taken, as a QEMU that writes does. */
START_TEST(attended_in_a_call)
{
    struct monitor m;
    struct asking a;
    struct attended pipe = {0};
    monitor_open(&m);
    attend(&pipe, &m);
    asking_begin(&a, &m, "migrate-continue", &patient);
    json_int_t id = monitor_hear(&m, "migrate-continue");
    for (int i = 1; i <= 3; i++) {
        ck_assert_int_eq(write(pipe.ends[1], "o", 1), 1);
        while (atomic_load(&pipe.taken) < i) {
            sched_yield();
        }
    }
    reply(&m, id, "{}");
    asking_expect(&a, "{}");
    attended_close(&pipe);
    monitor_close(&m);
}
END_TEST

START_TEST(attended_and_bad)
{
    struct monitor m;
    struct asking a;
    struct attended pipe = {0};
    monitor_open(&m);
    attend(&pipe, &m);
    asking_begin(&a, &m, "migrate-continue", &patient);
    ck_assert_int_eq(write(pipe.ends[1], "x", 1), 1);
    asking_expect_error(&a, "state-too-large", "Too much");
    attended_close(&pipe);
    monitor_close(&m);
}
END_TEST

START_TEST(attended_no_more)
{
    struct monitor m;
    struct attended pipe = {0};
    monitor_open(&m);
    attend(&pipe, &m);
    client_attend(m.c, -1, NULL, NULL);
    ck_assert_int_eq(write(pipe.ends[1], "o", 1), 1);
    ck_assert_int_eq(sleep_once(&m, 1), 0);
    ck_assert_int_eq(atomic_load(&pipe.taken), 0);
    attended_close(&pipe);
    monitor_close(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qemu/client/call");
    unit_add(suite, "qemu/client/call/replied", replied);
    unit_add(suite, "qemu/client/call/arguments", arguments);
    unit_add(suite, "qemu/client/call/refused", refused);
    unit_add(suite, "qemu/client/call/no-error-wanted", no_error_wanted);
    unit_add(suite, "qemu/client/call/lost", lost);
    unit_add(suite, "qemu/client/call/timed-out", timed_out);
    unit_add(suite, "qemu/client/call/timed-out-among-news", timed_out_among_news);
    unit_add(suite, "qemu/client/call/cancelled", cancelled);
    unit_add(suite, "qemu/client/call/cancelled-as-it-is-replied", cancelled_as_it_is_replied);
    unit_add(suite, "qemu/client/call/seen/first", seen_first);
    unit_add(suite, "qemu/client/call/seen/not", not_seen);
    unit_add(suite, "qemu/client/call/does-not-read", does_not_read);
    unit_add(suite, "qemu/client/call/does-not-read-and-is-lost", does_not_read_and_is_lost);
    unit_add(suite, "qemu/client/call/half-a-message", half_a_message);
    unit_add(suite, "qemu/client/call/closed-at-the-far-end", closed_at_the_far_end);
    unit_add(suite, "qemu/client/call/with-a-descriptor", with_a_descriptor);
    unit_add(suite, "qemu/client/call/woken", woken);
    unit_add(suite, "qemu/client/call/attended", attended_in_a_call);
    unit_add(suite, "qemu/client/call/attended/bad", attended_and_bad);
    unit_add(suite, "qemu/client/call/attended/no-more", attended_no_more);
    return unit_run(suite);
}
