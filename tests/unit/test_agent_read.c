/* SPDX-License-Identifier: BSD-3-Clause */
/* What an attached VMM says unasked, and nonsense. */
#include "common/cleanup.h"
#include "tests/unit/agent_stage.h"

#include <poll.h>
#include <sys/socket.h>

START_TEST(nonsense)
{
    static const uint8_t bytes[WIRE_MESSAGE_MAX];
    static const size_t lengths[] = {1, 15, 16, 17, sizeof(bytes)};
    for (int attached = 0; attached < 2; attached++) {
        for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
            struct stage s;
            struct error *err = NULL;
            (attached ? agent_stage_attach : agent_stage_open)(&s);
            ck_assert_int_eq(send(s.vmm, bytes, lengths[i], 0), (ssize_t)lengths[i]);
            ck_assert(!read_all(&s, &err));
            expect_error(err, "guest-protocol", NULL);
            agent_stage_close(&s);
        }
    }
}
END_TEST

START_TEST(closed)
{
    struct stage s;
    struct error *err = NULL;
    agent_stage_open(&s);
    fd_close(&s.vmm);
    ck_assert(!read_all(&s, &err));
    expect_error(err, "guest-lost", NULL);
    agent_stage_close(&s);
}
END_TEST

/* ---- news ---- */

START_TEST(news)
{
    struct stage s;
    agent_stage_attach(&s);
    struct wire_state state = {.state = GUEST_PAUSED};
    vmm_send(&s, WIRE_STATE, 0, &state, -1);
    vmm_send(&s, WIRE_STATE, 0, &state, -1);
    expect_read(&s);
    ck_assert_uint_eq(s.changes, 1);
    ck_assert_int_eq(s.from, GUEST_RUNNING);
    ck_assert_int_eq(guest_get_state(s.g), GUEST_PAUSED);
    state.state = WIRE_STATES; /* a state from the future */
    vmm_send(&s, WIRE_STATE, 0, &state, -1);
    vmm_send(&s, WIRE_SHUTDOWN, 0, NULL, -1);
    expect_read(&s);
    ck_assert_uint_eq(s.changes, 1);
    ck_assert_uint_eq(s.shut_downs, 1);
    agent_stage_close(&s);
}
END_TEST

START_TEST(too_much_news)
{
    struct stage s;
    struct error *err = NULL;
    unsigned sent = 0;
    agent_stage_attach(&s);
    while (sent < 10000) {
        struct wire_state state = {.state = sent++ & 1};
        vmm_send(&s, WIRE_STATE, 0, &state, -1);
        if (!read_all(&s, &err)) {
            break;
        }
        if (sent == 100) {
            agent_expire(s.g); /* counted anew */
        }
    }
    ck_assert_uint_eq(sent, 100 + 201);
    expect_error(err, "guest-protocol", "too often");
    agent_stage_close(&s);
}
END_TEST

START_TEST(out_of_place)
{
    static const uint32_t types[] = {WIRE_HELLO, WIRE_BLOCK, WIRE_READY, WIRE_WELCOME, WIRE_STOP};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        struct stage s;
        struct error *err = NULL;
        union wire_body body = {0};
        agent_stage_attach(&s);
        vmm_send(&s, types[i], 0, &body, -1);
        ck_assert(!read_all(&s, &err));
        expect_error(err, "guest-protocol", "out of place");
        agent_stage_close(&s);
    }
}
END_TEST

/* A VMM that never stops talking does not keep the main thread. */
START_TEST(reads_are_bounded)
{
    struct stage s;
    struct error *err = NULL;
    agent_stage_attach(&s);
    for (int i = 0; i < 70; i++) {
        vmm_reply(&s, 999, 0, GUEST_RUNNING, "");
    }
    expect_ok(agent_read(s.g, &err), err);
    struct pollfd fd = {.fd = s.sock, .events = POLLIN};
    ck_assert_int_eq(poll(&fd, 1, 0), 1);
    expect_read(&s);
    agent_stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/agent/read");
    unit_add(suite, "guest/agent/read/nonsense", nonsense);
    unit_add(suite, "guest/agent/read/closed", closed);
    unit_add(suite, "guest/agent/read/news", news);
    unit_add(suite, "guest/agent/read/too-much-news", too_much_news);
    unit_add(suite, "guest/agent/read/out-of-place", out_of_place);
    unit_add(suite, "guest/agent/read/bounded", reads_are_bounded);
    return unit_run(suite);
}
