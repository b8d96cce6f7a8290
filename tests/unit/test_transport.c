/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/cleanup.h"
#include "tests/unit/transport_tools.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

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
    return unit_run(suite);
}
