/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/dirtymap.h"
#include "guest/wire.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* As schema/guest-protocol.md has them. */
_Static_assert(sizeof(struct wire_head) == 16, "head");
_Static_assert(offsetof(struct wire_head, seq) == 8, "head.seq");
_Static_assert(offsetof(struct wire_hello, state) == 24, "hello.state");
_Static_assert(offsetof(struct wire_hello, job) == 32, "hello.job");
_Static_assert(offsetof(struct wire_hello, name) == 48, "hello.name");
_Static_assert(offsetof(struct wire_block, gpa) == 16, "block.gpa");
_Static_assert(offsetof(struct wire_block, name) == 28, "block.name");
_Static_assert(offsetof(struct wire_hello, disks) == 116, "hello.disks");
_Static_assert(offsetof(struct wire_disk, part) == 8, "disk.part");
_Static_assert(offsetof(struct wire_disk, name) == 16, "disk.name");
_Static_assert(offsetof(struct wire_log_clear, first) == 8, "log_clear.first");
_Static_assert(offsetof(struct wire_reply, was_paused) == 8, "reply.was_paused");
_Static_assert(offsetof(struct wire_reply, text) == 12, "reply.text");
_Static_assert(offsetof(struct wire_start, announce) == 4, "start.announce");
_Static_assert(offsetof(struct wire_announce, rounds) == 8, "announce.rounds");
_Static_assert(offsetof(struct wire_blocker, added) == 8, "blocker.added");
_Static_assert(offsetof(struct wire_blocker, text) == 12, "blocker.text");

static const struct {
    uint32_t type;
    int length;
} bodies[] = {
    {WIRE_HELLO, 120},   {WIRE_BLOCK, 96},     {WIRE_READY, 0},      {WIRE_REPLY, 268},
    {WIRE_STATE, 4},     {WIRE_SHUTDOWN, 0},   {WIRE_WELCOME, 4},    {WIRE_REFUSE, 256},
    {WIRE_LOG_START, 0}, {WIRE_LOG_SYNC, 0},   {WIRE_LOG_CLEAR, 24}, {WIRE_LOG_STOP, 0},
    {WIRE_STOP, 4},      {WIRE_RESUME, 4},     {WIRE_SAVE, 0},       {WIRE_LOAD, 0},
    {WIRE_THROTTLE, 4},  {WIRE_GIVE_AWAY, 16}, {WIRE_TAKE_BACK, 0},  {WIRE_RELEASE, 0},
    {WIRE_START, 20},    {WIRE_ANNOUNCE, 16},  {WIRE_NOTIFY, 8},     {WIRE_BLOCKER, 272},
    {WIRE_DISK, 88},
};

#define NBODIES (sizeof(bodies) / sizeof(bodies[0]))

static void open_pair(int ends[2])
{
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
}

static void close_pair(const int ends[2])
{
    close(ends[0]);
    close(ends[1]);
}

START_TEST(lengths)
{
    unsigned known = 0;
    for (size_t i = 0; i < NBODIES; i++) {
        ck_assert_int_eq(wire_body_length(bodies[i].type), bodies[i].length);
    }
    for (uint32_t type = 0; type < 1000; type++) {
        known += wire_body_length(type) >= 0;
    }
    ck_assert_uint_eq(known, NBODIES);
    ck_assert_int_eq(wire_body_length(UINT32_MAX), -1);
}
END_TEST

START_TEST(there_and_back)
{
    int ends[2];
    open_pair(ends);
    for (size_t i = 0; i < NBODIES; i++) {
        struct wire_message msg;
        union wire_body body;
        int passed;
        memset(&body, 0x5a, sizeof(body));
        ck_assert_int_eq(wire_send(ends[0], bodies[i].type, i, &body, i % 2 ? ends[0] : -1), 0);
        ck_assert_int_eq(wire_recv(ends[1], &msg, &passed), 1);
        ck_assert_uint_eq(msg.head.type, bodies[i].type);
        ck_assert_uint_eq(msg.head.seq, i);
        ck_assert_mem_eq(&msg.body, &body, (size_t)bodies[i].length);
        ck_assert_int_eq(passed >= 0, i % 2);
        if (passed >= 0) {
            close(passed);
        }
    }
    close_pair(ends);
}
END_TEST

static void expect_bad(const void *packet, size_t length)
{
    struct wire_message msg;
    int ends[2], passed;
    open_pair(ends);
    ck_assert_int_eq(send(ends[0], packet, length, 0), (ssize_t)length);
    ck_assert_int_eq(wire_recv(ends[1], &msg, &passed), -EBADMSG);
    ck_assert_int_eq(passed, -1);
    close_pair(ends);
}

START_TEST(bad_shapes)
{
    static struct {
        struct wire_message msg;
        uint8_t more[100];
    } packet;
    const size_t head = sizeof(struct wire_head);
    expect_bad(&packet, 1);
    expect_bad(&packet, head - 1);
    expect_bad(&packet, head);           /* type 0 */
    expect_bad(&packet, sizeof(packet)); /* longer than any */
    for (size_t i = 0; i < NBODIES; i++) {
        size_t length = (size_t)bodies[i].length;
        packet.msg.head = (struct wire_head){.type = bodies[i].type, .length = (uint32_t)length};
        if (length) {
            expect_bad(&packet, head + length - 1);
        }
        expect_bad(&packet, head + length + 1);
        packet.msg.head.length++;
        expect_bad(&packet, head + length);
        expect_bad(&packet, head + length + 1);
    }
}
END_TEST

START_TEST(ends)
{
    struct wire_message msg;
    int pair[2], passed;
    open_pair(pair);
    ck_assert_int_eq(fcntl(pair[1], F_SETFL, O_NONBLOCK), 0);
    ck_assert_int_eq(wire_recv(pair[1], &msg, &passed), -EAGAIN);
    close(pair[0]);
    ck_assert_int_eq(wire_recv(pair[1], &msg, &passed), 0);
    ck_assert_int_eq(wire_send(pair[1], WIRE_READY, 0, NULL, -1), -EPIPE); /* and no signal */
    close(pair[1]);
}
END_TEST

/* More than one descriptor is one too many; none of them is kept. */
START_TEST(two_descriptors)
{
    struct wire_head head = {.type = WIRE_READY};
    struct iovec iov = {.iov_base = &head, .iov_len = sizeof(head)};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct msghdr out = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.space,
                         .msg_controllen = sizeof(control.space)};
    struct wire_message msg;
    int pair[2], passed;
    open_pair(pair);
    struct cmsghdr *c = CMSG_FIRSTHDR(&out);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(2 * sizeof(int));
    memcpy(CMSG_DATA(c), pair, sizeof(pair));
    int next = dup(pair[0]);
    close(next);
    ck_assert_int_eq(sendmsg(pair[0], &out, 0), sizeof(head));
    ck_assert_int_eq(wire_recv(pair[1], &msg, &passed), -EBADMSG);
    ck_assert_int_eq(passed, -1);
    int again = dup(pair[0]);
    ck_assert_int_eq(again, next);
    close(again);
    close_pair(pair);
}
END_TEST

START_TEST(map_layout)
{
    /* A bitmap of 32768 pages fills a page of its own, one more page needs a second. */
    static const uint64_t pages[] = {1, 32768, 32769, 64};
    struct dirtymap map;
    struct stat st;
    int fd = dirtymap_create(pages, 4);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_size, 2 * (1 + 1 + 2 + 1) * 4096);
    ck_assert_int_eq(ftruncate(fd, 0), -1);
    ck_assert_int_eq(ftruncate(fd, 1 << 20), -1);
    ck_assert_int_eq(dirtymap_map(&map, fd, pages, 4), 0);
    static const size_t logs[] = {0, 2, 4, 8}, marks[] = {1, 3, 6, 9};
    for (unsigned i = 0; i < 4; i++) {
        ck_assert_ptr_eq(dirtymap_log(&map, pages, i), map.base + logs[i] * 4096);
        ck_assert_ptr_eq(dirtymap_marks(&map, pages, i), map.base + marks[i] * 4096);
    }
    dirtymap_unmap(&map);
    dirtymap_unmap(&map);
    ck_assert_int_eq(dirtymap_map(&map, fd, pages, 3), -EINVAL);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/wire");
    unit_add(suite, "guest/wire/lengths", lengths);
    unit_add(suite, "guest/wire/there-and-back", there_and_back);
    unit_add(suite, "guest/wire/bad-shapes", bad_shapes);
    unit_add(suite, "guest/wire/ends", ends);
    unit_add(suite, "guest/wire/two-descriptors", two_descriptors);
    unit_add(suite, "guest/dirtymap/layout", map_layout);
    return unit_run(suite);
}
