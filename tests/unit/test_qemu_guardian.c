/* SPDX-License-Identifier: BSD-3-Clause */
#include "qemu/guardian.h"
#include "tests/unit/unit.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_MS 30000

/* QEMU's end of a monitor that a guardian has the other one of; ferryd's is closed with it. */
struct stage {
    struct guardian guardian;
    int ours, qemu;
    char line[4096]; /* what was heard last */
};

static void set_up(struct stage *s)
{
    struct error *err = NULL;
    int ends[2];
    *s = (struct stage){0};
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    s->ours = ends[0];
    s->qemu = ends[1];
    ck_assert(guardian_post(&s->guardian, s->ours, &err));
}

static void entrust(struct stage *s, const char *commands)
{
    json_t *parsed = json_loads(commands, 0, NULL);
    ck_assert_ptr_nonnull(parsed);
    ck_assert(guardian_entrust(&s->guardian, parsed, NULL));
}

/* As when ferryd is killed: its ends of both sockets close. */
static void ferryd_ends(struct stage *s)
{
    guardian_leave(&s->guardian);
    close(s->ours);
}

static void say(const struct stage *s, const char *text)
{
    ck_assert_int_eq(send(s->qemu, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* The next line that QEMU is told; false: the guardian has hung up. */
static bool hear(struct stage *s)
{
    size_t length = 0;
    struct pollfd fd = {.fd = s->qemu, .events = POLLIN};
    while (length == 0 || s->line[length - 1] != '\n') {
        ck_assert_int_eq(poll(&fd, 1, PATIENCE_MS), 1);
        ssize_t n = recv(s->qemu, s->line + length, 1, 0);
        if (n <= 0) {
            return false;
        }
        length += (size_t)n;
        ck_assert_uint_lt(length, sizeof(s->line));
    }
    s->line[length] = '\0';
    return true;
}

static void hear_command(struct stage *s, const char *name)
{
    ck_assert_msg(hear(s), "hung up before %s", name);
    ck_assert_ptr_nonnull(strstr(s->line, name));
    ck_assert_ptr_nonnull(strstr(s->line, "\"id\":\"ferry-guardian\""));
}

#define DONE    "{\"return\": {}, \"id\": \"ferry-guardian\"}\r\n"
#define REFUSED "{\"id\": \"ferry-guardian\", \"error\": {\"class\": \"GenericError\"}}\r\n"
#define EVENT   "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"cancelling\"}}\r\n"

START_TEST(in_order)
{
    struct stage s;
    set_up(&s);
    entrust(&s, "[{\"execute\": \"first\"}, {\"execute\": \"second\", \"arguments\": {\"x\": 1}}]");
    ferryd_ends(&s);
    hear_command(&s, "\"first\"");
    ck_assert_int_eq(s.line[0], '\xff'); /* ferryd may have ended in the midst of a message */
    say(&s, EVENT DONE);
    hear_command(&s, "\"second\"");
    ck_assert_ptr_nonnull(strstr(s.line, "{\"x\":1}"));
    say(&s, DONE);
    ck_assert(!hear(&s));
    close(s.qemu);
}
END_TEST

/* The next one waits until QEMU has done what it refuses now. */
START_TEST(until_done)
{
    struct stage s;
    set_up(&s);
    entrust(&s, "[{\"execute\": \"first\"}, {\"execute\": \"second\"}]");
    ferryd_ends(&s);
    for (int i = 0; i < 3; i++) {
        hear_command(&s, "\"first\"");
        say(&s, REFUSED);
    }
    hear_command(&s, "\"first\"");
    say(&s, DONE);
    hear_command(&s, "\"second\"");
    say(&s, DONE);
    ck_assert(!hear(&s));
    close(s.qemu);
}
END_TEST

/* An answer may come in pieces, behind half a line that was ferryd's to read, and long ones. */
START_TEST(pieces)
{
    static const char answer[] = "\"data\": {}}\r\n" EVENT DONE;
    char event[9000];
    struct stage s;
    set_up(&s);
    entrust(&s, "[{\"execute\": \"first\"}]");
    ferryd_ends(&s);
    hear_command(&s, "\"first\"");
    memset(event, 'x', sizeof(event) - 3);
    memcpy(event + sizeof(event) - 3, "\r\n", 3);
    say(&s, event);
    for (const char *c = answer; *c; c++) {
        say(&s, (const char[]){*c, '\0'});
    }
    ck_assert(!hear(&s));
    close(s.qemu);
}
END_TEST

START_TEST(the_last_one_holds)
{
    struct stage s;
    set_up(&s);
    entrust(&s, "[{\"execute\": \"first\"}]");
    entrust(&s, "[{\"execute\": \"second\"}]");
    ferryd_ends(&s);
    hear_command(&s, "\"second\"");
    say(&s, DONE);
    ck_assert(!hear(&s));
    close(s.qemu);
}
END_TEST

static void nothing(struct stage *s)
{
    (void)s;
}

static void an_empty_one(struct stage *s)
{
    entrust(s, "[{\"execute\": \"first\"}]");
    entrust(s, "[]");
}

static void none_any_more(struct stage *s)
{
    entrust(s, "[{\"execute\": \"first\"}]");
    ck_assert(guardian_entrust(&s->guardian, NULL, NULL));
}

static void too_long(struct stage *s)
{
    struct error *err = NULL;
    char text[20000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    ck_assert(!guardian_entrust(&s->guardian, json_pack("[{s:s}]", "execute", text), &err));
    ck_assert_str_eq(err->code, "system-error");
    error_free(err);
}

static void (*const without[])(struct stage *s) = {nothing, an_empty_one, none_any_more, too_long};

START_TEST(says_nothing)
{
    struct stage s;
    set_up(&s);
    without[_i](&s);
    ferryd_ends(&s);
    ck_assert(!hear(&s));
    close(s.qemu);
}
END_TEST

/* ferryd lives: it has no more use for it. */
START_TEST(ended)
{
    struct stage s;
    set_up(&s);
    entrust(&s, "[{\"execute\": \"first\"}]");
    ck_assert(guardian_is_on(&s.guardian));
    guardian_end(&s.guardian);
    ck_assert(!guardian_is_on(&s.guardian));
    close(s.ours);
    ck_assert(!hear(&s));
    close(s.qemu);
}
END_TEST

/* QEMU has gone as well. */
START_TEST(nobody_hears)
{
    struct stage s;
    set_up(&s);
    entrust(&s, "[{\"execute\": \"first\"}]");
    close(s.qemu);
    ferryd_ends(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qemu/guardian");
    unit_add(suite, "qemu/guardian/in-order", in_order);
    unit_add(suite, "qemu/guardian/until-done", until_done);
    unit_add(suite, "qemu/guardian/pieces", pieces);
    unit_add(suite, "qemu/guardian/the-last-one-holds", the_last_one_holds);
    unit_add_loop(suite, "qemu/guardian/says-nothing", says_nothing,
                  sizeof(without) / sizeof(without[0]));
    unit_add(suite, "qemu/guardian/ended", ended);
    unit_add(suite, "qemu/guardian/nobody-hears", nobody_hears);
    return unit_run(suite);
}
