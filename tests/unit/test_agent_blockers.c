/* SPDX-License-Identifier: BSD-3-Clause */
/* Reasons why a guest may not leave, as ferryd keeps them. */
#include "tests/unit/agent_stage.h"

#include <stdio.h>
#include <string.h>

static struct wire_blocker blocker(uint64_t id, const char *text)
{
    struct wire_blocker b = {.id = id, .added = text != NULL};
    snprintf(b.text, sizeof(b.text), "%s", text ? text : "");
    return b;
}

static void send_blocker(struct stage *s, uint64_t id, const char *text)
{
    struct wire_blocker b = blocker(id, text);
    vmm_send(s, WIRE_BLOCKER, 0, &b, -1);
}

/* The introduction up to its BLOCKERs. */
static void begin(struct stage *s)
{
    struct wire_hello hello = good_hello();
    agent_stage_open(s);
    vmm_send(s, WIRE_HELLO, 0, &hello, -1);
    for (int i = 0; i < 2; i++) {
        struct wire_block block = good_block(i);
        vmm_send(s, WIRE_BLOCK, 0, &block, s->files[i]);
    }
}

START_TEST(introduced)
{
    struct stage s;
    begin(&s);
    send_blocker(&s, 7, "a device in use");
    send_blocker(&s, 3, "another");
    send_blocker(&s, 7, NULL);
    expect_read(&s);
    ck_assert_uint_eq(s.attached, 0);
    vmm_send(&s, WIRE_READY, 0, NULL, -1);
    expect_read(&s);
    ck_assert_uint_eq(s.attached, 1);
    ck_assert_uint_eq(s.g->nblockers, 1);
    ck_assert_str_eq(s.g->blockers[0].reason, "another");
    agent_stage_close(&s);
}
END_TEST

START_TEST(news)
{
    struct stage s;
    agent_stage_attach(&s);
    for (uint64_t id = 1; id <= GUEST_BLOCKERS_MAX; id++) {
        send_blocker(&s, id * 1000, "one of many");
    }
    send_blocker(&s, 3000, NULL);
    send_blocker(&s, UINT64_MAX, "the youngest");
    expect_read(&s);
    ck_assert_uint_eq(s.g->nblockers, GUEST_BLOCKERS_MAX);
    ck_assert_uint_eq(s.g->blockers[1].id, 2000);
    ck_assert_uint_eq(s.g->blockers[2].id, 4000); /* the others keep their order */
    ck_assert_str_eq(s.g->blockers[GUEST_BLOCKERS_MAX - 1].reason, "the youngest");
    agent_stage_close(&s);
}
END_TEST

START_TEST(printable)
{
    struct stage s;
    struct wire_blocker endless = {.id = 2, .added = 1};
    memset(endless.text, 'x', sizeof(endless.text));
    agent_stage_attach(&s);
    send_blocker(&s, 1, "tab\tnewline\n\xff");
    vmm_send(&s, WIRE_BLOCKER, 0, &endless, -1);
    expect_read(&s);
    ck_assert_str_eq(s.g->blockers[0].reason, "tab?newline??");
    ck_assert_uint_eq(strlen(s.g->blockers[1].reason), GUEST_TEXT_SIZE - 1);
    agent_stage_close(&s);
}
END_TEST

/* Whether in the introduction or later. */
static void refused(uint64_t id, const char *text)
{
    for (int attached = 0; attached < 2; attached++) {
        struct stage s;
        struct error *err = NULL;
        (attached ? agent_stage_attach : begin)(&s);
        send_blocker(&s, 1, "there already");
        send_blocker(&s, id, text);
        ck_assert(!read_all(&s, &err));
        expect_error(err, "guest-protocol", "out of place");
        agent_stage_close(&s);
    }
}

START_TEST(not_allowed)
{
    refused(0, "no id");
    refused(2, "");
    refused(1, "twice");
    refused(2, NULL);
    refused(0, NULL);
}
END_TEST

START_TEST(too_many)
{
    struct stage s;
    struct error *err = NULL;
    agent_stage_attach(&s);
    for (uint64_t id = 1; id <= GUEST_BLOCKERS_MAX + 1; id++) {
        send_blocker(&s, id, "one of too many");
    }
    ck_assert(!read_all(&s, &err));
    expect_error(err, "guest-protocol", "16 of at most 16");
    agent_stage_close(&s);
}
END_TEST

START_TEST(too_often)
{
    struct stage s;
    struct error *err = NULL;
    unsigned sent = 0;
    bool ok = true;
    agent_stage_attach(&s);
    while (ok && sent < 10000) {
        send_blocker(&s, 1, sent++ % 2 ? NULL : "on and off");
        ok = read_all(&s, &err);
    }
    ck_assert_uint_eq(sent, 201);
    expect_error(err, "guest-protocol", "too often");
    agent_stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/agent/blockers");
    unit_add(suite, "guest/agent/blockers/introduced", introduced);
    unit_add(suite, "guest/agent/blockers/news", news);
    unit_add(suite, "guest/agent/blockers/printable", printable);
    unit_add(suite, "guest/agent/blockers/not-allowed", not_allowed);
    unit_add(suite, "guest/agent/blockers/too-many", too_many);
    unit_add(suite, "guest/agent/blockers/too-often", too_often);
    return unit_run(suite);
}
