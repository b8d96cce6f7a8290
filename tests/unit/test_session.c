/* SPDX-License-Identifier: BSD-3-Clause */
/* What a session answers, in which order, and how it begins and ends. */
#include "protocol/session.h"
#include "tests/unit/qmp_client.h"
#include "tests/unit/unit.h"

#include <stdio.h>
#include <string.h>

START_TEST(greeting)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_connect(&client, &stage);
    client_expect(&client, "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 1, \"minor\": 2,"
                           " \"micro\": 3}, \"package\": \"ferryd 1.2.3\"},"
                           " \"capabilities\": [\"oob\"]}}");
    client_expect_silence(&client);
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(negotiation)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_open(&client, &stage);
    client_send(&client, "{\"execute\": \"query-version\", \"id\": \"a\"}"
                         "{\"execute\": \"nonsense\"}");
    client_expect_error(&client, "CommandNotFound", "negotiation-expected", "a");
    client_expect_error(&client, "CommandNotFound", "negotiation-expected", NULL);
    client_send(&client, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\":"
                         " [\"flying\"]}}{\"execute\": \"query-version\"}");
    client_expect_error(&client, "GenericError", "parameter-value", NULL);
    client_expect_error(&client, "CommandNotFound", "negotiation-expected", NULL);
    client_send(&client, "{\"execute\": \"qmp_capabilities\", \"id\": 1}"
                         "{\"execute\": \"qmp_capabilities\", \"id\": \"2\"}"
                         "{\"execute\": \"query-version\"}");
    client_expect(&client, "{\"return\": {}, \"id\": 1}");
    client_expect_error(&client, "CommandNotFound", "negotiation-done", "2");
    client_expect(&client, "{\"return\": {\"qemu\": {\"major\": 1, \"minor\": 2, \"micro\": 3},"
                           " \"package\": \"ferryd 1.2.3\"}}");
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(id_is_echoed)
{
    static const char *const ids[] = {
        "0",     "-9223372036854775808",     "1.5", "true", "null", "\"\\u00fc \\ud83d\\ude00\"",
        "\"ü\"", "[1, {\"a\": [null, {}]}]", "{}",  "\"\"", "[]",
    };
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        char text[256];
        snprintf(text, sizeof(text), "{\"execute\": \"query-status\", \"id\": %s}", ids[i]);
        client_send(&client, text);
        snprintf(text, sizeof(text), "{\"return\": {}, \"id\": %s}", ids[i]);
        client_expect(&client, text);
    }
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(split_and_joined)
{
    static const char requests[] = "{\"execute\": \"query-status\", \"id\": \"{\"} \r\n"
                                   "{\"id\": 2, \"execute\": \"nope\"}{\"execute\":"
                                   "\"query-status\",\"arguments\":{\"guest\":\"\\\"}\"}}";
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    for (size_t cut = 0; cut <= strlen(requests); cut++) {
        ck_assert(client_send_bytes(&client, requests, cut));
        stage_run(&stage);
        client_send(&client, requests + cut);
        client_expect(&client, "{\"return\": {}, \"id\": \"{\"}");
        json_decref(client_line(&client));
        client_expect(&client, "{\"return\": {\"guest\": \"\\\"}\"}}");
    }
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(faulty_requests)
{
    static const char *const requests[][2] = {
        {"[]", "request-invalid"},
        {"{}", "request-invalid"},
        {"{\"execute\": 1}", "request-invalid"},
        {"{\"execute\": null}", "request-invalid"},
        {"{\"execute\": \"stop\", \"arguments\": []}", "request-invalid"},
        {"{\"execute\": \"stop\", \"argument\": {}}", "request-invalid"},
        {"{\"exec-oob\": \"migrate_cancel\"}", "request-invalid"},
        {"{\"execute\": \"stop\", \"arguments\": {\"now\": true}}", "parameter-unexpected"},
        {"{\"execute\": \"migrate\"}", "parameter-missing"},
        {"{\"execute\": \"migrate\", \"arguments\": {\"uri\": null}}", "parameter-type"},
        {"{\"execute\": \"stop\", \"execute\": \"cont\"}", "json-invalid"},
        {"{\"execute\" \"stop\"}", "json-invalid"},
        {"{\"execute\": stop}", "json-invalid"},
        {"{\"execute\": \"\xc3(\"}", "json-invalid"},
        {"{\"execute\": \"\xed\xa0\x80\"}", "json-invalid"},
        {"{\"execute\": \"a\\u0000\"}", "json-invalid"},
        {"{\"execute\": \"\\ud800\"}", "json-invalid"},
        {"{\"id\": 99999999999999999999, \"execute\": \"stop\"}", "json-invalid"},
        {"{\"id\": 1e999, \"execute\": \"stop\"}", "json-invalid"},
        {"execute\n", "json-invalid"},
        {"{\"execute\": \"sto\n", "json-invalid"},
        {"{\"execute\": 'stop'}\n", "json-invalid"},
        {"\xff\n", "json-invalid"},
    };
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        client_send(&client, requests[i][0]);
        client_expect_error(&client, "GenericError", requests[i][1], NULL);
        client_send(&client, "{\"execute\": \"query-status\"}");
        client_expect(&client, "{\"return\": {}}");
    }
    client_send(&client, "{\"execute\": \"\\u00e9\", \"id\": \"é\"}");
    client_expect_error(&client, "CommandNotFound", "command-unknown", "é");
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(long_names_are_cut)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    char text[2048] = "{\"execute\": \"a";
    for (int i = 0; i < 500; i++) {
        strcat(text, "é");
    }
    strcat(text, "\"}");
    client_send(&client, text);
    client_expect_error(&client, "CommandNotFound", "command-unknown", NULL);
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(aliases)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    client_send(&client, "{\"execute\": \"set_speed\", \"arguments\": {\"value\": 7}}"
                         "{\"execute\": \"set_downtime\", \"arguments\": {\"value\": 1}}");
    client_expect(&client, "{\"return\": {\"value\": 7}}");
    client_expect(&client, "{\"return\": {\"value\": 1}}");
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(introspection)
{
    static const char *const commands[] = {"query-commands", "query-events", "query-qmp-schema"};
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        char text[64];
        snprintf(text, sizeof(text), "{\"execute\": \"%s\"}", commands[i]);
        client_send(&client, text);
        json_t *reply = client_line(&client);
        ck_assert_uint_gt(json_array_size(json_object_get(reply, "return")), 5);
        json_decref(reply);
    }
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(in_order_without_oob)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    client_send(&client, "{\"execute\": \"stop\", \"id\": 1}{\"execute\": \"stop\", \"id\": 2}"
                         "{\"execute\": \"query-status\", \"id\": 3}{\"id\": \"4\"}");
    client_expect_silence(&client);
    ck_assert_uint_eq(stage.held_count, 1);
    stage_answer(&stage);
    client_expect(&client, "{\"return\": {}, \"id\": 1}");
    client_expect_silence(&client);
    ck_assert_uint_eq(stage.held_count, 1);
    stage_answer(&stage);
    client_expect(&client, "{\"return\": {}, \"id\": 2}");
    client_expect(&client, "{\"return\": {}, \"id\": 3}");
    client_expect_error(&client, "GenericError", "request-invalid", "4");
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(oob_overtakes)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, "oob");
    client_send(&client, "{\"execute\": \"stop\", \"id\": 1}{\"execute\": \"cont\", \"id\": 2}"
                         "{\"id\": \"3\"}{\"exec-oob\": \"migrate_cancel\", \"id\": 4}"
                         "{\"exec-oob\": \"cont\", \"id\": \"5\"}"
                         "{\"exec-oob\": \"cont\", \"execute\": \"cont\", \"id\": \"6\"}");
    client_expect(&client, "{\"return\": {}, \"id\": 4}");
    client_expect_error(&client, "GenericError", "oob-unsupported", "5");
    client_expect_silence(&client);
    stage_answer(&stage);
    client_expect(&client, "{\"return\": {}, \"id\": 1}");
    client_expect(&client, "{\"return\": {}, \"id\": 2}");
    client_expect_error(&client, "GenericError", "request-invalid", "3");
    client_expect_error(&client, "GenericError", "request-invalid", "6");
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(oob_queue_is_limited)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, "oob");
    client_send(&client, "{\"execute\": \"stop\"}");
    for (int i = 1; i < SESSION_MAX_WAITING; i++) {
        client_send(&client, "{\"execute\": \"cont\"}");
    }
    client_send(&client, "{\"exec-oob\": \"migrate_cancel\", \"id\": \"first\"}");
    client_expect(&client, "{\"return\": {}, \"id\": \"first\"}");
    client_send(&client, "{\"execute\": \"cont\"}"
                         "{\"exec-oob\": \"migrate_cancel\", \"id\": \"second\"}");
    client_expect_silence(&client);
    stage_answer(&stage);
    for (int i = 0; i < 2; i++) {
        client_expect(&client, "{\"return\": {}}");
    }
    for (int i = 2; i <= SESSION_MAX_WAITING + 1; i++) {
        json_decref(client_line(&client));
    }
    client_expect_silence(&client);
    client_close(&client);
    stage_close(&stage);
}
END_TEST

/* What waits in the kernel while a session does not read must still be taken later. */
START_TEST(reading_resumes)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    client_send(&client, "{\"execute\": \"stop\"}");
    for (int i = 0; i < 10; i++) {
        client_send(&client, "{\"execute\": \"cont\"}");
        stage_run(&stage);
    }
    stage_answer(&stage);
    for (int i = 0; i < 11; i++) {
        client_expect(&client, "{\"return\": {}}");
    }
    client_close(&client);
    stage_close(&stage);
}
END_TEST

START_TEST(events)
{
    struct stage stage;
    struct client listening;
    struct client greeted;
    stage_open(&stage);
    client_negotiated(&listening, &stage, NULL);
    client_open(&greeted, &stage);
    qmp_event(stage.server, "STOP", json_pack("{s:s}", "guest", "gäst"));
    qmp_event(stage.server, "RESUME", NULL);
    json_t *event = client_line(&listening);
    json_t *stamp = json_object_get(event, "timestamp");
    ck_assert_int_gt(json_integer_value(json_object_get(stamp, "seconds")), 1000000000);
    ck_assert_int_lt(json_integer_value(json_object_get(stamp, "microseconds")), 1000000);
    ck_assert(json_is_integer(json_object_get(stamp, "microseconds")));
    ck_assert_str_eq(json_string_value(json_object_get(event, "event")), "STOP");
    json_t *data = json_object_get(event, "data");
    ck_assert_str_eq(json_string_value(json_object_get(data, "guest")), "gäst");
    json_decref(event);
    event = client_line(&listening);
    ck_assert_ptr_null(json_object_get(event, "data"));
    json_decref(event);
    client_expect_silence(&greeted);
    client_close(&listening);
    client_close(&greeted);
    stage_close(&stage);
}
END_TEST

START_TEST(client_leaves_before_the_answer)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, "oob");
    client_send(&client, "{\"execute\": \"stop\"}{\"execute\": \"stop\"}{\"execute\": \"cont\"}");
    client_close(&client);
    stage_run(&stage);
    stage_answer(&stage);
    stage_run(&stage);
    ck_assert_uint_eq(stage.server->session_count, 0);
    stage_close(&stage);
}
END_TEST

START_TEST(server_ends_before_the_answer)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, "oob");
    client_send(&client, "{\"execute\": \"stop\"}{\"execute\": \"cont\"}");
    stage_run(&stage);
    ck_assert_uint_eq(stage.held_count, 1);
    stage_close(&stage);
    client_close(&client);
}
END_TEST

START_TEST(half_closed_client_gets_its_answers)
{
    struct stage stage;
    struct client client;
    stage_open(&stage);
    client_negotiated(&client, &stage, NULL);
    client_send(&client, "{\"execute\": \"stop\", \"id\": 1}{\"execute\": \"cont\", \"id\": 2}{");
    ck_assert_int_eq(shutdown(client.fd, SHUT_WR), 0);
    stage_run(&stage);
    stage_answer(&stage);
    client_expect(&client, "{\"return\": {}, \"id\": 1}");
    client_expect(&client, "{\"return\": {}, \"id\": 2}");
    ck_assert(client_at_end(&client));
    ck_assert_uint_eq(stage.server->session_count, 0);
    client_close(&client);
    stage_close(&stage);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("protocol/session");
    unit_add(suite, "protocol/session/greeting", greeting);
    unit_add(suite, "protocol/session/negotiation", negotiation);
    unit_add(suite, "protocol/session/id-is-echoed", id_is_echoed);
    unit_add(suite, "protocol/session/split-and-joined", split_and_joined);
    unit_add(suite, "protocol/session/faulty-requests", faulty_requests);
    unit_add(suite, "protocol/session/long-names-are-cut", long_names_are_cut);
    unit_add(suite, "protocol/session/aliases", aliases);
    unit_add(suite, "protocol/session/introspection", introspection);
    unit_add(suite, "protocol/session/in-order-without-oob", in_order_without_oob);
    unit_add(suite, "protocol/session/oob-overtakes", oob_overtakes);
    unit_add(suite, "protocol/session/oob-queue-is-limited", oob_queue_is_limited);
    unit_add(suite, "protocol/session/reading-resumes", reading_resumes);
    unit_add(suite, "protocol/session/events", events);
    unit_add(suite, "protocol/session/client-leaves-before-the-answer",
             client_leaves_before_the_answer);
    unit_add(suite, "protocol/session/server-ends-before-the-answer",
             server_ends_before_the_answer);
    unit_add(suite, "protocol/session/half-closed-client-gets-its-answers",
             half_closed_client_gets_its_answers);
    return unit_run(suite);
}
