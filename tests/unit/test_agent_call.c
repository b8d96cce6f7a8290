/* SPDX-License-Identifier: BSD-3-Clause */
/* A job's calls: asked, answered, refused, late, cancelled. */
#include "common/cleanup.h"
#include "tests/unit/agent_stage.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

/* Takes the request of a call that goes well, answers it; the request. */
static struct wire_message exchange(struct stage *s, void (*make)(struct call *c), uint32_t type,
                                    enum guest_state state)
{
    struct call c = {0};
    call_begin(&c, s, make, &patient);
    struct wire_message msg = vmm_receive(s, type, NULL);
    vmm_reply(s, msg.head.seq, 0, state, "");
    expect_read(s);
    call_done(&c);
    ck_assert_int_eq(guest_get_state(s->g), state);
    return msg;
}

START_TEST(simple_calls)
{
    struct stage s;
    agent_stage_attach(&s);
    struct wire_message m = exchange(&s, make_stop, WIRE_STOP, GUEST_STOPPED);
    ck_assert_uint_eq(m.body.stop.migration, 1);
    uint64_t seq = m.head.seq;
    ck_assert_uint_eq(s.changes, 1);
    m = exchange(&s, make_give_away, WIRE_GIVE_AWAY, GUEST_GIVEN_AWAY);
    ck_assert_uint_eq(m.head.seq, seq + 1);
    ck_assert_mem_eq(m.body.give_away.job, "0123456789abcde", 16);
    exchange(&s, make_take_back, WIRE_TAKE_BACK, GUEST_STOPPED);
    m = exchange(&s, make_resume, WIRE_RESUME, GUEST_RUNNING);
    ck_assert_uint_eq(m.body.resume.migration, 1);
    exchange(&s, make_release, WIRE_RELEASE, GUEST_GIVEN_AWAY);
    m = exchange(&s, make_start, WIRE_START, GUEST_PAUSED);
    ck_assert_uint_eq(m.body.start.paused, 1);
    ck_assert_uint_eq(m.body.start.announce.initial, some_rounds.initial);
    ck_assert_uint_eq(m.body.start.announce.max, some_rounds.max);
    ck_assert_uint_eq(m.body.start.announce.rounds, some_rounds.rounds);
    ck_assert_uint_eq(m.body.start.announce.step, some_rounds.step);
    m = exchange(&s, make_log_clear, WIRE_LOG_CLEAR, GUEST_PAUSED);
    ck_assert_uint_eq(m.body.log_clear.block, 1);
    ck_assert_uint_eq(m.body.log_clear.count, 10);
    agent_stage_close(&s);
}
END_TEST

START_TEST(was_paused)
{
    struct stage s;
    struct call c = {0};
    agent_stage_attach(&s);
    call_begin(&c, &s, make_stop, &patient);
    struct wire_reply body = {.state = GUEST_STOPPED, .was_paused = 1};
    vmm_send(&s, WIRE_REPLY, vmm_receive(&s, WIRE_STOP, NULL).head.seq, &body, -1);
    expect_read(&s);
    call_done(&c);
    ck_assert(c.was_paused);
    agent_stage_close(&s);
}
END_TEST

static void refused_with(int status, const char *text, const char *part)
{
    struct stage s;
    struct call c = {0};
    agent_stage_attach(&s);
    call_begin(&c, &s, make_stop, &patient);
    vmm_reply(&s, vmm_receive(&s, WIRE_STOP, NULL).head.seq, status, GUEST_RUNNING, text);
    expect_read(&s);
    call_failed(&c, "guest-refused", part);
    agent_stage_close(&s);
}

START_TEST(refused)
{
    refused_with(-EBUSY, "the disk is stuck", "asked to stop the guest: the disk is stuck");
    refused_with(-ENOSPC, "", "No space left on device");
    refused_with(INT32_MIN + 1, "", "asked to stop the guest");
}
END_TEST

/* A text without an end is cut. */
START_TEST(endless_text)
{
    struct stage s;
    struct call c = {0};
    agent_stage_attach(&s);
    call_begin(&c, &s, make_stop, &patient);
    struct wire_reply body = {.status = -EIO};
    memset(body.text, 'x', sizeof(body.text));
    vmm_send(&s, WIRE_REPLY, vmm_receive(&s, WIRE_STOP, NULL).head.seq, &body, -1);
    expect_read(&s);
    call_failed(&c, "guest-refused", "xxxx");
    agent_stage_close(&s);
}
END_TEST

START_TEST(unknown_replies)
{
    struct stage s;
    struct call c = {0};
    agent_stage_attach(&s);
    vmm_reply(&s, 0, 0, GUEST_RUNNING, "");
    vmm_reply(&s, 77, -EIO, GUEST_RUNNING, "");
    expect_read(&s);
    call_begin(&c, &s, make_stop, &patient);
    uint64_t seq = vmm_receive(&s, WIRE_STOP, NULL).head.seq;
    vmm_reply(&s, seq + 1, -EIO, GUEST_RUNNING, "not this one");
    vmm_reply(&s, UINT64_MAX, -EIO, GUEST_RUNNING, "nor this");
    expect_read(&s);
    vmm_reply(&s, seq, 0, GUEST_STOPPED, "");
    expect_read(&s);
    call_done(&c);
    agent_stage_close(&s);
}
END_TEST

START_TEST(deadline)
{
    static const struct {
        void (*make)(struct call *c);
        uint32_t type;
        const char *part;
    } rows[] = {
        {make_stop, WIRE_STOP, "asked to stop the guest"},
        {make_resume, WIRE_RESUME, "asked to resume the guest"},
        {make_give_away, WIRE_GIVE_AWAY, "asked to give the guest away"},
        {make_log_clear, WIRE_LOG_CLEAR, "asked to clear the dirty log"},
        {make_release, WIRE_RELEASE, "the VMM of guest 'unit'"},
    };
    struct stage s;
    agent_stage_attach(&s);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct call c = {0};
        call_begin(&c, &s, rows[i].make, &hasty);
        vmm_receive(&s, rows[i].type, NULL);
        call_failed(&c, "guest-timeout", rows[i].part);
    }
    agent_stage_close(&s);
}
END_TEST

/* A reply that comes too late tells the state, and does not answer the next request. */
START_TEST(late_reply)
{
    struct stage s;
    struct call c = {0};
    agent_stage_attach(&s);
    call_begin(&c, &s, make_stop, &hasty);
    uint64_t late = vmm_receive(&s, WIRE_STOP, NULL).head.seq;
    call_failed(&c, "guest-timeout", NULL);
    call_begin(&c, &s, make_resume, &patient);
    uint64_t seq = vmm_receive(&s, WIRE_RESUME, NULL).head.seq;
    vmm_reply(&s, late, -EIO, GUEST_STOPPED, "not for this one");
    expect_read(&s);
    ck_assert_int_eq(guest_get_state(s.g), GUEST_STOPPED);
    vmm_reply(&s, seq, 0, GUEST_RUNNING, "");
    expect_read(&s);
    call_done(&c);
    agent_stage_close(&s);
}
END_TEST

START_TEST(cancelled)
{
    struct stage s;
    struct call c = {0};
    uint64_t one = 1;
    CLEANUP_CLOSE int cancel = eventfd(0, EFD_CLOEXEC);
    struct wait w = {.cancel_fd = cancel, .timeout_ms = -1, .what = "nobody"};
    agent_stage_attach(&s);
    call_begin(&c, &s, make_stop, &w);
    vmm_receive(&s, WIRE_STOP, NULL);
    ck_assert_int_eq(write(cancel, &one, sizeof(one)), sizeof(one));
    call_failed(&c, "cancelled", NULL);
    agent_stage_close(&s);
}
END_TEST

START_TEST(lost)
{
    struct stage s;
    struct call c = {0};
    struct error *err = NULL;
    agent_stage_attach(&s);
    call_begin(&c, &s, make_stop, &patient);
    vmm_receive(&s, WIRE_STOP, NULL);
    fd_close(&s.vmm);
    ck_assert(!read_all(&s, &err));
    expect_error(err, "guest-lost", "unit");
    agent_lost(s.g);
    call_failed(&c, "guest-lost", "unit");
    call_begin(&c, &s, make_resume, &patient); /* and from now on at once */
    call_failed(&c, "guest-lost", "unit");
    s.g->ops->log_stop(s.g, &(struct wait){.cancel_fd = -1});
    agent_stage_close(&s);
}
END_TEST

/* It was asked, and nobody knows what came of it: unlike with a refusal. */
START_TEST(start_in_doubt)
{
    struct stage s;
    struct call c = {0};
    agent_stage_attach(&s);
    call_begin(&c, &s, make_start, &patient);
    vmm_reply(&s, vmm_receive(&s, WIRE_START, NULL).head.seq, -EIO, GUEST_INCOMING, "no");
    expect_read(&s);
    call_failed(&c, "guest-refused", "no");
    call_begin(&c, &s, make_start, &hasty);
    vmm_receive(&s, WIRE_START, NULL);
    call_failed(&c, "guest-in-doubt", NULL);
    call_begin(&c, &s, make_start, &patient);
    vmm_receive(&s, WIRE_START, NULL);
    agent_lost(s.g);
    call_failed(&c, "guest-in-doubt", NULL);
    call_begin(&c, &s, make_start, &patient); /* never sent */
    call_failed(&c, "guest-lost", NULL);
    agent_stage_close(&s);
}
END_TEST

START_TEST(notify)
{
    struct stage s;
    agent_stage_attach(&s);
    s.g->ops->notify(s.g, GUEST_MIGRATION_DEVICE, true);
    struct wire_message m = vmm_receive(&s, WIRE_NOTIFY, NULL);
    ck_assert_uint_eq(m.head.seq, 0);
    ck_assert_uint_eq(m.body.notify.status, 4);
    ck_assert_uint_eq(m.body.notify.outgoing, 1);
    s.g->ops->notify(s.g, GUEST_MIGRATION_FAILED, false);
    m = vmm_receive(&s, WIRE_NOTIFY, NULL);
    ck_assert_uint_eq(m.body.notify.status, 6);
    ck_assert_uint_eq(m.body.notify.outgoing, 0);
    fd_close(&s.vmm);
    s.g->ops->notify(s.g, GUEST_MIGRATION_FAILED, false);
    agent_stage_close(&s);
}
END_TEST

/* Nobody waits for a VMM that does not read. */
START_TEST(notify_full_socket)
{
    struct stage s;
    unsigned came = 0;
    struct pollfd p = {.events = POLLIN};
    agent_stage_attach(&s);
    ck_assert_ptr_nonnull(freopen("/dev/null", "w", stderr)); /* each that is dropped is logged */
    for (int i = 0; i < 10000; i++) {
        s.g->ops->notify(s.g, GUEST_MIGRATION_ACTIVE, true);
    }
    p.fd = s.vmm;
    while (poll(&p, 1, 0) > 0) {
        vmm_receive(&s, WIRE_NOTIFY, NULL);
        came++;
    }
    ck_assert(came > 0 && came < 10000);
    agent_stage_close(&s);
}
END_TEST

/* A VMM that does not read is waited for as long as the job may. */
START_TEST(job_full_socket)
{
    struct stage s;
    struct outcome o = {0};
    struct call c = {0};
    agent_stage_attach(&s);
    do {
        agent_ask(s.g, GUEST_ASK_PAUSE, PATIENCE_MS, note_outcome, &o);
    } while (!o.calls);
    call_begin(&c, &s, make_resume, &hasty);
    call_failed(&c, "guest-timeout", "asked to resume the guest");
    fd_close(&s.vmm);
    agent_lost(s.g); /* ends those that are still under way */
    error_free(o.err);
    agent_stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/agent/call");
    unit_add(suite, "guest/agent/call/simple", simple_calls);
    unit_add(suite, "guest/agent/call/was-paused", was_paused);
    unit_add(suite, "guest/agent/call/refused", refused);
    unit_add(suite, "guest/agent/call/endless-text", endless_text);
    unit_add(suite, "guest/agent/call/unknown-replies", unknown_replies);
    unit_add(suite, "guest/agent/call/deadline", deadline);
    unit_add(suite, "guest/agent/call/late-reply", late_reply);
    unit_add(suite, "guest/agent/call/cancelled", cancelled);
    unit_add(suite, "guest/agent/call/lost", lost);
    unit_add(suite, "guest/agent/call/start-in-doubt", start_in_doubt);
    unit_add(suite, "guest/agent/call/notify", notify);
    unit_add(suite, "guest/agent/call/notify-full-socket", notify_full_socket);
    unit_add(suite, "guest/agent/call/full-socket", job_full_socket);
    return unit_run(suite);
}
