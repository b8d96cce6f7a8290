/* SPDX-License-Identifier: BSD-3-Clause */
/* Channels that are cancelled, and those whose other end, or whose memory, goes away. */
#include "common/cleanup.h"
#include "tests/unit/transport_tools.h"
#include "transports/memory.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

/* ---- cancel ---- */

START_TEST(cancel_accept)
{
    static const char *const listening[] = {"tcp:127.0.0.1:0", "unix:@ferry-unit-accept"};
    for (int i = 0; i < 2; i++) {
        struct canceller canceller;
        struct error *err = NULL;
        struct endpoint *e = parse(listening[i]);
        struct listener *l = endpoint_listen(e, &patient, &err);
        expect_ok(l != NULL, err);
        ck_assert_ptr_null(listener_accept(l, &hasty, &err));
        expect_error(err, "timeout", NULL);
        err = NULL;
        struct wait w = cancel_begin(&canceller, -1, 0);
        ck_assert_ptr_null(listener_accept(l, &w, &err));
        cancel_end(&canceller, err);
        listener_close(l);
        endpoint_free(e);
    }
}
END_TEST

/* Callers that nobody accepts, until the backlog is full. */
static int fill_backlog(struct endpoint *e, struct channel *callers[8])
{
    int n = 0;
    while (n < 8 && (callers[n] = endpoint_connect(e, &hasty, NULL))) {
        n++;
    }
    ck_assert_int_lt(n, 8);
    return n;
}

START_TEST(cancel_connect)
{
    static const char *const listening[] = {"tcp:127.0.0.1:0", "unix:@ferry-unit-connect"};
    for (int i = 0; i < 2; i++) {
        struct canceller canceller;
        struct channel *callers[8];
        struct error *err = NULL;
        struct endpoint *in = parse(listening[i]);
        struct listener *l = endpoint_listen(in, &patient, &err);
        expect_ok(l != NULL, err);
        struct endpoint *out = parse(listener_address(l));
        int n = fill_backlog(out, callers);
        struct wait w = cancel_begin(&canceller, -1, 0);
        ck_assert_ptr_null(endpoint_connect(out, &w, &err));
        cancel_end(&canceller, err);
        while (n--) {
            channel_close(callers[n]);
        }
        listener_close(l);
        endpoint_free(in);
        endpoint_free(out);
    }
}
END_TEST

START_TEST(cancel_read)
{
    struct canceller canceller;
    struct channel *ends[2];
    struct error *err = NULL;
    char byte;
    int fds[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    pair_of_fds(ends, fds);
    ck_assert_int_eq(channel_read(ends[0], &byte, 1, &hasty, &err), -1);
    expect_error(err, "timeout", NULL);
    err = NULL;
    struct wait w = cancel_begin(&canceller, -1, 0);
    ck_assert_int_eq(channel_read(ends[0], &byte, 1, &w, &err), -1);
    cancel_end(&canceller, err);
    channel_close(ends[0]);
    channel_close(ends[1]);
}
END_TEST

/* Cancelled in the middle: the first bytes have come by then. */
static void expect_cancelled_write(int fds[2])
{
    struct canceller canceller;
    struct channel *ends[2];
    struct error *err = NULL;
    size_t size = 64 << 20;
    char *bytes = calloc(1, size);
    struct iovec iov = {.iov_base = bytes, .iov_len = size};
    pair_of_fds(ends, fds);
    struct wait w = cancel_begin(&canceller, fds[0], POLLIN);
    ck_assert(!channel_write(ends[1], &iov, 1, &w, &err));
    cancel_end(&canceller, err);
    channel_close(ends[0]);
    channel_close(ends[1]);
    free(bytes);
}

START_TEST(cancel_write)
{
    int fds[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    expect_cancelled_write(fds);
    ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
    expect_cancelled_write(fds);
}
END_TEST

/* ---- what goes wrong ---- */

static void expect_closed_peer(struct channel *ends[2])
{
    struct error *err = NULL;
    channel_close(ends[0]);
    while (write_text(ends[1], "anybody there?", &patient, &err)) {
    }
    expect_error(err, "channel-closed", NULL);
    channel_close(ends[1]);
}

/* Nothing here ignores SIGPIPE, whose default is the end of the process. */
START_TEST(closed_peer)
{
    struct channel *ends[2];
    int fds[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    pair_of_fds(ends, fds);
    expect_closed_peer(ends);
    memory_pair(100, ends);
    expect_closed_peer(ends);
}
END_TEST

START_TEST(closed_pipe)
{
    struct channel *ends[2];
    int fds[2];
    signal(SIGPIPE, SIG_IGN); /* as the daemon does */
    ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
    pair_of_fds(ends, fds);
    expect_closed_peer(ends);
}
END_TEST

/* Two pages, the second of which is not there any more. */
static uint8_t *vanished(void)
{
    CLEANUP_CLOSE int fd = file_new(2);
    uint8_t *map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(map, MAP_FAILED);
    ck_assert_int_eq(ftruncate(fd, PAGE), 0);
    return map;
}

static void expect_vanished(struct channel *ends[2])
{
    struct error *err = NULL;
    uint8_t *map = vanished();
    char first[] = "first";
    struct iovec iov[] = {{.iov_base = first, .iov_len = 5},
                          {.iov_base = map, .iov_len = 2 * PAGE}};
    ck_assert(!channel_write(ends[1], iov, 2, &patient, &err));
    expect_error(err, "ram-vanished", NULL);
    munmap(map, 2 * PAGE);
    channel_close(ends[0]);
    channel_close(ends[1]);
}

/* Over each kind of channel that leaves the copying to the kernel. */
static void with_each_pair(void (*expect)(struct channel *ends[2]))
{
    struct channel *ends[2];
    int fds[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    pair_of_fds(ends, fds);
    expect(ends);
    ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
    pair_of_fds(ends, fds);
    expect(ends);
    memory_pair(1 << 16, ends);
    expect(ends);
}

START_TEST(vanished_memory)
{
    with_each_pair(expect_vanished);
}
END_TEST

static void expect_no_room(struct channel *ends[2])
{
    struct error *err = NULL;
    uint8_t *map = vanished();
    char bytes[] = "bytes";
    struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
    ck_assert(ends[0]->ops->in_place);
    expect_ok(channel_write(ends[1], &iov, 1, &patient, &err), err);
    ck_assert_int_eq(channel_read(ends[0], map + PAGE, PAGE, &patient, &err), -1);
    expect_error(err, "ram-vanished", NULL);
    munmap(map, 2 * PAGE);
    channel_close(ends[0]);
    channel_close(ends[1]);
}

START_TEST(read_into_vanished_memory)
{
    with_each_pair(expect_no_room);
}
END_TEST

/* Empty pieces, and none at all, are written at once. */
START_TEST(empty_writes)
{
    struct channel *ends[2];
    struct error *err = NULL;
    int fds[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    pair_of_fds(ends, fds);
    struct iovec iov[] = {{0}, {.iov_base = (void *)"a", .iov_len = 1}, {0}};
    expect_ok(channel_write(ends[0], iov, 3, &hasty, &err), err);
    expect_text(ends[1], "a");
    expect_ok(channel_write(ends[0], iov, 0, &hasty, &err), err);
    ck_assert(!channel_readable(ends[1]));
    channel_close(ends[0]);
    channel_close(ends[1]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("breaks");
    unit_add(suite, "transports/cancel/accept", cancel_accept);
    unit_add(suite, "transports/cancel/connect", cancel_connect);
    unit_add(suite, "transports/cancel/read", cancel_read);
    unit_add(suite, "transports/cancel/write", cancel_write);
    unit_add(suite, "transports/channel/closed-peer", closed_peer);
    unit_add(suite, "transports/channel/closed-pipe", closed_pipe);
    unit_add(suite, "transports/channel/vanished-memory", vanished_memory);
    unit_add(suite, "transports/channel/read-into-vanished-memory", read_into_vanished_memory);
    unit_add(suite, "transports/channel/empty-writes", empty_writes);
    return unit_run(suite);
}
