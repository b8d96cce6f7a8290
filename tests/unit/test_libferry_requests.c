/* SPDX-License-Identifier: BSD-3-Clause */
/* What ferryd may ask, in and out of order. */
#include "common/cleanup.h"
#include "tests/unit/libferry_stage.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

START_TEST(outgoing)
{
    struct stage s;
    char text[16] = "";
    CLEANUP_CLOSE int state = memfd_create("state", MFD_CLOEXEC);
    lib_stage_open(&s, false);
    struct wire_reply r = expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    ck_assert_uint_eq(r.was_paused, 0);
    expect_done(&s.d, WIRE_SAVE, NULL, state, FERRY_GUEST_STOPPED);
    ck_assert_int_eq(pread(state, text, sizeof(text), 0), 9);
    ck_assert_str_eq(text, "the state");
    expect_done(&s.d, WIRE_GIVE_AWAY, &give_away, -1, FERRY_GUEST_GIVEN_AWAY);
    expect_done(&s.d, WIRE_RELEASE, NULL, -1, FERRY_GUEST_GIVEN_AWAY);
    expect_done(&s.d, WIRE_RELEASE, NULL, -1, FERRY_GUEST_GIVEN_AWAY); /* again: told once */
    expect_calls(&s.v, "stop save_state released");
    expect_refusal(&s.d, WIRE_TAKE_BACK, NULL, -1, -EINVAL, "runs at its destination");
    reconnect(&s);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_GIVEN_AWAY);
    ck_assert_uint_eq(s.d.hello.released, 1);
    ck_assert_mem_eq(s.d.hello.job, give_away.job, WIRE_UUID_SIZE);
    expect_calls(&s.v, "");
    lib_stage_close(&s);
}
END_TEST

START_TEST(taken_back)
{
    struct stage s;
    lib_stage_open(&s, false);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_GIVE_AWAY, &give_away, -1, FERRY_GUEST_GIVEN_AWAY);
    expect_refusal(&s.d, WIRE_RESUME, &migration_resume, -1, -EINVAL, "hands of a migration");
    expect_done(&s.d, WIRE_TAKE_BACK, NULL, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_RUNNING);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "stop resume");
    lib_stage_close(&s);
}
END_TEST

START_TEST(incoming)
{
    struct stage s;
    CLEANUP_CLOSE int state = memfd_create("state", MFD_CLOEXEC);
    ck_assert_int_eq(write(state, "from afar", 9), 9); /* its position is at the end */
    lib_stage_open(&s, true);
    expect_refusal(&s.d, WIRE_START, &start_running, -1, -EINVAL, "no state was loaded");
    expect_done(&s.d, WIRE_LOAD, NULL, state, FERRY_GUEST_INCOMING);
    ck_assert_str_eq(s.v.loaded, "from afar");
    expect_done(&s.d, WIRE_START, &start_running, -1, FERRY_GUEST_RUNNING);
    expect_refusal(&s.d, WIRE_START, &start_running, -1, -EINVAL, "does not wait");
    expect_calls(&s.v, "load_state resume");
    lib_stage_close(&s);
}
END_TEST

START_TEST(incoming_paused)
{
    struct stage s;
    CLEANUP_CLOSE int state = memfd_create("state", MFD_CLOEXEC);
    lib_stage_open(&s, true);
    expect_done(&s.d, WIRE_LOAD, NULL, state, FERRY_GUEST_INCOMING);
    expect_done(&s.d, WIRE_START, &start_paused, -1, FERRY_GUEST_PAUSED);
    expect_calls(&s.v, "load_state");
    expect_done(&s.d, WIRE_RESUME, &cont_request, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "resume");
    lib_stage_close(&s);
}
END_TEST

/* A state whose load has failed, or whose ferryd went away, is not started. */
START_TEST(incoming_fails)
{
    struct stage s;
    CLEANUP_CLOSE int state = memfd_create("state", MFD_CLOEXEC);
    lib_stage_open(&s, true);
    expect_done(&s.d, WIRE_LOAD, NULL, state, FERRY_GUEST_INCOMING);
    make_fail(&s.v, "load_state", -EPROTO, "device 'fan' spins backwards");
    expect_refusal(&s.d, WIRE_LOAD, NULL, state, -EPROTO,
                   "load_state: device 'fan' spins backwards");
    expect_refusal(&s.d, WIRE_START, &start_running, -1, -EINVAL, "no state");
    make_fail(&s.v, NULL, 0, NULL);
    expect_done(&s.d, WIRE_LOAD, NULL, state, FERRY_GUEST_INCOMING);
    reconnect(&s);
    expect_refusal(&s.d, WIRE_START, &start_running, -1, -EINVAL, "no state");
    expect_calls(&s.v, "load_state load_state load_state");
    lib_stage_close(&s);
}
END_TEST

START_TEST(operators_pause)
{
    struct stage s;
    lib_stage_open(&s, false);
    expect_done(&s.d, WIRE_STOP, &pause_request, -1, FERRY_GUEST_PAUSED);
    expect_done(&s.d, WIRE_STOP, &pause_request, -1, FERRY_GUEST_PAUSED);
    expect_calls(&s.v, "stop");
    /* A migration drains its I/O, and leaves it paused. */
    struct wire_reply r = expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    ck_assert_uint_eq(r.was_paused, 1);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_PAUSED);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_PAUSED);
    expect_calls(&s.v, "stop");
    expect_done(&s.d, WIRE_RESUME, &cont_request, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "resume");
    lib_stage_close(&s);
}
END_TEST

struct refusal {
    uint32_t type;
    const void *body;
};

static void expect_refusals(struct stage *s, const struct refusal *refusals, size_t count)
{
    CLEANUP_CLOSE int fd = memfd_create("state", MFD_CLOEXEC);
    for (size_t i = 0; i < count; i++) {
        bool with_fd = refusals[i].type == WIRE_SAVE || refusals[i].type == WIRE_LOAD;
        expect_refusal(&s->d, refusals[i].type, refusals[i].body, with_fd ? fd : -1, -EINVAL, "");
    }
    expect_calls(&s->v, "");
}

START_TEST(out_of_order)
{
    static const struct wire_throttle too_much = {.percent = 100};
    static const struct refusal running[] = {
        {WIRE_SAVE, NULL},
        {WIRE_LOAD, NULL},
        {WIRE_START, &start_running},
        {WIRE_GIVE_AWAY, &give_away},
        {WIRE_TAKE_BACK, NULL},
        {WIRE_RELEASE, NULL},
        {WIRE_LOG_SYNC, NULL},
        {WIRE_THROTTLE, &too_much},
    };
    static const struct refusal stopped[] = {
        {WIRE_STOP, &migration_stop}, {WIRE_STOP, &pause_request},
        {WIRE_RESUME, &cont_request}, {WIRE_LOAD, NULL},
        {WIRE_START, &start_running}, {WIRE_TAKE_BACK, NULL},
        {WIRE_RELEASE, NULL},
    };
    static const struct refusal given_away[] = {
        {WIRE_STOP, &migration_stop},
        {WIRE_STOP, &pause_request},
        {WIRE_RESUME, &cont_request},
        {WIRE_RESUME, &migration_resume},
        {WIRE_SAVE, NULL},
        {WIRE_LOAD, NULL},
        {WIRE_START, &start_running},
        {WIRE_GIVE_AWAY, &give_away},
    };
    struct stage s;
    lib_stage_open(&s, false);
    expect_refusals(&s, running, sizeof(running) / sizeof(running[0]));
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_calls(&s.v, "stop");
    expect_refusals(&s, stopped, sizeof(stopped) / sizeof(stopped[0]));
    expect_done(&s.d, WIRE_GIVE_AWAY, &give_away, -1, FERRY_GUEST_GIVEN_AWAY);
    expect_refusals(&s, given_away, sizeof(given_away) / sizeof(given_away[0]));
    lib_stage_close(&s);
}
END_TEST

START_TEST(out_of_order_incoming)
{
    static const struct refusal refusals[] = {
        {WIRE_STOP, &migration_stop},     {WIRE_STOP, &pause_request}, {WIRE_RESUME, &cont_request},
        {WIRE_RESUME, &migration_resume}, {WIRE_SAVE, NULL},           {WIRE_GIVE_AWAY, &give_away},
        {WIRE_TAKE_BACK, NULL},           {WIRE_RELEASE, NULL},
    };
    struct stage s;
    lib_stage_open(&s, true);
    expect_refusals(&s, refusals, sizeof(refusals) / sizeof(refusals[0]));
    lib_stage_close(&s);
}
END_TEST

START_TEST(without_descriptor)
{
    struct stage s;
    lib_stage_open(&s, false);
    expect_refusal(&s.d, WIRE_LOG_START, NULL, -1, -EBADF, "dirty map");
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_refusal(&s.d, WIRE_SAVE, NULL, -1, -EBADF, "");
    expect_calls(&s.v, "stop");
    lib_stage_close(&s);
}
END_TEST

START_TEST(callbacks_fail)
{
    struct stage s;
    char words[600];
    memset(words, 'w', sizeof(words));
    words[sizeof(words) - 1] = '\0';
    lib_stage_open(&s, false);
    make_fail(&s.v, "stop", -EBUSY, "the disk is stuck");
    expect_refusal(&s.d, WIRE_STOP, &migration_stop, -1, -EBUSY, "stop: the disk is stuck");
    ck_assert_int_eq(ferry_guest_state(s.f), FERRY_GUEST_RUNNING);
    make_fail(&s.v, "stop", -ENOSPC, NULL); /* and not the words from before */
    expect_refusal(&s.d, WIRE_STOP, &migration_stop, -1, -ENOSPC, "stop: No space left on device");
    make_fail(&s.v, "stop", -EIO, words);
    expect_refusal(&s.d, WIRE_STOP, &migration_stop, -1, -EIO, "stop: wwww");
    make_fail(&s.v, NULL, 0, NULL);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    make_fail(&s.v, "resume", -EIO, "no way back");
    expect_refusal(&s.d, WIRE_RESUME, &migration_resume, -1, -EIO, "resume: no way back");
    ck_assert_int_eq(ferry_guest_state(s.f), FERRY_GUEST_STOPPED);
    expect_calls(&s.v, "stop stop stop stop resume");
    make_fail(&s.v, NULL, 0, NULL);
    lib_stage_close(&s);
}
END_TEST

static int on_wakeup(void *opaque)
{
    return vmm_called(opaque, "wakeup");
}

/* Before a migration stops a guest that runs, and at no other stop. */
START_TEST(wakeup)
{
    struct stage s;
    struct ferry_ops ops = all_ops;
    ops.wakeup = on_wakeup;
    lib_stage_make(&s, false, &ops);
    ck_assert_int_eq(ferry_start(s.f), 0);
    take_introduction(&s.d, s.fds);
    welcome(&s.d);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "wakeup stop resume");
    expect_done(&s.d, WIRE_STOP, &pause_request, -1, FERRY_GUEST_PAUSED);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_calls(&s.v, "stop stop");
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_PAUSED);
    expect_done(&s.d, WIRE_RESUME, &cont_request, -1, FERRY_GUEST_RUNNING);
    make_fail(&s.v, "wakeup", -EIO, "it sleeps too well");
    expect_refusal(&s.d, WIRE_STOP, &migration_stop, -1, -EIO, "wakeup: it sleeps too well");
    ck_assert_int_eq(ferry_guest_state(s.f), FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "resume wakeup"); /* and is not stopped */
    lib_stage_close(&s);
}
END_TEST

START_TEST(throttle)
{
    struct stage s;
    struct wire_throttle percent = {.percent = 99};
    lib_stage_open(&s, false);
    expect_done(&s.d, WIRE_THROTTLE, &percent, -1, FERRY_GUEST_RUNNING);
    percent.percent = 0;
    expect_done(&s.d, WIRE_THROTTLE, &percent, -1, FERRY_GUEST_RUNNING);
    fd_close(&s.d.sock);
    take_introduction(&s.d, s.fds);
    expect_calls(&s.v, "throttle=99 throttle=0"); /* nothing to end */
    lib_stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/libferry/requests");
    unit_add(suite, "guest/libferry/requests/outgoing", outgoing);
    unit_add(suite, "guest/libferry/requests/taken-back", taken_back);
    unit_add(suite, "guest/libferry/requests/incoming", incoming);
    unit_add(suite, "guest/libferry/requests/incoming-paused", incoming_paused);
    unit_add(suite, "guest/libferry/requests/incoming-fails", incoming_fails);
    unit_add(suite, "guest/libferry/requests/operators-pause", operators_pause);
    unit_add(suite, "guest/libferry/requests/out-of-order", out_of_order);
    unit_add(suite, "guest/libferry/requests/out-of-order-incoming", out_of_order_incoming);
    unit_add(suite, "guest/libferry/requests/without-descriptor", without_descriptor);
    unit_add(suite, "guest/libferry/requests/callbacks-fail", callbacks_fail);
    unit_add(suite, "guest/libferry/requests/wakeup", wakeup);
    unit_add(suite, "guest/libferry/requests/throttle", throttle);
    return unit_run(suite);
}
