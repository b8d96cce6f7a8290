/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The rounds of announcing.  Where all of them are due at once, each turn of the library's loop
 * does one: so after some requests have been answered, none is left.
 */
#include "common/cleanup.h"
#include "tests/unit/libferry_stage.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#define AT_ONCE(count)                                                                             \
    {                                                                                              \
        .rounds = (count), .step = 1                                                               \
    }
#define MANY 10 /* more turns than a test has rounds */

static const struct wire_announce one = AT_ONCE(1), two = AT_ONCE(2);
/* The second one would come in more than a minute. */
static const struct wire_announce slow = {.initial = 100000, .max = 100000, .rounds = 9, .step = 1};

/* As many turns of the loop as do all rounds that are due at once. */
static void let_turn(struct stage *s, enum ferry_guest_state state)
{
    for (int i = 0; i < MANY; i++) {
        expect_done(&s->d, WIRE_LOG_STOP, NULL, -1, state);
    }
}

/* An incoming guest whose state is loaded. */
static void open_loaded(struct stage *s)
{
    CLEANUP_CLOSE int state = memfd_create("state", MFD_CLOEXEC);
    lib_stage_open(s, true);
    expect_done(&s->d, WIRE_LOAD, NULL, state, FERRY_GUEST_INCOMING);
}

/* All rounds, and after the resume. */
START_TEST(arrival)
{
    static const struct wire_start start = {.announce = AT_ONCE(5)};
    struct stage s;
    open_loaded(&s);
    expect_done(&s.d, WIRE_START, &start, -1, FERRY_GUEST_RUNNING);
    let_turn(&s, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "load_state resume announce announce announce announce announce");
    lib_stage_close(&s);
}
END_TEST

START_TEST(no_rounds)
{
    struct stage s;
    open_loaded(&s);
    expect_done(&s.d, WIRE_START, &start_running, -1, FERRY_GUEST_RUNNING);
    let_turn(&s, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "load_state resume");
    lib_stage_close(&s);
}
END_TEST

/* START is answered before the first one: they are no part of the downtime. */
START_TEST(answered_first)
{
    static const struct wire_start start = {.announce = AT_ONCE(1)};
    struct stage s;
    open_loaded(&s);
    s.v.blocking = "announce";
    expect_done(&s.d, WIRE_START, &start, -1, FERRY_GUEST_RUNNING);
    await_blocked(&s.v);
    let_go_on(&s.v);
    lib_stage_close(&s);
}
END_TEST

/* With pauses, which grow, and nobody asking anything meanwhile. */
START_TEST(by_itself)
{
    static const struct wire_start start = {
        .announce = {.initial = 1, .max = 3, .rounds = 5, .step = 1}};
    struct stage s;
    open_loaded(&s);
    expect_done(&s.d, WIRE_START, &start, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "load_state resume announce announce announce announce announce");
    lib_stage_close(&s);
}
END_TEST

START_TEST(goes_on_without_ferryd)
{
    static const struct wire_start start = {.announce = AT_ONCE(4)};
    struct stage s;
    open_loaded(&s);
    s.v.blocking = "announce";
    expect_done(&s.d, WIRE_START, &start, -1, FERRY_GUEST_RUNNING);
    await_blocked(&s.v);
    fd_close(&s.d.sock);
    fd_close(&s.d.listener); /* and there is none to connect to */
    let_go_on(&s.v);
    expect_calls(&s.v, "load_state resume announce announce announce announce");
    lib_stage_close(&s);
}
END_TEST

START_TEST(paused_arrival)
{
    static const struct wire_start start = {.paused = 1, .announce = AT_ONCE(2)};
    struct stage s;
    open_loaded(&s);
    expect_done(&s.d, WIRE_START, &start, -1, FERRY_GUEST_PAUSED);
    let_turn(&s, FERRY_GUEST_PAUSED);
    expect_calls(&s.v, "load_state");
    expect_done(&s.d, WIRE_RESUME, &cont_request, -1, FERRY_GUEST_RUNNING);
    let_turn(&s, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "resume announce announce");
    expect_done(&s.d, WIRE_STOP, &pause_request, -1, FERRY_GUEST_PAUSED);
    expect_done(&s.d, WIRE_RESUME, &cont_request, -1, FERRY_GUEST_RUNNING);
    let_turn(&s, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "stop resume"); /* the first time only */
    lib_stage_close(&s);
}
END_TEST

START_TEST(resumed_by_its_vmm)
{
    static const struct wire_start start = {.paused = 1, .announce = AT_ONCE(2)};
    struct stage s;
    open_loaded(&s);
    expect_done(&s.d, WIRE_START, &start, -1, FERRY_GUEST_PAUSED);
    ck_assert_int_eq(ferry_guest_running(s.f), 0);
    expect_calls(&s.v, "load_state announce announce");
    lib_stage_close(&s);
}
END_TEST

START_TEST(asked_for)
{
    struct stage s;
    lib_stage_open(&s, false);
    expect_done(&s.d, WIRE_ANNOUNCE, &two, -1, FERRY_GUEST_RUNNING);
    let_turn(&s, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "announce announce");
    expect_done(&s.d, WIRE_STOP, &pause_request, -1, FERRY_GUEST_PAUSED);
    expect_refusal(&s.d, WIRE_ANNOUNCE, &two, -1, -EINVAL, "does not run here");
    expect_calls(&s.v, "stop");
    lib_stage_close(&s);
}
END_TEST

START_TEST(replaced)
{
    struct stage s;
    lib_stage_open(&s, false);
    expect_done(&s.d, WIRE_ANNOUNCE, &slow, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "announce");
    expect_done(&s.d, WIRE_ANNOUNCE, &two, -1, FERRY_GUEST_RUNNING);
    let_turn(&s, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "announce announce");
    lib_stage_close(&s);
}
END_TEST

/* The stop comes while the first of two rounds is under way: there is no second one. */
START_TEST(ended_by_a_stop)
{
    struct stage s;
    lib_stage_open(&s, false);
    s.v.blocking = "announce";
    expect_done(&s.d, WIRE_ANNOUNCE, &two, -1, FERRY_GUEST_RUNNING);
    await_blocked(&s.v);
    ck_assert_int_eq(wire_send(s.d.sock, WIRE_STOP, 0, &migration_stop, -1), 0);
    let_go_on(&s.v);
    await_message(&s.d, WIRE_REPLY, NULL);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_RUNNING);
    let_turn(&s, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "announce stop resume");
    expect_done(&s.d, WIRE_ANNOUNCE, &one, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "announce");
    lib_stage_close(&s);
}
END_TEST

/* Pauses that no sum of 32 bits could hold: nothing wraps around. */
START_TEST(huge_pauses)
{
    static const struct wire_announce endless = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX};
    struct stage s;
    lib_stage_open(&s, false);
    expect_done(&s.d, WIRE_ANNOUNCE, &endless, -1, FERRY_GUEST_RUNNING);
    let_turn(&s, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "announce");
    lib_stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/libferry/announce");
    unit_add(suite, "guest/libferry/announce/arrival", arrival);
    unit_add(suite, "guest/libferry/announce/no-rounds", no_rounds);
    unit_add(suite, "guest/libferry/announce/answered-first", answered_first);
    unit_add(suite, "guest/libferry/announce/by-itself", by_itself);
    unit_add(suite, "guest/libferry/announce/goes-on-without-ferryd", goes_on_without_ferryd);
    unit_add(suite, "guest/libferry/announce/paused-arrival", paused_arrival);
    unit_add(suite, "guest/libferry/announce/resumed-by-its-vmm", resumed_by_its_vmm);
    unit_add(suite, "guest/libferry/announce/asked-for", asked_for);
    unit_add(suite, "guest/libferry/announce/replaced", replaced);
    unit_add(suite, "guest/libferry/announce/ended-by-a-stop", ended_by_a_stop);
    unit_add(suite, "guest/libferry/announce/huge-pauses", huge_pauses);
    return unit_run(suite);
}
