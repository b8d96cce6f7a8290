/* SPDX-License-Identifier: BSD-3-Clause */
/* What a VMM sets up, and how the library introduces it to ferryd. */
#include "common/cleanup.h"
#include "tests/unit/libferry_stage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- what a VMM sets up ---- */

START_TEST(bad_configs)
{
    struct ferry_ops ops = all_ops;
    struct ferry_config good = {.size = sizeof(good), .name = "unit", .ops = &ops}, c;
    struct ferry *f = NULL;
    char name[FERRY_NAME_MAX + 2];
    memset(name, 'n', sizeof(name));
    name[FERRY_NAME_MAX + 1] = '\0';
    c = good;
    c.name = NULL;
    ck_assert_int_eq(ferry_new(&c, &f), -EINVAL);
    c.name = "";
    ck_assert_int_eq(ferry_new(&c, &f), -EINVAL);
    c.name = name;
    ck_assert_int_eq(ferry_new(&c, &f), -EINVAL);
    c = good;
    c.ops = NULL;
    ck_assert_int_eq(ferry_new(&c, &f), -EINVAL);
    c = good;
    c.size = 0;
    ck_assert_int_eq(ferry_new(&c, &f), -EINVAL);
    ops.load_state = NULL;
    ck_assert_int_eq(ferry_new(&good, &f), -EINVAL);
    ops = all_ops;
    ops.size = offsetof(struct ferry_ops, load_state);
    ck_assert_int_eq(ferry_new(&good, &f), -EINVAL);
    ck_assert_ptr_null(f);
    ops = all_ops;
    name[FERRY_NAME_MAX] = '\0';
    good.name = name;
    ck_assert_int_eq(ferry_new(&good, &f), 0);
    ck_assert_int_eq(ferry_start(f), -EINVAL); /* no RAM */
    ferry_free(f);
    ferry_free(NULL);
}
END_TEST

static void expect_block_refused(struct stage *s, struct ferry_ram_block block)
{
    block.size = sizeof(block);
    block.slot = block.slot ? block.slot : FERRY_NO_SLOT;
    ck_assert_int_eq(ferry_add_ram(s->f, &block), -EINVAL);
}

START_TEST(bad_blocks)
{
    struct stage s;
    lib_stage_make(&s, false, &all_ops);
    int fd = s.fds[2];
    uint64_t free_gpa = 1ULL << 40;
    expect_block_refused(&s, (struct ferry_ram_block){.fd = fd, .length = PAGE, .gpa = free_gpa});
    expect_block_refused(
        &s, (struct ferry_ram_block){.name = "", .fd = fd, .length = PAGE, .gpa = free_gpa});
    expect_block_refused(&s, (struct ferry_ram_block){.name = "x", .fd = fd, .gpa = free_gpa});
    expect_block_refused(
        &s, (struct ferry_ram_block){.name = "x", .fd = fd, .length = 100, .gpa = free_gpa});
    expect_block_refused(&s,
                         (struct ferry_ram_block){.name = "x", .fd = fd, .length = PAGE, .gpa = 1});
    expect_block_refused(
        &s, (struct ferry_ram_block){.name = "x", .fd = fd, .length = 2 * PAGE, .gpa = -PAGE});
    expect_block_refused(
        &s, (struct ferry_ram_block){.name = "first", .fd = fd, .length = PAGE, .gpa = free_gpa});
    expect_block_refused(
        &s, (struct ferry_ram_block){.name = "x", .fd = fd, .length = PAGE, .gpa = 5 * PAGE});
    /* A slot needs the address where it is mapped. */
    expect_block_refused(&s,
                         (struct ferry_ram_block){
                             .name = "x", .fd = fd, .length = PAGE, .gpa = free_gpa, .slot = 1});
    struct ferry_ram_block no_file = {.size = sizeof(no_file),
                                      .name = "x",
                                      .fd = -1,
                                      .length = PAGE,
                                      .gpa = free_gpa,
                                      .slot = FERRY_NO_SLOT};
    ck_assert_int_eq(ferry_add_ram(s.f, &no_file), -EBADF);
    lib_stage_close(&s);
}
END_TEST

START_TEST(too_many_blocks)
{
    struct stage s;
    lib_stage_make(&s, false, &all_ops);
    for (unsigned i = 3; i <= FERRY_BLOCKS_MAX; i++) {
        char name[16];
        snprintf(name, sizeof(name), "more%u", i);
        struct ferry_ram_block block = {.size = sizeof(block),
                                        .name = name,
                                        .fd = s.fds[0],
                                        .length = PAGE,
                                        .gpa = (1ULL << 40) + i * PAGE,
                                        .slot = FERRY_NO_SLOT};
        ck_assert_int_eq(ferry_add_ram(s.f, &block), i < FERRY_BLOCKS_MAX ? 0 : -E2BIG);
    }
    lib_stage_close(&s);
}
END_TEST

/* Members that an older VMM's structs lack read as zero. */
START_TEST(older_vmm)
{
    struct stage s;
    struct ferry_ops ops = all_ops;
    ops.size = offsetof(struct ferry_ops, throttle);
    lib_stage_make(&s, false, &ops);
    ck_assert_int_eq(ferry_start(s.f), 0);
    take_introduction(&s.d, s.fds);
    ck_assert_uint_eq(s.d.hello.features & WIRE_FEATURE_THROTTLE, 0);
    welcome(&s.d);
    struct wire_throttle throttle = {.percent = 10};
    expect_refusal(&s.d, WIRE_THROTTLE, &throttle, -1, -EINVAL, "can't throttle");
    ck_assert_uint_eq(s.d.hello.features & WIRE_FEATURE_ANNOUNCE, 0);
    struct wire_announce announce = {.rounds = 1};
    expect_refusal(&s.d, WIRE_ANNOUNCE, &announce, -1, -EINVAL, "can't announce");
    lib_stage_close(&s);
}
END_TEST

START_TEST(started_is_settled)
{
    struct stage s;
    lib_stage_open(&s, false);
    ck_assert_int_eq(ferry_start(s.f), -EALREADY);
    struct ferry_ram_block block = {.size = sizeof(block),
                                    .name = "late",
                                    .fd = s.fds[0],
                                    .length = PAGE,
                                    .gpa = 1ULL << 40,
                                    .slot = FERRY_NO_SLOT};
    ck_assert_int_eq(ferry_add_ram(s.f, &block), -EINVAL);
    ck_assert_int_eq(ferry_set_kvm(s.f, s.fds[0]), -EINVAL);
    lib_stage_close(&s);
}
END_TEST

/* ---- the introduction ---- */

START_TEST(introduction)
{
    struct stage s;
    static const uint8_t no_job[WIRE_UUID_SIZE];
    lib_stage_open(&s, false);
    const struct wire_hello *h = &s.d.hello;
    ck_assert_uint_eq(h->magic, WIRE_MAGIC);
    ck_assert_uint_eq(h->version, WIRE_VERSION);
    ck_assert_uint_eq(h->version_min, WIRE_VERSION_MIN);
    ck_assert_uint_eq(h->features, WIRE_FEATURE_THROTTLE | WIRE_FEATURE_ANNOUNCE);
    ck_assert_uint_eq(h->page_size, 4096);
    ck_assert_uint_eq(h->blocks, 3);
    ck_assert_uint_eq(h->state, FERRY_GUEST_RUNNING);
    ck_assert_uint_eq(h->released, 0);
    ck_assert_mem_eq(h->job, no_job, sizeof(no_job));
    ck_assert_str_eq(h->name, "unit");
    const struct wire_block *b = &s.d.blocks[1];
    ck_assert_str_eq(b->name, "second");
    ck_assert_uint_eq(b->offset, 4 * PAGE);
    ck_assert_uint_eq(b->length, SECOND * PAGE);
    ck_assert_uint_eq(b->gpa, FIRST * PAGE);
    ck_assert_uint_eq(b->has_slot, 0);
    ck_assert_str_eq(s.d.blocks[2].name, "third");
    lib_stage_close(&s);
}
END_TEST

START_TEST(attached_and_detached)
{
    struct stage s;
    struct ferry_ops ops = all_ops;
    ops.attached = on_attached;
    ops.detached = on_detached;
    lib_stage_make(&s, true, &ops);
    ck_assert_int_eq(ferry_start(s.f), 0);
    take_introduction(&s.d, s.fds);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_INCOMING);
    welcome(&s.d);
    expect_calls(&s.v, "attached");
    fd_close(&s.d.sock);
    expect_calls(&s.v, "detached(the connection to ferryd was lost)");
    take_introduction(&s.d, s.fds);
    struct wire_refuse refuse = {.text = "no such luck"};
    ck_assert_int_eq(wire_send(s.d.sock, WIRE_REFUSE, 0, &refuse, -1), 0);
    expect_calls(&s.v, "detached(no such luck)");
    fd_close(&s.d.sock);
    take_introduction(&s.d, s.fds); /* tries again all the same */
    welcome(&s.d);
    expect_calls(&s.v, "attached");
    lib_stage_close(&s);
}
END_TEST

/* Whoever closes without an answer was never attached to. */
START_TEST(no_answer)
{
    struct stage s;
    struct ferry_ops ops = all_ops;
    ops.attached = on_attached;
    ops.detached = on_detached;
    lib_stage_make(&s, false, &ops);
    ck_assert_int_eq(ferry_start(s.f), 0);
    take_introduction(&s.d, s.fds);
    fd_close(&s.d.sock);
    take_introduction(&s.d, s.fds);
    ck_assert_int_eq(wire_send(s.d.sock, WIRE_LOG_SYNC, 1, NULL, -1), 0); /* out of turn */
    expect_lost(&s.d);
    take_introduction(&s.d, s.fds);
    welcome(&s.d);
    expect_calls(&s.v, "attached");
    lib_stage_close(&s);
}
END_TEST

START_TEST(ferryd_comes_later)
{
    struct stage s;
    lib_stage_make(&s, false, &all_ops);
    close(s.d.listener);
    ck_assert_int_eq(unlink(s.d.addr.sun_path), 0);
    ck_assert_int_eq(ferry_start(s.f), 0);
    ferry_guest_paused(s.f); /* wakes it: it looks for its ferryd, which is not there */
    ferryd_listen(&s.d);
    take_introduction(&s.d, s.fds);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_PAUSED);
    welcome(&s.d);
    expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_PAUSED);
    lib_stage_close(&s);
}
END_TEST

START_TEST(nonsense_is_cut_off)
{
    struct stage s;
    lib_stage_open(&s, false);
    struct wire_head head = {.type = 1000, .seq = 1};
    ck_assert_int_eq(send(s.d.sock, &head, sizeof(head), 0), sizeof(head));
    expect_lost(&s.d);
    take_introduction(&s.d, s.fds);
    welcome(&s.d);
    head = (struct wire_head){.type = WIRE_STOP, .length = 0, .seq = 1}; /* without its body */
    ck_assert_int_eq(send(s.d.sock, &head, sizeof(head), 0), sizeof(head));
    expect_lost(&s.d);
    take_introduction(&s.d, s.fds);
    welcome(&s.d);
    expect_refusal(&s.d, WIRE_READY, NULL, -1, -ENOSYS, "does not know");
    expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_RUNNING);
    lib_stage_close(&s);
}
END_TEST

START_TEST(version)
{
    unsigned major, minor, micro;
    ck_assert_int_eq(sscanf(ferry_version(), "%u.%u.%u", &major, &minor, &micro), 3);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/libferry");
    unit_add(suite, "guest/libferry/setup/bad-configs", bad_configs);
    unit_add(suite, "guest/libferry/setup/bad-blocks", bad_blocks);
    unit_add(suite, "guest/libferry/setup/too-many-blocks", too_many_blocks);
    unit_add(suite, "guest/libferry/setup/older-vmm", older_vmm);
    unit_add(suite, "guest/libferry/setup/started-is-settled", started_is_settled);
    unit_add(suite, "guest/libferry/attach/introduction", introduction);
    unit_add(suite, "guest/libferry/attach/told", attached_and_detached);
    unit_add(suite, "guest/libferry/attach/no-answer", no_answer);
    unit_add(suite, "guest/libferry/attach/ferryd-comes-later", ferryd_comes_later);
    unit_add(suite, "guest/libferry/attach/nonsense-is-cut-off", nonsense_is_cut_off);
    unit_add(suite, "guest/libferry/version", version);
    return unit_run(suite);
}
