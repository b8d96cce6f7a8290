/* SPDX-License-Identifier: BSD-3-Clause */
/* What a VMM tells ferryd by itself. */
#include "common/cleanup.h"
#include "tests/unit/libferry_stage.h"

#include <errno.h>
#include <stdio.h>

static void expect_state(struct stage *s, enum ferry_guest_state state)
{
    ck_assert_uint_eq(await_message(&s->d, WIRE_STATE, NULL).body.state.state, state);
}

START_TEST(paused_and_running)
{
    struct stage s;
    lib_stage_open(&s, false);
    ferry_guest_paused(s.f);
    expect_state(&s, FERRY_GUEST_PAUSED);
    ck_assert_int_eq(ferry_guest_running(s.f), 0);
    expect_state(&s, FERRY_GUEST_RUNNING);
    ck_assert_int_eq(ferry_guest_running(s.f), 0); /* no news */
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    ck_assert_int_eq(ferry_guest_running(s.f), -EBUSY);
    ferry_guest_paused(s.f); /* paused it is when it comes back */
    ck_assert_int_eq(ferry_guest_state(s.f), FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_PAUSED);
    expect_calls(&s.v, "stop");
    lib_stage_close(&s);
}
END_TEST

START_TEST(not_the_vmms_to_run)
{
    struct stage s;
    lib_stage_open(&s, true);
    ck_assert_int_eq(ferry_guest_running(s.f), -EBUSY);
    ferry_guest_paused(s.f);
    ck_assert_int_eq(ferry_guest_state(s.f), FERRY_GUEST_INCOMING);
    lib_stage_close(&s);
    lib_stage_open(&s, false);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_GIVE_AWAY, &give_away, -1, FERRY_GUEST_GIVEN_AWAY);
    ck_assert_int_eq(ferry_guest_running(s.f), -EBUSY);
    ferry_guest_paused(s.f);
    ck_assert_int_eq(ferry_guest_state(s.f), FERRY_GUEST_GIVEN_AWAY);
    lib_stage_close(&s);
}
END_TEST

START_TEST(told_after_the_loss)
{
    struct stage s;
    struct ferry_ops ops = all_ops;
    ops.detached = on_detached;
    lib_stage_make(&s, false, &ops);
    ck_assert_int_eq(ferry_start(s.f), 0);
    take_introduction(&s.d, s.fds);
    welcome(&s.d);
    fd_close(&s.d.sock);
    expect_calls(&s.v, "detached(the connection to ferryd was lost)");
    ferry_guest_paused(s.f);
    take_introduction(&s.d, s.fds);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_PAUSED);
    ferry_guest_shutdown(s.f); /* in the middle of the introduction */
    welcome(&s.d);
    await_message(&s.d, WIRE_SHUTDOWN, NULL);
    lib_stage_close(&s);
}
END_TEST

static void on_migration(void *opaque, enum ferry_migration_status status, bool outgoing)
{
    char call[32];
    snprintf(call, sizeof(call), "%d%s", status, outgoing ? ">" : "<");
    vmm_called(opaque, call);
}

static void notify(struct stage *s, uint32_t status, uint32_t outgoing)
{
    struct wire_notify body = {.status = status, .outgoing = outgoing};
    ck_assert_int_eq(wire_send(s->d.sock, WIRE_NOTIFY, 0, &body, -1), 0);
}

/* In order with requests, without replies; what a later ferryd says is not passed on. */
START_TEST(notified)
{
    struct stage s;
    struct ferry_ops ops = all_ops;
    ops.migration = on_migration;
    lib_stage_make(&s, false, &ops);
    ck_assert_int_eq(ferry_start(s.f), 0);
    take_introduction(&s.d, s.fds);
    welcome(&s.d);
    notify(&s, FERRY_MIGRATION_SETUP, 1);
    notify(&s, FERRY_MIGRATION_ACTIVE, 0);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    notify(&s, 0, 1);
    notify(&s, FERRY_MIGRATION_CANCELLED + 1, 1);
    notify(&s, UINT32_MAX, 1);
    notify(&s, FERRY_MIGRATION_CANCELLED, 1);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "1> 2< stop 8> resume");
    lib_stage_close(&s);
}
END_TEST

/* A VMM that does not want to know. */
START_TEST(notified_in_vain)
{
    struct stage s;
    lib_stage_open(&s, false);
    notify(&s, FERRY_MIGRATION_FAILED, 1);
    expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "");
    lib_stage_close(&s);
}
END_TEST

START_TEST(guest_shutdown)
{
    struct stage s;
    lib_stage_open(&s, false);
    ferry_guest_shutdown(s.f);
    await_message(&s.d, WIRE_SHUTDOWN, NULL);
    expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_RUNNING);
    lib_stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/libferry/news");
    unit_add(suite, "guest/libferry/news/paused-and-running", paused_and_running);
    unit_add(suite, "guest/libferry/news/not-the-vmms-to-run", not_the_vmms_to_run);
    unit_add(suite, "guest/libferry/news/told-after-the-loss", told_after_the_loss);
    unit_add(suite, "guest/libferry/news/notified", notified);
    unit_add(suite, "guest/libferry/news/notified-in-vain", notified_in_vain);
    unit_add(suite, "guest/libferry/news/shutdown", guest_shutdown);
    return unit_run(suite);
}
