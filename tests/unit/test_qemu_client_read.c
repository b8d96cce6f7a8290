/* SPDX-License-Identifier: BSD-3-Clause */
/* What a monitor says unasked, and whatever else may come out of its socket. */
#include "tests/unit/monitor_stage.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void say_version(struct monitor *m, const char *version)
{
    monitor_say(m, "{\"QMP\": {\"version\": {\"qemu\": %s}, \"capabilities\": []}}", version);
}

START_TEST(greeting)
{
    static const struct {
        const char *said;
        unsigned version;
    } rows[] = {
        {"{\"major\": 7, \"minor\": 2, \"micro\": 22}", CLIENT_VERSION(7, 2)},
        {"{\"major\": 10, \"minor\": 0, \"micro\": 0}", CLIENT_VERSION(10, 0)},
        {"{\"major\": 0, \"minor\": 0, \"micro\": 0}", 1}, /* a greeting all the same */
        {"{\"major\": -1, \"minor\": 2}", 1},
        {"{\"major\": 7, \"minor\": 1000}", 1},
        {"{\"major\": 2147483648, \"minor\": 2}", 1},
        {"{\"major\": \"7\", \"minor\": 2}", 1},
        {"{\"major\": 7}", 1},
        {"[7, 2]", 1},
        {"null", 1},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct monitor m;
        struct error *err = NULL;
        monitor_open(&m);
        say_version(&m, rows[i].said);
        ck_assert_uint_eq(client_greet(m.c, &patient, &err), rows[i].version);
        ck_assert_ptr_null(err);
        monitor_close(&m);
    }
}
END_TEST

START_TEST(greeting_is_awaited)
{
    struct monitor m;
    struct asking a;
    monitor_open(&m);
    asking_greet(&a, &m, &patient);
    monitor_say(&m, "{\"event\": \"RESUME\"}");
    monitor_greet(&m);
    asking_expect(&a, NULL);
    ck_assert_uint_eq(a.version, CLIENT_VERSION(7, 2));
    monitor_close(&m);
}
END_TEST

START_TEST(greeting_never_comes)
{
    struct monitor m;
    struct asking a;
    monitor_open(&m);
    asking_greet(&a, &m, &hasty);
    asking_expect_error(&a, "guest-timeout", "asked for the greeting, did not answer");
    asking_greet(&a, &m, &patient);
    client_lost(m.c);
    asking_expect_error(&a, "guest-lost", "The VMM of guest 'g' closed");
    monitor_close(&m);
}
END_TEST

START_TEST(events)
{
    struct monitor m;
    monitor_open(&m);
    monitor_say(&m, "{\"timestamp\": {\"seconds\": 1}, \"event\": \"STOP\"}\r\n"
                    "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\r\n");
    ck_assert_str_eq(m.events, "STOP -\nMIGRATION {\"status\":\"setup\"}\n");
    monitor_close(&m);
}
END_TEST

/* A Windows guest chooses the arguments of its own panic. */
START_TEST(numbers_past_63_bits)
{
    struct monitor m;
    struct asking a;
    monitor_open(&m);
    monitor_say(&m, "{\"event\": \"GUEST_PANICKED\", \"data\": {\"arg1\": 18446744073709551615}}");
    ck_assert_ptr_nonnull(strstr(m.events, "GUEST_PANICKED"));
    asking_begin(&a, &m, "query-migrate", &patient);
    json_int_t id = monitor_hear(&m, "query-migrate");
    monitor_say(&m, "{\"return\": {\"n\": 9223372036854775808, \"s\": \"x\"}, \"id\": %lld}",
                (long long)id);
    asking_expect(&a, "{\"n\":9.2233720368547758e18,\"s\":\"x\"}");
    monitor_close(&m);
}
END_TEST

static const char pretty[] =
    "{\r\n    \"event\": \"A\",\r\n    \"data\": {\r\n        \"t\": \"}{\\\"\"\r\n"
    "    }\r\n}\r\n";

START_TEST(split)
{
    struct monitor m;
    monitor_open(&m);
    for (size_t i = 0; i < sizeof(pretty) - 1; i++) {
        ck_assert_str_eq(m.events, "");
        monitor_send(&m, pretty + i, 1);
        if (i < sizeof(pretty) - 4) {
            monitor_read(&m);
        }
    }
    monitor_read(&m);
    ck_assert_str_eq(m.events, "A {\"t\":\"}{\\\"\"}\n");
    monitor_close(&m);
}
END_TEST

START_TEST(joined)
{
    struct monitor m;
    monitor_open(&m);
    monitor_say(&m, "{\"event\":\"A\"}{\"event\":\"B\"}%s\n\n {\"event\":\"C\"}", pretty);
    ck_assert_str_eq(m.events, "A -\nB -\nA {\"t\":\"}{\\\"\"}\nC -\n");
    monitor_close(&m);
}
END_TEST

/* Nothing of it is for anybody. */
START_TEST(strange)
{
    static const char *const rows[] = {
        "{}",
        "{\"event\": 1}",
        "{\"event\": null, \"data\": []}",
        "{\"return\": {}}",
        "{\"return\": {}, \"id\": 1}",
        "{\"return\": {}, \"id\": \"1\"}",
        "{\"return\": {}, \"id\": -1}",
        "{\"return\": {}, \"id\": 1e300}",
        "{\"error\": 5, \"id\": {}}",
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}",
    };
    struct monitor m;
    monitor_open(&m);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        monitor_say(&m, "%s\n", rows[i]);
    }
    ck_assert_str_eq(m.events, "");
    monitor_close(&m);
}
END_TEST

START_TEST(not_qmp)
{
    static const struct {
        const char *bytes, *part;
    } rows[] = {
        {"HTTP/1.1 400 Bad Request\r\n", "does not speak QMP"},
        {"[]\n", "speak QMP"},
        {"[[1]]\n", "speak QMP"},
        {"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ", "speak QMP"},
        {"}\n", "does not speak QMP"},
        {"{]\n", "does not speak QMP"},
        {"{\"event\": \"A\", \"event\": \"B\"}", "duplicate"},
        {"{\"event\": \"\xff\"}", "does not speak QMP"},
        {"{\"event\": \"\xc3(\"}", "decode"},
        {"{\"event\": \"\\u0000\"}", "\\u0000"},
        {"{\"event\": \"A\" \"B\"}", "does not speak QMP"},
        {"{\"event\": 1e9999}", "real"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct monitor m;
        monitor_open(&m);
        monitor_offend(&m, rows[i].bytes, strlen(rows[i].bytes), rows[i].part);
        ck_assert_str_eq(m.events, "");
        monitor_close(&m);
    }
}
END_TEST

START_TEST(too_deep)
{
    char text[200];
    struct monitor m;
    monitor_open(&m);
    memset(text, '[', sizeof(text));
    monitor_offend(&m, text, sizeof(text), "does not speak QMP");
    monitor_close(&m);
}
END_TEST

START_TEST(too_large)
{
    const size_t size = 10 << 20;
    char *text = malloc(size);
    struct monitor m;
    monitor_open(&m);
    memset(text, 'x', size);
    memcpy(text, "{\"event\": \"", 11);
    monitor_offend(&m, text, size, "says more at once than 8388608 bytes");
    free(text);
    monitor_close(&m);
}
END_TEST

/* Such as what QEMU tells of hundreds of disks. */
START_TEST(large)
{
    static const size_t sizes[] = {1 << 19, 1 << 19, 5 << 20, 1 << 19};
    struct monitor m;
    monitor_open(&m);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        char *text = malloc(sizes[i] + 1);
        memset(text, 'x', sizes[i]);
        text[sizes[i]] = '\0';
        monitor_say(&m, "{\"event\": \"A\", \"data\": {}, \"text\": \"%s\"}", text);
        monitor_read(&m);
        free(text);
    }
    ck_assert_str_eq(m.events, "A {}\nA {}\nA {}\nA {}\n");
    monitor_close(&m);
}
END_TEST

START_TEST(closed)
{
    static const char *const before[] = {"", "{\"QMP\": {}}", "{\"event\": \"A"};
    for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++) {
        struct monitor m;
        struct error *err = NULL;
        monitor_open(&m);
        monitor_say(&m, "%s", before[i]);
        close(m.far);
        m.far = -1;
        ck_assert(!client_read(m.c, &err));
        expect_error(err, "guest-lost", "guest 'g' closed its QMP connection");
        monitor_close(&m);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qemu/client/read");
    unit_add(suite, "qemu/client/read/greeting", greeting);
    unit_add(suite, "qemu/client/read/greeting-is-awaited", greeting_is_awaited);
    unit_add(suite, "qemu/client/read/greeting-never-comes", greeting_never_comes);
    unit_add(suite, "qemu/client/read/events", events);
    unit_add(suite, "qemu/client/read/numbers-past-63-bits", numbers_past_63_bits);
    unit_add(suite, "qemu/client/read/split", split);
    unit_add(suite, "qemu/client/read/joined", joined);
    unit_add(suite, "qemu/client/read/strange", strange);
    unit_add(suite, "qemu/client/read/not-qmp", not_qmp);
    unit_add(suite, "qemu/client/read/too-deep", too_deep);
    unit_add(suite, "qemu/client/read/too-large", too_large);
    unit_add(suite, "qemu/client/read/large", large);
    unit_add(suite, "qemu/client/read/closed", closed);
    return unit_run(suite);
}
