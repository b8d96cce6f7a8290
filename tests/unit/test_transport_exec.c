/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/cleanup.h"
#include "common/clock.h"
#include "tests/unit/transport_tools.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static struct channel *run_for_writing(const char *uri)
{
    struct error *err = NULL;
    struct endpoint *e = parse(uri);
    struct channel *c = endpoint_connect(e, &patient, &err);
    expect_ok(c != NULL, err);
    ck_assert(!c->two_way);
    endpoint_free(e);
    return c;
}

static struct channel *run_for_reading(const char *uri)
{
    struct error *err = NULL;
    struct endpoint *e = parse(uri);
    struct listener *l = endpoint_listen(e, &patient, &err);
    expect_ok(l != NULL, err);
    struct channel *c = listener_accept(l, &patient, &err);
    expect_ok(c != NULL, err);
    listener_close(l);
    endpoint_free(e);
    return c;
}

START_TEST(exec_out_and_in)
{
    char uri[PATH_ROOM], path[PATH_ROOM];
    struct error *err = NULL;
    make_folder();
    struct channel *c = run_for_writing(in_folder(uri, "exec:cat >", "f"));
    expect_ok(write_text(c, "kept", &patient, &err), err);
    expect_ok(channel_finish(c, &patient, &err), err);
    channel_close(c);
    c = run_for_reading(in_folder(uri, "exec:cat ", "f"));
    expect_text(c, "kept");
    expect_end(c);
    expect_ok(channel_finish(c, &patient, &err), err);
    channel_close(c);
    unlink(in_folder(path, "", "f"));
    remove_folder();
}
END_TEST

static void expect_exec_failure(const char *uri, const char *part)
{
    struct error *err = NULL;
    struct channel *c = run_for_writing(uri);
    ck_assert(!channel_finish(c, &patient, &err));
    expect_error(err, "exec-failed", part);
    channel_close(c);
    c = run_for_reading(uri);
    expect_end(c);
    err = NULL;
    ck_assert(!channel_finish(c, &patient, &err));
    expect_error(err, "exec-failed", part);
    channel_close(c);
}

START_TEST(exec_status)
{
    expect_exec_failure("exec:exit 3", "exited with status 3");
    expect_exec_failure("exec:kill -9 $$", "ended by signal 9");
    expect_exec_failure("exec:/no/such/command 2>/dev/null", "exited with status 127");
}
END_TEST

START_TEST(exec_finish_waits)
{
    struct error *err = NULL;
    struct channel *c = run_for_writing("exec:sleep 1000");
    ck_assert(!channel_finish(c, &hasty, &err));
    expect_error(err, "timeout", "the command");
    channel_close(c);
}
END_TEST

/* A command that outlives its channel is ended, and what it has started too: all of them hold the
 * FIFO open. */
START_TEST(exec_close_kills)
{
    char uri[256], path[PATH_ROOM];
    make_folder();
    in_folder(path, "", "fifo");
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    CLEANUP_CLOSE int fifo = open(path, O_RDONLY | O_NONBLOCK);
    snprintf(uri, sizeof(uri), "exec:exec 3>%s; echo up; sleep 1000 & sleep 1000", path);
    struct channel *c = run_for_reading(uri);
    expect_text(c, "up\n");
    uint64_t start = clock_ns();
    channel_close(c);
    struct error *err = NULL;
    expect_ok(wait_fd(fifo, POLLIN, &patient, &err), err);
    char byte;
    ck_assert_int_eq(read(fifo, &byte, 1), 0);
    ck_assert_uint_lt(clock_ns() - start, 20 * NS_PER_SEC);
    unlink(path);
    remove_folder();
}
END_TEST

/* SIGPIPE's default action is the command's, whatever it is here. */
START_TEST(exec_sigpipe)
{
    struct error *err = NULL;
    signal(SIGPIPE, SIG_IGN);
    struct channel *c = run_for_reading("exec:exec yes");
    expect_text(c, "y\ny\n");
    ck_assert(!channel_finish(c, &patient, &err));
    expect_error(err, "exec-failed", "signal 13");
    channel_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("exec");
    unit_add(suite, "transports/exec/out-and-in", exec_out_and_in);
    unit_add(suite, "transports/exec/status", exec_status);
    unit_add(suite, "transports/exec/finish-waits", exec_finish_waits);
    unit_add(suite, "transports/exec/close-kills", exec_close_kills);
    unit_add(suite, "transports/exec/sigpipe", exec_sigpipe);
    return unit_run(suite);
}
