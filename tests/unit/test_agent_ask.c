/* SPDX-License-Identifier: BSD-3-Clause */
/* The main thread's requests, which do not wait. */
#include "tests/unit/agent_stage.h"

#include <errno.h>

START_TEST(async)
{
    static const struct {
        enum guest_request request;
        uint32_t type;
    } rows[] = {
        {GUEST_ASK_PAUSE, WIRE_STOP},          {GUEST_ASK_CONTINUE, WIRE_RESUME},
        {GUEST_ASK_TAKE_BACK, WIRE_TAKE_BACK}, {GUEST_ASK_RESUME, WIRE_RESUME},
        {GUEST_ASK_RELEASE, WIRE_RELEASE},
    };
    struct stage s;
    agent_stage_attach(&s);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct outcome o = {0};
        agent_ask(s.g, rows[i].request, PATIENCE_MS, note_outcome, &o);
        struct wire_message m = vmm_receive(&s, rows[i].type, NULL);
        if (rows[i].type == WIRE_RESUME || rows[i].type == WIRE_STOP) {
            ck_assert_uint_eq(m.body.resume.migration, rows[i].request == GUEST_ASK_RESUME);
        }
        ck_assert_uint_eq(o.calls, 0);
        vmm_reply(&s, m.head.seq, 0, GUEST_RUNNING, "");
        expect_read(&s);
        ck_assert_uint_eq(o.calls, 1);
        ck_assert_ptr_null(o.err);
    }
    agent_stage_close(&s);
}
END_TEST

START_TEST(announce)
{
    struct stage s;
    struct outcome o = {0};
    agent_stage_attach(&s);
    ck_assert(!s.g->can_announce);
    agent_stage_close(&s);
    agent_stage_open(&s);
    struct wire_hello hello = good_hello();
    hello.features |= WIRE_FEATURE_ANNOUNCE;
    introduce(&s, hello);
    expect_read(&s);
    vmm_receive(&s, WIRE_WELCOME, NULL);
    ck_assert(s.g->can_announce);
    agent_announce(s.g, &some_rounds, PATIENCE_MS, note_outcome, &o);
    struct wire_message m = vmm_receive(&s, WIRE_ANNOUNCE, NULL);
    ck_assert_uint_eq(m.body.announce.initial, some_rounds.initial);
    ck_assert_uint_eq(m.body.announce.step, some_rounds.step);
    vmm_reply(&s, m.head.seq, -EINVAL, GUEST_RUNNING, "no network");
    expect_read(&s);
    expect_error(o.err, "guest-refused", "asked to announce the guest: no network");
    agent_stage_close(&s);
}
END_TEST

START_TEST(async_out_of_order)
{
    struct stage s;
    struct outcome first = {0}, second = {0};
    agent_stage_attach(&s);
    agent_ask(s.g, GUEST_ASK_PAUSE, PATIENCE_MS, note_outcome, &first);
    agent_ask(s.g, GUEST_ASK_CONTINUE, PATIENCE_MS, note_outcome, &second);
    uint64_t seq = vmm_receive(&s, WIRE_STOP, NULL).head.seq;
    ck_assert_uint_eq(vmm_receive(&s, WIRE_RESUME, NULL).head.seq, seq + 1);
    vmm_reply(&s, seq + 1, -EIO, GUEST_RUNNING, "stuck");
    expect_read(&s);
    ck_assert_uint_eq(first.calls, 0);
    ck_assert_uint_eq(second.calls, 1);
    expect_error(second.err, "guest-refused", "asked to resume the guest: stuck");
    vmm_reply(&s, seq, 0, GUEST_PAUSED, "");
    vmm_reply(&s, seq, 0, GUEST_PAUSED, ""); /* twice */
    expect_read(&s);
    ck_assert_uint_eq(first.calls, 1);
    ck_assert_ptr_null(first.err);
    agent_stage_close(&s);
}
END_TEST

START_TEST(async_expires)
{
    struct stage s;
    struct outcome now = {0}, later = {0};
    agent_stage_attach(&s);
    agent_ask(s.g, GUEST_ASK_PAUSE, 0, note_outcome, &now);
    agent_ask(s.g, GUEST_ASK_CONTINUE, PATIENCE_MS, note_outcome, &later);
    agent_expire(s.g);
    ck_assert_uint_eq(now.calls, 1);
    expect_error(now.err, "guest-timeout", "asked to stop the guest");
    ck_assert_uint_eq(later.calls, 0);
    vmm_reply(&s, vmm_receive(&s, WIRE_STOP, NULL).head.seq, 0, GUEST_PAUSED, ""); /* too late */
    expect_read(&s);
    ck_assert_uint_eq(now.calls, 1);
    ck_assert_int_eq(guest_get_state(s.g), GUEST_PAUSED);
    agent_lost(s.g);
    ck_assert_uint_eq(later.calls, 1);
    expect_error(later.err, "guest-lost", NULL);
    struct outcome after = {0};
    agent_ask(s.g, GUEST_ASK_PAUSE, PATIENCE_MS, note_outcome, &after);
    ck_assert_uint_eq(after.calls, 1);
    expect_error(after.err, "guest-lost", NULL);
    agent_stage_close(&s);
}
END_TEST

/* The main thread does not wait for a VMM that does not read. */
START_TEST(async_full_socket)
{
    static struct outcome outcomes[10000];
    struct stage s;
    size_t n = 0;
    agent_stage_attach(&s);
    do {
        ck_assert_uint_lt(n, sizeof(outcomes) / sizeof(outcomes[0]));
        agent_ask(s.g, GUEST_ASK_PAUSE, PATIENCE_MS, note_outcome, &outcomes[n++]);
    } while (!outcomes[n - 1].calls);
    expect_error(outcomes[n - 1].err, "guest-timeout", "takes no requests");
    agent_lost(s.g);
    for (size_t i = 0; i < n - 1; i++) {
        ck_assert_uint_eq(outcomes[i].calls, 1);
        expect_error(outcomes[i].err, "guest-lost", NULL);
    }
    agent_stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/agent/ask");
    unit_add(suite, "guest/agent/ask/all", async);
    unit_add(suite, "guest/agent/ask/announce", announce);
    unit_add(suite, "guest/agent/ask/out-of-order", async_out_of_order);
    unit_add(suite, "guest/agent/ask/expires", async_expires);
    unit_add(suite, "guest/agent/ask/full-socket", async_full_socket);
    return unit_run(suite);
}
