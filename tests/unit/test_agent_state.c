/* SPDX-License-Identifier: BSD-3-Clause */
/* Device state and dirty log, as a job asks for them. */
#include "common/bits.h"
#include "guest/dirtymap.h"
#include "tests/unit/agent_stage.h"

#include <unistd.h>

START_TEST(save_and_load)
{
    struct stage s;
    struct call c = {0};
    char text[8] = "";
    int fd;
    agent_stage_attach(&s);
    call_begin(&c, &s, make_save, &patient);
    uint64_t seq = vmm_receive(&s, WIRE_SAVE, &fd).head.seq;
    ck_assert_int_eq(write(fd, "state", 5), 5);
    close(fd);
    vmm_reply(&s, seq, 0, GUEST_STOPPED, "");
    expect_read(&s);
    call_done(&c);
    ck_assert_int_eq(pread(c.fd, text, sizeof(text), 0), 5);
    ck_assert_str_eq(text, "state");
    call_begin(&c, &s, make_load, &patient);
    seq = vmm_receive(&s, WIRE_LOAD, &fd).head.seq;
    ck_assert_int_eq(pread(fd, text, sizeof(text), 0), 5);
    close(fd);
    vmm_reply(&s, seq, 0, GUEST_INCOMING, "");
    expect_read(&s);
    int state = c.fd;
    call_done(&c);
    close(state);
    agent_stage_close(&s);
}
END_TEST

START_TEST(state_too_large)
{
    struct stage s;
    struct call c = {0};
    int fd;
    agent_stage_attach(&s);
    call_begin(&c, &s, make_save, &patient);
    uint64_t seq = vmm_receive(&s, WIRE_SAVE, &fd).head.seq;
    ck_assert_int_eq(ftruncate(fd, (off_t)WIRE_STATE_MAX + 1), 0);
    close(fd);
    vmm_reply(&s, seq, 0, GUEST_STOPPED, "");
    expect_read(&s);
    call_failed(&c, "state-too-large", "1073741825");
    agent_stage_close(&s);
}
END_TEST

START_TEST(dirty_log)
{
    struct stage s;
    struct call c = {0};
    struct dirtymap map;
    int fd;
    agent_stage_attach(&s);
    call_begin(&c, &s, make_log_start, &patient);
    uint64_t seq = vmm_receive(&s, WIRE_LOG_START, &fd).head.seq;
    ck_assert_int_eq(dirtymap_map(&map, fd, block_pages, 2), 0);
    close(fd);
    vmm_reply(&s, seq, 0, GUEST_RUNNING, "");
    expect_read(&s);
    call_done(&c);
    uint64_t *log = dirtymap_log(&map, block_pages, 0);
    uint64_t *marks = (uint64_t *)dirtymap_marks(&map, block_pages, 1);
    bits_set(log, 3);
    bits_set_range(log, 69, 128); /* and nonsense behind the last page */
    bits_set_range(marks, 9, 64);
    call_begin(&c, &s, make_log_sync, &patient);
    vmm_reply(&s, vmm_receive(&s, WIRE_LOG_SYNC, NULL).head.seq, 0, GUEST_RUNNING, "");
    expect_read(&s);
    call_done(&c);
    ck_assert_uint_eq(c.dirty[0][0], 1 << 3);
    ck_assert_uint_eq(c.dirty[0][1], 1 << (69 - 64));
    ck_assert_uint_eq(c.dirty[1][0], 1 << 9);
    ck_assert_uint_eq(marks[0], 0); /* taken */
    ck_assert_uint_eq(bits_count(log, 0, 70), 2);
    s.g->ops->log_stop(s.g, &(struct wait){.cancel_fd = -1});
    vmm_receive(&s, WIRE_LOG_STOP, NULL);
    dirtymap_unmap(&map);
    agent_stage_close(&s);
}
END_TEST

START_TEST(clear_without_protection)
{
    struct stage s;
    struct call c = {0};
    agent_stage_open(&s);
    struct wire_hello hello = good_hello();
    hello.features = WIRE_FEATURE_KVM_LOG;
    introduce(&s, hello);
    expect_read(&s);
    vmm_receive(&s, WIRE_WELCOME, NULL);
    call_begin(&c, &s, make_log_clear, &patient);
    call_done(&c);
    expect_silence(&s);
    agent_stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/agent/state");
    unit_add(suite, "guest/agent/state/save-and-load", save_and_load);
    unit_add(suite, "guest/agent/state/too-large", state_too_large);
    unit_add(suite, "guest/agent/log/map", dirty_log);
    unit_add(suite, "guest/agent/log/clear-without-protection", clear_without_protection);
    return unit_run(suite);
}
