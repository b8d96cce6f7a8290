/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/transport_tools.h"

#include "common/cleanup.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

static char folder[32];

void make_folder(void)
{
    strcpy(folder, "/tmp/ferry-unit-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

void remove_folder(void)
{
    ck_assert_int_eq(rmdir(folder), 0);
}

const char *in_folder(char buf[PATH_ROOM], const char *before, const char *name)
{
    snprintf(buf, PATH_ROOM, "%s%s/%s", before, folder, name);
    return buf;
}

int take_fd(void *opaque, const char *name, struct error **errp)
{
    int *fd = opaque;
    if (strcmp(name, "mine") != 0 || *fd < 0) {
        error_set(errp, "fd-unknown", "no descriptor '%s'", name);
        return -1;
    }
    return fd_steal(fd);
}

struct endpoint *parse(const char *uri)
{
    int none = -1;
    struct fd_finder finder = {.take = take_fd, .opaque = &none};
    struct error *err = NULL;
    struct endpoint *e = endpoint_parse(uri, &finder, &err);
    expect_ok(e != NULL, err);
    return e;
}

struct endpoint *parse_fd(int fd)
{
    struct fd_finder finder = {.take = take_fd, .opaque = &fd};
    struct error *err = NULL;
    struct endpoint *e = endpoint_parse("fd:mine", &finder, &err);
    expect_ok(e != NULL, err);
    return e;
}

bool write_text(struct channel *c, const char *text, const struct wait *w, struct error **errp)
{
    struct iovec iov = {.iov_base = (void *)text, .iov_len = strlen(text)};
    return channel_write(c, &iov, 1, w, errp);
}

void expect_text(struct channel *c, const char *text)
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

void expect_end(struct channel *c)
{
    char byte;
    struct error *err = NULL;
    ssize_t n = channel_read(c, &byte, 1, &patient, &err);
    expect_ok(n == 0, err);
    ck_assert(channel_readable(c));
}

void pair_of_fds(struct channel *ends[2], int fds[2])
{
    for (int i = 0; i < 2; i++) {
        struct endpoint *e = parse_fd(fds[i]);
        ends[i] = endpoint_connect(e, &patient, NULL);
        endpoint_free(e);
    }
}

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

struct wait cancel_begin(struct canceller *c, int watched, short events)
{
    *c =
        (struct canceller){.cancel = eventfd(0, EFD_CLOEXEC), .watched = watched, .events = events};
    pthread_create(&c->thread, NULL, cancel_then, c);
    return (struct wait){.cancel_fd = c->cancel, .timeout_ms = 600000, .what = "the test"};
}

void cancel_end(struct canceller *c, struct error *err)
{
    pthread_join(c->thread, NULL);
    close(c->cancel);
    expect_error(err, "cancelled", NULL);
}
