/* SPDX-License-Identifier: BSD-3-Clause */
/* Clients that send or hold too much, and what the server does when the system has too little. */
#include "protocol/framing.h"
#include "protocol/receive.h"
#include "protocol/session.h"
#include "tests/unit/qmp_client.h"
#include "tests/unit/unit.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/time.h>
#include <unistd.h>

#define GARBAGE_INPUTS 1000

static void send_repeated(struct client *client, const char *piece, size_t times)
{
    size_t len = strlen(piece);
    char *text = malloc(len * times);
    ck_assert_ptr_nonnull(text);
    for (size_t i = 0; i < times; i++) {
        memcpy(text + i * len, piece, len);
    }
    ck_assert(client_send_bytes(client, text, len * times));
    free(text);
}

START_TEST(oversized)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    client_send(&client, "{\"execute\": \"");
    send_repeated(&client, "x", 3 * FRAMING_MAX_REQUEST);
    client_send(&client, "\"}\n{\"execute\": \"query-status\"}");
    client_expect_error(&client, "GenericError", "request-too-large", NULL);
    client_expect(&client, "{\"return\": {}}");
    struct session *session = LIST_FIRST(&stage.server->sessions);
    ck_assert_uint_eq(evbuffer_get_length(session->input), 0);
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(too_deep)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    send_repeated(&client, "{\"a\":", 100000);
    client_send(&client, "\n{\"execute\": \"query-status\"}");
    client_expect_error(&client, "GenericError", "request-too-deep", NULL);
    client_expect(&client, "{\"return\": {}}");
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(slow_reader_is_closed)
{
    struct stage stage;
    struct client slow;
    struct client other;
    stage_open(&stage);
    client_negotiated(&other, &stage, NULL);
    client_negotiated(&slow, &stage, NULL);
    char *long_text = malloc(SESSION_OUTPUT_PAUSE);
    ck_assert_ptr_nonnull(long_text);
    memset(long_text, 'x', SESSION_OUTPUT_PAUSE);
    long_text[SESSION_OUTPUT_PAUSE - 1] = '\0';
    size_t enough = SESSION_OUTPUT_MAX / SESSION_OUTPUT_PAUSE + 2;
    for (size_t i = 0; i < enough; i++) {
        qmp_event(stage.server, "STOP", json_pack("{s:s}", "guest", long_text));
        json_decref(client_line(&other));
    }
    free(long_text);
    ck_assert_uint_eq(stage.server->session_count, 1);
    json_t *line;
    while ((line = client_line(&slow))) {
        json_decref(line);
    }
    ck_assert(client_at_end(&slow));
    client_send(&other, "{\"execute\": \"query-status\"}");
    client_expect(&other, "{\"return\": {}}");
    client_close(&slow);
    client_close(&other);
    stage_close(&stage);
}
END_TEST

/* A client that asks on without reading has to wait, and loses nothing. */
START_TEST(unread_replies_stall)
{
    static const char request[] = "{\"execute\": \"query-qmp-schema\"}";
    const int count = 1000;
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    send_repeated(&client, request, (size_t)count);
    stage_run(&stage);
    struct session *session = LIST_FIRST(&stage.server->sessions);
    ck_assert_uint_gt(evbuffer_get_length(session->output), SESSION_OUTPUT_PAUSE);
    ck_assert_uint_lt(evbuffer_get_length(session->output), 2 * SESSION_OUTPUT_PAUSE);
    for (int i = 0; i < count; i++) {
        json_t *line = client_line(&client);
        ck_assert_ptr_nonnull(json_object_get(line, "return"));
        json_decref(line);
    }
    client_expect_silence(&client);
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(descriptors)
{
    static const char getfd[] = "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"a\"}}";
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    int pipe_fds[2];
    ck_assert_int_eq(pipe(pipe_fds), 0);
    client_send(&client, getfd);
    client_expect_error(&client, "GenericError", "parameter-missing", NULL);
    client_send_fds(&client, getfd, pipe_fds[1], 1);
    client_expect(&client, "{\"return\": {}}");
    client_send_fds(&client, " ", pipe_fds[1], 1);
    client_send(&client, getfd);
    client_expect(&client, "{\"return\": {}}");
    close(pipe_fds[1]);
    ck_assert_int_eq(write(stage.fds[0], "x", 1), 1);
    ck_assert_int_eq(write(stage.fds[1], "y", 1), 1);
    char got[3] = "";
    ck_assert_int_eq(read(pipe_fds[0], got, 2), 2);
    ck_assert_str_eq(got, "xy");
    close(pipe_fds[0]);
    client_close(&client);
    stage_close(&stage);
}
END_TEST

/* Whether all writing ends of a pipe are closed. */
static bool all_closed(int reading_end)
{
    struct timeval none = {0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(reading_end, &set);
    char byte;
    return select(reading_end + 1, &set, NULL, NULL, &none) == 1 &&
           read(reading_end, &byte, 1) == 0;
}

START_TEST(surplus_descriptors_are_closed)
{
    static const char getfd[] = "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"a\"}}";
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    int pipe_fds[2];
    ck_assert_int_eq(pipe(pipe_fds), 0);
    client_send_fds(&client, " ", pipe_fds[1], FD_QUEUE_MAX - 1);
    client_send_fds(&client, " ", pipe_fds[1], 5);
    close(pipe_fds[1]);
    ck_assert(!all_closed(pipe_fds[0]));
    for (int i = 0; i < FD_QUEUE_MAX; i++) {
        client_send(&client, getfd);
        client_expect(&client, "{\"return\": {}}");
    }
    client_send(&client, getfd);
    client_expect_error(&client, "GenericError", "parameter-missing", NULL);
    while (stage.fd_count > 0) {
        close(stage.fds[--stage.fd_count]);
    }
    ck_assert(all_closed(pipe_fds[0]));
    close(pipe_fds[0]);
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(descriptors_end_with_the_session)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_open(&client, &stage);
    int pipe_fds[2];
    ck_assert_int_eq(pipe(pipe_fds), 0);
    client_send_fds(&client, "{", pipe_fds[1], 3);
    close(pipe_fds[1]);
    ck_assert(!all_closed(pipe_fds[0]));
    client_close(&client);
    stage_run(&stage);
    ck_assert(all_closed(pipe_fds[0]));
    close(pipe_fds[0]);
    stage_close(&stage);
}
END_TEST

START_TEST(sessions_are_limited)
{
    static struct client clients[SERVER_MAX_SESSIONS];
    struct stage stage;
    struct client surplus;
    stage_open(&stage);
    for (size_t i = 0; i < SERVER_MAX_SESSIONS; i++) {
        client_open(&clients[i], &stage);
    }
    client_connect(&surplus, &stage);
    client_expect_error(&surplus, "GenericError", "sessions-too-many", NULL);
    ck_assert(client_at_end(&surplus));
    client_close(&surplus);
    client_close(&clients[0]);
    stage_run(&stage);
    client_open(&clients[0], &stage);
    for (size_t i = 0; i < SERVER_MAX_SESSIONS; i++) {
        client_close(&clients[i]);
    }
    stage_close(&stage);
}
END_TEST

static void limit_descriptors(rlim_t soft)
{
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = soft;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* With no descriptor left the loop must rest, not spin, and accept when there are some again. */
START_TEST(accept_survives_emfile)
{
    struct stage stage;
    struct client client;
    struct rlimit before;
    stage_open(&stage);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    client_connect(&client, &stage);
    limit_descriptors((rlim_t)client.fd + 1);
    stage_run(&stage);
    ck_assert_uint_eq(stage.server->session_count, 0);
    for (int i = 0; i < 3; i++) {
        struct timeval start;
        struct timeval end;
        gettimeofday(&start, NULL);
        ck_assert_int_eq(event_base_loop(stage.base, EVLOOP_ONCE), 0);
        gettimeofday(&end, NULL);
        ck_assert_int_eq(event_base_loop(stage.base, EVLOOP_NONBLOCK), 0);
        timersub(&end, &start, &end);
        ck_assert_int_gt(end.tv_sec * 1000000 + end.tv_usec, 50000);
    }
    limit_descriptors(before.rlim_cur);
    ck_assert_int_eq(event_base_loop(stage.base, EVLOOP_ONCE), 0);
    json_t *line = client_line(&client);
    ck_assert_ptr_nonnull(json_object_get(line, "QMP"));
    json_decref(line);
    client_close(&client);
    stage_close(&stage);
}
END_TEST

/* Random bytes, mostly such as mean something. */
static size_t make_garbage(char *bytes, size_t size, unsigned *seed)
{
    static const char *const words[] = {
        "{",           "}",
        "[",           "]",
        ":",           ",",
        "\"",          "\\",
        "\n",          "execute",
        "\"execute\"", "\"stop\"",
        "\"cont\"",    "\"arguments\"",
        "null",        "1e5",
        "\"id\"",      "\xff",
        "\\u0000",     "\"exec-oob\"",
        "-0.5",        "\"uri\"",
        "\"migrate\"", "{\"execute\":\"query-status\"}",
    };
    size_t len = 0;
    size_t wanted = (size_t)rand_r(seed) % (size - 64);
    while (len < wanted) {
        if (rand_r(seed) % 8 == 0) {
            bytes[len++] = (char)rand_r(seed);
            continue;
        }
        const char *word = words[(size_t)rand_r(seed) % (sizeof(words) / sizeof(words[0]))];
        memcpy(bytes + len, word, strlen(word));
        len += strlen(word);
    }
    return len;
}

/* Reads up to the answer with the id "end"; false when the server closed instead. */
static bool reaches_end(struct client *client)
{
    json_t *line;
    while ((line = client_line(client))) {
        const char *id = json_string_value(json_object_get(line, "id"));
        bool end = id && strcmp(id, "end") == 0;
        json_decref(line);
        if (end) {
            return true;
        }
    }
    return false;
}

START_TEST(garbage)
{
    struct stage stage;
    stage_open(&stage);
    unsigned seed = 1;
    for (int i = 0; i < GARBAGE_INPUTS; i++) {
        struct client client;
        char bytes[600];
        client_negotiated(&client, &stage, i % 2 ? "oob" : NULL);
        size_t len = make_garbage(bytes, sizeof(bytes), &seed);
        ck_assert(client_send_bytes(&client, bytes, len));
        client_send(&client, "\xff\n{\"execute\": \"query-status\", \"id\": \"end\"}");
        stage_run(&stage);
        while (stage.held_count > 0) {
            stage_answer(&stage);
            stage_run(&stage);
        }
        ck_assert_msg(reaches_end(&client), "input %d made the session deaf", i);
        client_close(&client);
        stage_run(&stage);
    }
    ck_assert_uint_eq(stage.server->session_count, 0);
    stage_close(&stage);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("protocol/session-limits");
    unit_add(suite, "protocol/session-limits/oversized", oversized);
    unit_add(suite, "protocol/session-limits/too-deep", too_deep);
    unit_add(suite, "protocol/session-limits/slow-reader-is-closed", slow_reader_is_closed);
    unit_add(suite, "protocol/session-limits/unread-replies-stall", unread_replies_stall);
    unit_add(suite, "protocol/session-limits/descriptors", descriptors);
    unit_add(suite, "protocol/session-limits/surplus-descriptors-are-closed",
             surplus_descriptors_are_closed);
    unit_add(suite, "protocol/session-limits/descriptors-end-with-the-session",
             descriptors_end_with_the_session);
    unit_add(suite, "protocol/session-limits/sessions-are-limited", sessions_are_limited);
    unit_add(suite, "protocol/session-limits/accept-survives-emfile", accept_survives_emfile);
    unit_add(suite, "protocol/session-limits/garbage", garbage);
    return unit_run(suite);
}
