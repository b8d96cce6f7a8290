/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/cleanup.h"
#include "common/clock.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"
#include "transports/memory.h"
#include "transports/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static const struct wait patient = {.cancel_fd = -1, .timeout_ms = 30000, .what = "the test"};
static const struct wait hasty = {.cancel_fd = -1, .timeout_ms = 20, .what = "the test"};

/* A folder for sockets and files; its name is short enough for a socket's. */
static char folder[32];

static void make_folder(void)
{
    strcpy(folder, "/tmp/ferry-unit-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    ck_assert_int_eq(rmdir(folder), 0);
}

#define PATH_ROOM 128

static const char *in_folder(char buf[PATH_ROOM], const char *before, const char *name)
{
    snprintf(buf, PATH_ROOM, "%s%s/%s", before, folder, name);
    return buf;
}

/* The descriptors that fd: finds: one of the name "mine", once. */
static int take_fd(void *opaque, const char *name, struct error **errp)
{
    int *fd = opaque;
    if (strcmp(name, "mine") != 0 || *fd < 0) {
        error_set(errp, "fd-unknown", "no descriptor '%s'", name);
        return -1;
    }
    return fd_steal(fd);
}

static struct endpoint *parse(const char *uri)
{
    int none = -1;
    struct fd_finder finder = {.take = take_fd, .opaque = &none};
    struct error *err = NULL;
    struct endpoint *e = endpoint_parse(uri, &finder, &err);
    expect_ok(e != NULL, err);
    return e;
}

static struct endpoint *parse_fd(int fd)
{
    struct fd_finder finder = {.take = take_fd, .opaque = &fd};
    struct error *err = NULL;
    struct endpoint *e = endpoint_parse("fd:mine", &finder, &err);
    expect_ok(e != NULL, err);
    return e;
}

static bool write_text(struct channel *c, const char *text, const struct wait *w,
                       struct error **errp)
{
    struct iovec iov = {.iov_base = (void *)text, .iov_len = strlen(text)};
    return channel_write(c, &iov, 1, w, errp);
}

/* Reads just that text. */
static void expect_text(struct channel *c, const char *text)
{
    char buf[64];
    size_t length = 0;
    while (length < strlen(text)) {
        struct error *err = NULL;
        ssize_t n = channel_read(c, buf + length, strlen(text) - length, &patient, &err);
        expect_ok(n > 0, err);
        length += (size_t)n;
    }
    ck_assert_mem_eq(buf, text, length);
}

static void expect_end(struct channel *c)
{
    char byte;
    struct error *err = NULL;
    ssize_t n = channel_read(c, &byte, 1, &patient, &err);
    expect_ok(n == 0, err);
    ck_assert(channel_readable(c));
}

/* ---- URIs ---- */

static const struct {
    const char *uri, *code; /* NULL: a good one */
} uris[] = {
    {"tcp:127.0.0.1:4444", NULL},
    {"tcp:host.example:65535", NULL},
    {"tcp::0", NULL},
    {"tcp:[::1]:80", NULL},
    {"tcp:[]:80", NULL},
    {"unix:/tmp/a socket:with:colons", NULL},
    {"unix:relative", NULL},
    {"unix:@abstract", NULL},
    {"exec:cat", NULL},
    {"exec: true; false:", NULL},
    {"", "uri-unknown"},
    {"tcp", "uri-unknown"},
    {":", "uri-unknown"},
    {"TCP:h:1", "uri-unknown"},
    {"tcp4:h:1", "uri-unknown"},
    {"http://h:1", "uri-unknown"},
    {"tcp:", "uri-invalid"},
    {"tcp:host", "uri-invalid"},
    {"tcp:host:", "uri-invalid"},
    {"tcp:host:65536", "uri-invalid"},
    {"tcp:host:99999999999999999999999", "uri-invalid"},
    {"tcp:host:-1", "uri-invalid"},
    {"tcp:host:+1", "uri-invalid"},
    {"tcp:host: 1", "uri-invalid"},
    {"tcp:host:1x", "uri-invalid"},
    {"tcp:host:http", "uri-invalid"},
    {"tcp:::1:80", "uri-invalid"},
    {"tcp:[::1:80", "uri-invalid"},
    {"tcp:4444", "uri-invalid"},
    {"unix:", "uri-invalid"},
    {"exec:", "uri-invalid"},
    {"fd:", "fd-unknown"},
    {"fd:other", "fd-unknown"},
};

START_TEST(parse_uris)
{
    for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++) {
        int none = -1;
        struct fd_finder finder = {.take = take_fd, .opaque = &none};
        struct error *err = NULL;
        struct endpoint *e = endpoint_parse(uris[i].uri, &finder, &err);
        ck_assert_msg(!e == !!uris[i].code, "%s", uris[i].uri);
        if (uris[i].code) {
            expect_error(err, uris[i].code, NULL);
        }
        endpoint_free(e);
    }
    endpoint_free(NULL);
}
END_TEST

/* sun_path has 108 bytes, the last for a path's NUL. */
START_TEST(unix_path_length)
{
    for (size_t n = 105; n < 112; n++) {
        char uri[128] = "unix:";
        struct fd_finder finder = {.take = take_fd};
        struct error *err = NULL;
        memset(uri + 5, 'a', n);
        uri[5 + n] = '\0';
        struct endpoint *e = endpoint_parse(uri, &finder, &err);
        ck_assert_int_eq(e != NULL, n <= 107);
        if (!e) {
            expect_error(err, "uri-invalid", NULL);
        }
        endpoint_free(e);
    }
}
END_TEST

/* ---- there and back ---- */

struct caller {
    const char *uri;
    struct error *err;
    char answer[8];
};

/* Connects, says hello, ends its stream and reads the answer. */
static void *call_up(void *arg)
{
    struct caller *caller = arg;
    struct endpoint *e = parse(caller->uri);
    struct channel *c = endpoint_connect(e, &patient, &caller->err);
    if (c && write_text(c, "hello", &patient, &caller->err)) {
        channel_end_writing(c);
        ssize_t n = channel_read(c, caller->answer, 4, &patient, &caller->err);
        caller->answer[n > 0 ? n : 0] = '\0';
    }
    channel_close(c);
    endpoint_free(e);
    return NULL;
}

/* `connect_to` NULL: where the listener says that it is. */
static void there_and_back(const char *listen_uri, const char *connect_to)
{
    struct endpoint *e = parse(listen_uri);
    struct error *err = NULL;
    struct listener *l = endpoint_listen(e, &patient, &err);
    expect_ok(l != NULL, err);
    ck_assert(e->ops->reconnects);
    ck_assert(l->ops->again);
    for (int i = 0; i < 2; i++) { /* a listener goes on listening */
        struct caller caller = {.uri = connect_to ? connect_to : listener_address(l)};
        pthread_t thread;
        pthread_create(&thread, NULL, call_up, &caller);
        struct channel *c = listener_accept(l, &patient, &err);
        expect_ok(c != NULL, err);
        ck_assert(c->two_way);
        expect_text(c, "hello");
        expect_end(c);
        expect_ok(write_text(c, "back", &patient, &err), err);
        expect_ok(channel_finish(c, &patient, &err), err);
        pthread_join(thread, NULL);
        expect_ok(true, caller.err);
        ck_assert_str_eq(caller.answer, "back");
        channel_close(c);
    }
    listener_close(l);
    endpoint_free(e);
}

START_TEST(tcp)
{
    there_and_back("tcp:127.0.0.1:0", NULL);
}
END_TEST

static bool have_ipv6(void)
{
    struct endpoint *e = parse("tcp:[::1]:0");
    struct listener *l = endpoint_listen(e, &patient, NULL);
    bool have = l != NULL;
    listener_close(l);
    endpoint_free(e);
    return have;
}

START_TEST(tcp_ipv6)
{
    if (!have_ipv6()) {
        printf("SKIP: no IPv6 here\n");
        return;
    }
    there_and_back("tcp:[::1]:0", NULL);
}
END_TEST

START_TEST(tcp_address)
{
    struct endpoint *e = parse("tcp:127.0.0.1:0");
    struct listener *l = endpoint_listen(e, &patient, NULL);
    unsigned port = 0;
    ck_assert_int_eq(sscanf(listener_address(l), "tcp:127.0.0.1:%u", &port), 1);
    ck_assert_uint_gt(port, 0);
    char uri[64];
    snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", port);
    struct endpoint *again = parse(uri);
    struct error *err = NULL;
    ck_assert_ptr_null(endpoint_listen(again, &patient, &err));
    expect_error(err, "listen-failed", uri);
    listener_close(l);
    err = NULL;
    ck_assert_ptr_null(endpoint_connect(again, &patient, &err));
    expect_error(err, "connect-failed", uri);
    endpoint_free(again);
    endpoint_free(e);
}
END_TEST

START_TEST(tcp_by_name)
{
    struct endpoint *e = parse("tcp:localhost:0");
    struct error *err = NULL;
    struct listener *l = endpoint_listen(e, &patient, &err);
    expect_ok(l != NULL, err);
    listener_close(l);
    endpoint_free(e);
}
END_TEST

START_TEST(unix_path)
{
    char uri[PATH_ROOM], path[PATH_ROOM];
    make_folder();
    in_folder(path, "", "s");
    there_and_back(in_folder(uri, "unix:", "s"), NULL);
    ck_assert_int_eq(access(path, F_OK), -1);
    remove_folder();
}
END_TEST

START_TEST(unix_abstract)
{
    char uri[64];
    snprintf(uri, sizeof(uri), "unix:@ferry-unit-%d", getpid());
    there_and_back(uri, NULL);
}
END_TEST

/* A socket that nobody listens on is taken over; one in use and other files are not. */
START_TEST(unix_stale)
{
    char uri[PATH_ROOM], path[PATH_ROOM];
    struct error *err = NULL;
    make_folder();
    in_folder(path, "", "s");
    struct endpoint *e = parse(in_folder(uri, "unix:", "s"));
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    memcpy(addr.sun_path, path, sizeof(addr.sun_path));
    CLEANUP_CLOSE int left = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(left, (struct sockaddr *)&addr, sizeof(addr)), 0);
    struct listener *l = endpoint_listen(e, &patient, &err);
    expect_ok(l != NULL, err);
    ck_assert_ptr_null(endpoint_listen(e, &patient, &err));
    expect_error(err, "listen-failed", uri);
    ck_assert_int_eq(access(path, F_OK), 0);
    listener_close(l);
    CLEANUP_CLOSE int file = open(path, O_CREAT | O_RDWR, 0600);
    err = NULL;
    ck_assert_ptr_null(endpoint_listen(e, &patient, &err));
    expect_error(err, "listen-failed", uri);
    ck_assert_int_eq(unlink(path), 0);
    err = NULL;
    ck_assert_ptr_null(endpoint_connect(e, &patient, &err));
    expect_error(err, "connect-failed", uri);
    endpoint_free(e);
    remove_folder();
}
END_TEST

START_TEST(fd_socket)
{
    int ends[2];
    struct error *err = NULL;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    struct endpoint *out = parse_fd(ends[0]);
    struct endpoint *in = parse_fd(ends[1]);
    ck_assert(!out->ops->reconnects);
    struct channel *a = endpoint_connect(out, &patient, &err);
    expect_ok(a != NULL, err);
    struct listener *l = endpoint_listen(in, &patient, &err);
    expect_ok(l != NULL, err);
    ck_assert(!l->ops->again);
    ck_assert_str_eq(listener_address(l), "fd:mine");
    struct channel *b = listener_accept(l, &patient, &err);
    expect_ok(b != NULL, err);
    ck_assert(a->two_way && b->two_way);
    expect_ok(write_text(a, "there", &patient, &err), err);
    expect_text(b, "there");
    expect_ok(write_text(b, "back", &patient, &err), err);
    expect_text(a, "back");
    ck_assert(!channel_readable(a));
    channel_close(b);
    expect_end(a);
    channel_close(a);
    /* Each descriptor is good for one channel. */
    ck_assert_ptr_null(listener_accept(l, &patient, &err));
    expect_error(err, "channel-closed", NULL);
    err = NULL;
    ck_assert_ptr_null(endpoint_connect(out, &patient, &err));
    expect_error(err, "channel-closed", "fd:mine");
    listener_close(l);
    endpoint_free(out);
    endpoint_free(in);
}
END_TEST

START_TEST(fd_pipe)
{
    int ends[2];
    struct error *err = NULL;
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    struct endpoint *out = parse_fd(ends[1]);
    struct endpoint *in = parse_fd(ends[0]);
    struct channel *a = endpoint_connect(out, &patient, &err);
    struct listener *l = endpoint_listen(in, &patient, &err);
    struct channel *b = listener_accept(l, &patient, &err);
    ck_assert(!a->two_way && !b->two_way);
    expect_ok(write_text(a, "one way", &patient, &err), err);
    expect_ok(channel_finish(a, &patient, &err), err);
    expect_text(b, "one way");
    expect_end(b);
    channel_close(a);
    channel_close(b);
    listener_close(l);
    endpoint_free(out);
    endpoint_free(in);
}
END_TEST

/* What nobody took of an endpoint or a listener is closed with it. */
START_TEST(fd_unused)
{
    int ends[2];
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    endpoint_free(parse_fd(ends[1]));
    struct endpoint *in = parse_fd(ends[0]);
    listener_close(endpoint_listen(in, &patient, NULL));
    endpoint_free(in);
    ck_assert_int_eq(fcntl(ends[0], F_GETFD), -1);
    ck_assert_int_eq(fcntl(ends[1], F_GETFD), -1);
}
END_TEST

/* ---- exec ---- */

static struct channel *run_for_writing(const char *uri)
{
    struct error *err = NULL;
    struct endpoint *e = parse(uri);
    struct channel *c = endpoint_connect(e, &patient, &err);
    expect_ok(c != NULL, err);
    ck_assert(!c->two_way);
    endpoint_free(e);
    return c;
}

static struct channel *run_for_reading(const char *uri)
{
    struct error *err = NULL;
    struct endpoint *e = parse(uri);
    struct listener *l = endpoint_listen(e, &patient, &err);
    expect_ok(l != NULL, err);
    struct channel *c = listener_accept(l, &patient, &err);
    expect_ok(c != NULL, err);
    listener_close(l);
    endpoint_free(e);
    return c;
}

START_TEST(exec_out_and_in)
{
    char uri[PATH_ROOM], path[PATH_ROOM];
    struct error *err = NULL;
    make_folder();
    struct channel *c = run_for_writing(in_folder(uri, "exec:cat >", "f"));
    expect_ok(write_text(c, "kept", &patient, &err), err);
    expect_ok(channel_finish(c, &patient, &err), err);
    channel_close(c);
    c = run_for_reading(in_folder(uri, "exec:cat ", "f"));
    expect_text(c, "kept");
    expect_end(c);
    expect_ok(channel_finish(c, &patient, &err), err);
    channel_close(c);
    unlink(in_folder(path, "", "f"));
    remove_folder();
}
END_TEST

static void expect_exec_failure(const char *uri, const char *part)
{
    struct error *err = NULL;
    struct channel *c = run_for_writing(uri);
    ck_assert(!channel_finish(c, &patient, &err));
    expect_error(err, "exec-failed", part);
    channel_close(c);
    c = run_for_reading(uri);
    expect_end(c);
    err = NULL;
    ck_assert(!channel_finish(c, &patient, &err));
    expect_error(err, "exec-failed", part);
    channel_close(c);
}

START_TEST(exec_status)
{
    expect_exec_failure("exec:exit 3", "exited with status 3");
    expect_exec_failure("exec:kill -9 $$", "ended by signal 9");
    expect_exec_failure("exec:/no/such/command 2>/dev/null", "exited with status 127");
}
END_TEST

START_TEST(exec_finish_waits)
{
    struct error *err = NULL;
    struct channel *c = run_for_writing("exec:sleep 1000");
    ck_assert(!channel_finish(c, &hasty, &err));
    expect_error(err, "timeout", "the command");
    channel_close(c);
}
END_TEST

/* A command that outlives its channel is ended, and what it has started too: all of them hold the
 * FIFO open. */
START_TEST(exec_close_kills)
{
    char uri[256], path[PATH_ROOM];
    make_folder();
    in_folder(path, "", "fifo");
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    CLEANUP_CLOSE int fifo = open(path, O_RDONLY | O_NONBLOCK);
    snprintf(uri, sizeof(uri), "exec:exec 3>%s; echo up; sleep 1000 & sleep 1000", path);
    struct channel *c = run_for_reading(uri);
    expect_text(c, "up\n");
    uint64_t start = clock_ns();
    channel_close(c);
    struct error *err = NULL;
    expect_ok(wait_fd(fifo, POLLIN, &patient, &err), err);
    char byte;
    ck_assert_int_eq(read(fifo, &byte, 1), 0);
    ck_assert_uint_lt(clock_ns() - start, 20 * NS_PER_SEC);
    unlink(path);
    remove_folder();
}
END_TEST

/* SIGPIPE's default action is the command's, whatever it is here. */
START_TEST(exec_sigpipe)
{
    struct error *err = NULL;
    signal(SIGPIPE, SIG_IGN);
    struct channel *c = run_for_reading("exec:exec yes");
    expect_text(c, "y\ny\n");
    ck_assert(!channel_finish(c, &patient, &err));
    expect_error(err, "exec-failed", "signal 13");
    channel_close(c);
}
END_TEST

/* ---- cancel ---- */

/* Rings `cancel` when `watched` (or -1) has something to say. */
struct canceller {
    int cancel, watched;
    short events;
    pthread_t thread;
};

static void *cancel_then(void *arg)
{
    struct canceller *c = arg;
    struct pollfd fd = {.fd = c->watched, .events = c->events};
    uint64_t one = 1;
    if (c->watched >= 0) {
        poll(&fd, 1, 30000);
    }
    ssize_t ignored = write(c->cancel, &one, sizeof(one));
    (void)ignored;
    return NULL;
}

static struct wait cancel_begin(struct canceller *c, int watched, short events)
{
    *c =
        (struct canceller){.cancel = eventfd(0, EFD_CLOEXEC), .watched = watched, .events = events};
    pthread_create(&c->thread, NULL, cancel_then, c);
    return (struct wait){.cancel_fd = c->cancel, .timeout_ms = 600000, .what = "the test"};
}

static void cancel_end(struct canceller *c, struct error *err)
{
    pthread_join(c->thread, NULL);
    close(c->cancel);
    expect_error(err, "cancelled", NULL);
}

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

static void pair_of_fds(struct channel *ends[2], int fds[2])
{
    for (int i = 0; i < 2; i++) {
        struct endpoint *e = parse_fd(fds[i]);
        ends[i] = endpoint_connect(e, &patient, NULL);
        endpoint_free(e);
    }
}

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

static void expect_vanished(struct channel *ends[2])
{
    struct error *err = NULL;
    CLEANUP_CLOSE int fd = file_new(2);
    uint8_t *map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(map, MAP_FAILED);
    ck_assert_int_eq(ftruncate(fd, PAGE), 0);
    char first[] = "first";
    struct iovec iov[] = {{.iov_base = first, .iov_len = 5},
                          {.iov_base = map, .iov_len = 2 * PAGE}};
    ck_assert(!channel_write(ends[1], iov, 2, &patient, &err));
    expect_error(err, "ram-vanished", NULL);
    munmap(map, 2 * PAGE);
    channel_close(ends[0]);
    channel_close(ends[1]);
}

START_TEST(vanished_memory)
{
    struct channel *ends[2];
    int fds[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    pair_of_fds(ends, fds);
    expect_vanished(ends);
    ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
    pair_of_fds(ends, fds);
    expect_vanished(ends);
    memory_pair(1 << 16, ends);
    expect_vanished(ends);
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

/* ---- the channel in memory ---- */

static void *write_much(void *arg)
{
    struct channel *c = arg;
    uint8_t bytes[1000];
    for (int i = 0; i < 100; i++) {
        memset(bytes, i, sizeof(bytes));
        struct iovec iov[] = {{.iov_base = bytes, .iov_len = 300},
                              {.iov_base = bytes, .iov_len = 700}};
        if (!channel_write(c, iov, 2, &patient, NULL)) {
            break;
        }
    }
    channel_end_writing(c);
    return NULL;
}

/* Reads it all; returns how many bytes there were, and that of the wrong ones. */
static size_t read_much(struct channel *c, size_t *wrong)
{
    uint8_t buf[777];
    size_t at = 0;
    ssize_t n;
    *wrong = 0;
    while ((n = channel_read(c, buf, sizeof(buf), &patient, NULL)) > 0) {
        for (ssize_t i = 0; i < n; i++, at++) {
            *wrong += buf[i] != at / 1000;
        }
    }
    return at;
}

static void through_memory(size_t room, const struct memory_faults *faults, size_t bytes,
                           size_t wrong_bytes)
{
    struct channel *ends[2];
    pthread_t thread;
    size_t wrong;
    memory_pair(room, ends);
    memory_set_faults(ends[0], faults);
    pthread_create(&thread, NULL, write_much, ends[0]);
    ck_assert_uint_eq(read_much(ends[1], &wrong), bytes);
    ck_assert_uint_eq(wrong, wrong_bytes);
    pthread_join(thread, NULL);
    channel_close(ends[0]);
    channel_close(ends[1]);
}

START_TEST(memory)
{
    static const size_t rooms[] = {1, 100, 1024, 200000};
    for (int i = 0; i < 4; i++) {
        through_memory(rooms[i], &(struct memory_faults){0}, 100000, 0);
        through_memory(rooms[i], &(struct memory_faults){.piece = 7}, 100000, 0);
        through_memory(rooms[i], &(struct memory_faults){.flip_mask = 1, .flip_at = 54321}, 100000,
                       1);
        through_memory(rooms[i], &(struct memory_faults){.cut = true, .cut_at = 12345}, 12345, 0);
        through_memory(rooms[i], &(struct memory_faults){.cut = true}, 0, 0);
    }
}
END_TEST

START_TEST(memory_waits)
{
    struct canceller canceller;
    struct channel *ends[2];
    struct error *err = NULL;
    char byte;
    memory_pair(4, ends);
    ck_assert(!channel_readable(ends[0]));
    ck_assert_int_eq(channel_read(ends[0], &byte, 1, &hasty, &err), -1);
    expect_error(err, "timeout", NULL);
    err = NULL;
    ck_assert(!write_text(ends[0], "five5", &hasty, &err));
    expect_error(err, "timeout", NULL);
    err = NULL;
    ck_assert(channel_readable(ends[1]));
    struct wait w = cancel_begin(&canceller, -1, 0);
    ck_assert(!write_text(ends[0], "x", &w, &err));
    cancel_end(&canceller, err);
    err = NULL;
    expect_text(ends[1], "five");
    memory_break(ends[1]);
    ck_assert(!write_text(ends[0], "x", &patient, &err));
    expect_error(err, "channel-closed", NULL);
    expect_end(ends[0]);
    channel_close(ends[0]);
    channel_close(ends[1]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("transports");
    unit_add(suite, "transports/uri/table", parse_uris);
    unit_add(suite, "transports/uri/unix-path-length", unix_path_length);
    unit_add(suite, "transports/tcp/there-and-back", tcp);
    unit_add(suite, "transports/tcp/ipv6", tcp_ipv6);
    unit_add(suite, "transports/tcp/address", tcp_address);
    unit_add(suite, "transports/tcp/by-name", tcp_by_name);
    unit_add(suite, "transports/unix/path", unix_path);
    unit_add(suite, "transports/unix/abstract", unix_abstract);
    unit_add(suite, "transports/unix/stale", unix_stale);
    unit_add(suite, "transports/fd/socket", fd_socket);
    unit_add(suite, "transports/fd/pipe", fd_pipe);
    unit_add(suite, "transports/fd/unused", fd_unused);
    unit_add(suite, "transports/exec/out-and-in", exec_out_and_in);
    unit_add(suite, "transports/exec/status", exec_status);
    unit_add(suite, "transports/exec/finish-waits", exec_finish_waits);
    unit_add(suite, "transports/exec/close-kills", exec_close_kills);
    unit_add(suite, "transports/exec/sigpipe", exec_sigpipe);
    unit_add(suite, "transports/cancel/accept", cancel_accept);
    unit_add(suite, "transports/cancel/connect", cancel_connect);
    unit_add(suite, "transports/cancel/read", cancel_read);
    unit_add(suite, "transports/cancel/write", cancel_write);
    unit_add(suite, "transports/channel/closed-peer", closed_peer);
    unit_add(suite, "transports/channel/closed-pipe", closed_pipe);
    unit_add(suite, "transports/channel/vanished-memory", vanished_memory);
    unit_add(suite, "transports/channel/empty-writes", empty_writes);
    unit_add(suite, "transports/memory/bytes", memory);
    unit_add(suite, "transports/memory/waits", memory_waits);
    return unit_run(suite);
}
