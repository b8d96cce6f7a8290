/* SPDX-License-Identifier: BSD-3-Clause */
/* A connection that is lost, and a handle that is freed. */
#include "common/cleanup.h"
#include "tests/unit/libferry_stage.h"

#include <errno.h>
#include <unistd.h>

/* ---- a lost connection ---- */

START_TEST(lost_while_stopped)
{
    struct stage s;
    struct wire_throttle percent = {.percent = 30};
    lib_stage_open(&s, false);
    expect_done(&s.d, WIRE_THROTTLE, &percent, -1, FERRY_GUEST_RUNNING);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    reconnect(&s);
    expect_calls(&s.v, "throttle=30 stop throttle=0 resume");
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_RUNNING);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    lib_stage_close(&s);
}
END_TEST

START_TEST(lost_while_paused)
{
    struct stage s;
    lib_stage_open(&s, false);
    expect_done(&s.d, WIRE_STOP, &pause_request, -1, FERRY_GUEST_PAUSED);
    reconnect(&s);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_PAUSED);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    reconnect(&s);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_PAUSED);
    expect_calls(&s.v, "stop stop"); /* and never a resume */
    lib_stage_close(&s);
}
END_TEST

START_TEST(lost_while_given_away)
{
    struct stage s;
    lib_stage_open(&s, false);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_GIVE_AWAY, &give_away, -1, FERRY_GUEST_GIVEN_AWAY);
    reconnect(&s);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_GIVEN_AWAY);
    ck_assert_uint_eq(s.d.hello.released, 0);
    ck_assert_mem_eq(s.d.hello.job, give_away.job, WIRE_UUID_SIZE);
    expect_calls(&s.v, "stop");
    /* An operator's word brings it back. */
    expect_done(&s.d, WIRE_TAKE_BACK, NULL, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "resume");
    lib_stage_close(&s);
}
END_TEST

/* Lost while a callback runs: what was asked is done, and undone. */
START_TEST(lost_in_a_callback)
{
    struct stage s;
    lib_stage_open(&s, false);
    s.v.blocking = "stop";
    ck_assert_int_eq(wire_send(s.d.sock, WIRE_STOP, 1, &migration_stop, -1), 0);
    await_blocked(&s.v);
    fd_close(&s.d.sock);
    let_go_on(&s.v);
    take_introduction(&s.d, s.fds);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "stop resume");
    lib_stage_close(&s);
}
END_TEST

/* ---- the end ---- */

static void *free_it(void *arg)
{
    ferry_free(arg);
    return NULL;
}

START_TEST(free_in_a_callback)
{
    struct stage s;
    pthread_t thread;
    lib_stage_open(&s, false);
    s.v.blocking = "stop";
    ck_assert_int_eq(wire_send(s.d.sock, WIRE_STOP, 1, &migration_stop, -1), 0);
    await_blocked(&s.v);
    pthread_create(&thread, NULL, free_it, s.f);
    let_go_on(&s.v);
    pthread_join(thread, NULL);
    s.f = NULL;
    expect_calls(&s.v, "stop resume"); /* what ferryd can't undo any more */
    lib_stage_close(&s);
}
END_TEST

START_TEST(free_unwelcomed)
{
    struct stage s;
    lib_stage_make(&s, false, &all_ops);
    ck_assert_int_eq(ferry_start(s.f), 0);
    take_introduction(&s.d, s.fds);
    ferry_free(s.f);
    s.f = NULL;
    expect_lost(&s.d);
    lib_stage_close(&s);
}
END_TEST

START_TEST(free_unconnected)
{
    struct stage s;
    lib_stage_make(&s, false, &all_ops);
    close(s.d.listener);
    s.d.listener = -1;
    ck_assert_int_eq(ferry_start(s.f), 0);
    lib_stage_close(&s);
}
END_TEST

START_TEST(free_unstarted)
{
    struct stage s;
    lib_stage_make(&s, false, &all_ops);
    lib_stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/libferry/lost");
    unit_add(suite, "guest/libferry/lost/stopped", lost_while_stopped);
    unit_add(suite, "guest/libferry/lost/paused", lost_while_paused);
    unit_add(suite, "guest/libferry/lost/given-away", lost_while_given_away);
    unit_add(suite, "guest/libferry/lost/in-a-callback", lost_in_a_callback);
    unit_add(suite, "guest/libferry/free/in-a-callback", free_in_a_callback);
    unit_add(suite, "guest/libferry/free/unwelcomed", free_unwelcomed);
    unit_add(suite, "guest/libferry/free/unconnected", free_unconnected);
    unit_add(suite, "guest/libferry/free/unstarted", free_unstarted);
    return unit_run(suite);
}
