/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The library's thread: connect, introduce the guest, serve requests until the connection ends,
 * clean up behind it, try again.
 */
#include "guest/libferry_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* How often an absent ferryd is looked for, and one that refused the guest. */
#define RETRY_ABSENT_MS  200
#define RETRY_REFUSED_MS 1000
/* How long ferryd may take to welcome a guest. */
#define WELCOME_MS 10000
/* How often a send that has no room looks whether the handle is being freed. */
#define SEND_POLL_MS 100

/* What ends a turn of the loop. */
enum outcome { GO_ON, LOST, REFUSED, STOPPING };

static bool should_stop(struct ferry *f)
{
    pthread_mutex_lock(&f->lock);
    bool stopping = f->stopping;
    pthread_mutex_unlock(&f->lock);
    return stopping;
}

static void drain_wake(struct ferry *f)
{
    uint64_t count;
    ssize_t ignored = read(f->wake_fd, &count, sizeof(count));
    (void)ignored;
}

/* Sleeps; woken by ferry_free and by changes of state, which then wait for the next connection. */
static void pause_ms(struct ferry *f, int ms)
{
    struct pollfd fd = {.fd = f->wake_fd, .events = POLLIN};
    if (ferry_poll(f, &fd, 1, ms) > 0) {
        drain_wake(f);
    }
}

static int connect_socket(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(addr.sun_path)) {
        return -ENAMETOOLONG;
    }
    strcpy(addr.sun_path, path);
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (sock < 0) {
        return -errno;
    }
    if (connect(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        int err = errno;
        close(sock);
        return -err;
    }
    return sock;
}

int ferry_send(struct ferry *f, uint32_t type, uint64_t seq, const void *body, int fd)
{
    for (;;) {
        int err = wire_send(f->sock, type, seq, body, fd);
        if (err != -EAGAIN) {
            return err;
        }
        if (should_stop(f)) {
            return -ECANCELED;
        }
        struct pollfd out = {.fd = f->sock, .events = POLLOUT};
        poll(&out, 1, SEND_POLL_MS); /* and no announcing: a reply comes first */
    }
}

static int send_hello(struct ferry *f)
{
    struct wire_hello hello = {
        .magic = WIRE_MAGIC,
        .version = WIRE_VERSION,
        .version_min = WIRE_VERSION_MIN,
        .page_size = FERRY_PAGE_SIZE,
        .blocks = f->nblocks,
        .disks = f->ndisks,
        .released = f->released,
    };
    for (unsigned i = 0; i < f->nblocks; i++) {
        hello.features |= f->blocks[i].has_slot ? WIRE_FEATURE_KVM_LOG : 0;
    }
    hello.features |= f->manual_protect ? WIRE_FEATURE_MANUAL_PROTECT : 0;
    hello.features |= f->ops.throttle ? WIRE_FEATURE_THROTTLE : 0;
    hello.features |= f->ops.announce ? WIRE_FEATURE_ANNOUNCE : 0;
    strcpy(hello.name, f->name);
    memcpy(hello.job, f->job, sizeof(hello.job));
    pthread_mutex_lock(&f->lock);
    hello.state = f->state;
    f->tell_state = false;
    pthread_mutex_unlock(&f->lock);
    return ferry_send(f, WIRE_HELLO, 0, &hello, -1);
}

/* A disk's image, and behind it its base where there is one: a message has one descriptor. */
static int introduce_disk(struct ferry *f, const struct ferry_drive *d)
{
    struct wire_disk disk = {
        .length = d->length, .part = WIRE_DISK_IMAGE, .has_base = d->base_fd >= 0};
    strcpy(disk.name, d->name);
    int err = ferry_send(f, WIRE_DISK, 0, &disk, d->fd);
    if (!err && d->base_fd >= 0) {
        disk.part = WIRE_DISK_BASE;
        err = ferry_send(f, WIRE_DISK, 0, &disk, d->base_fd);
    }
    return err;
}

static int introduce(struct ferry *f)
{
    int err = send_hello(f);
    for (unsigned i = 0; !err && i < f->nblocks; i++) {
        const struct ferry_block *b = &f->blocks[i];
        struct wire_block block = {
            .offset = b->offset, .length = b->length, .gpa = b->gpa, .has_slot = b->has_slot};
        strcpy(block.name, b->name);
        err = ferry_send(f, WIRE_BLOCK, 0, &block, b->fd);
    }
    for (unsigned i = 0; !err && i < f->ndisks; i++) {
        err = introduce_disk(f, &f->disks[i]);
    }
    err = err ? err : ferry_tell_blockers(f, true);
    return err ? err : ferry_send(f, WIRE_READY, 0, NULL, -1);
}

/* `reason` is filled where the outcome is REFUSED. */
static enum outcome await_welcome(struct ferry *f, char reason[WIRE_TEXT_SIZE])
{
    struct wire_message msg;
    struct pollfd fds[2] = {{.fd = f->sock, .events = POLLIN},
                            {.fd = f->wake_fd, .events = POLLIN}};
    int passed;
    /* Other wake-ups shorten the patience at most to their first: ferryd answers at once. */
    while (ferry_poll(f, fds, 2, WELCOME_MS) > 0 && !fds[0].revents) {
        drain_wake(f);
        if (should_stop(f)) {
            return STOPPING;
        }
    }
    if (!fds[0].revents || wire_recv(f->sock, &msg, &passed) <= 0) {
        return LOST;
    }
    if (passed >= 0) {
        close(passed);
    }
    if (msg.head.type == WIRE_WELCOME) {
        return GO_ON;
    }
    if (msg.head.type == WIRE_REFUSE) {
        snprintf(reason, WIRE_TEXT_SIZE, "%.*s", WIRE_TEXT_SIZE - 1, msg.body.refuse.text);
        return REFUSED;
    }
    return LOST;
}

/* Says what the VMM's threads have changed meanwhile. */
static int tell_changes(struct ferry *f)
{
    pthread_mutex_lock(&f->lock);
    bool tell = f->tell_state;
    bool shutdown = f->tell_shutdown;
    struct wire_state state = {.state = f->state};
    f->tell_state = f->tell_shutdown = false;
    pthread_mutex_unlock(&f->lock);
    int err = tell ? ferry_send(f, WIRE_STATE, 0, &state, -1) : 0;
    err = err ? err : ferry_tell_blockers(f, false);
    return err || !shutdown ? err : ferry_send(f, WIRE_SHUTDOWN, 0, NULL, -1);
}

static enum outcome answer(struct ferry *f, const struct wire_message *msg, int fd)
{
    struct wire_reply reply;
    ferry_perform(f, msg, fd, &reply);
    if (!ferry_send(f, WIRE_REPLY, msg->head.seq, &reply, -1)) {
        return GO_ON;
    }
    if (msg->head.type == WIRE_GIVE_AWAY) {
        ferry_forget_giving_away(f);
    }
    return LOST;
}

static enum outcome serve_one(struct ferry *f)
{
    struct wire_message msg;
    enum outcome outcome = GO_ON;
    int fd;
    if (wire_recv(f->sock, &msg, &fd) <= 0) {
        return LOST;
    }
    if (msg.head.type == WIRE_NOTIFY) {
        ferry_notified(f, &msg.body.notify);
    } else {
        outcome = answer(f, &msg, fd);
    }
    if (fd >= 0) {
        close(fd);
    }
    return outcome;
}

static enum outcome serve_turn(struct ferry *f)
{
    struct pollfd fds[2] = {
        {.fd = f->sock, .events = POLLIN},
        {.fd = f->wake_fd, .events = POLLIN},
    };
    if (ferry_poll(f, fds, 2, -1) < 0) {
        return errno == EINTR ? GO_ON : LOST;
    }
    if (fds[1].revents) {
        drain_wake(f);
        if (tell_changes(f)) {
            return LOST;
        }
        if (should_stop(f)) {
            return STOPPING;
        }
    }
    return fds[0].revents ? serve_one(f) : GO_ON;
}

static enum outcome serve(struct ferry *f)
{
    enum outcome outcome = tell_changes(f) ? LOST : GO_ON;
    while (outcome == GO_ON) {
        outcome = serve_turn(f);
    }
    return outcome;
}

static void notify(struct ferry *f, bool attached, const char *reason)
{
    if (attached && f->ops.attached) {
        f->ops.attached(f->opaque);
    } else if (!attached && f->ops.detached) {
        f->ops.detached(f->opaque, reason);
    }
}

/* One connection, from connect to its end. */
static void run_connection(struct ferry *f)
{
    char reason[WIRE_TEXT_SIZE] = "the connection to ferryd was lost";
    f->sock = connect_socket(f->socket_path);
    if (f->sock < 0) {
        pause_ms(f, RETRY_ABSENT_MS);
        return;
    }
    /* A refusal may come while we still send: it is read also when a send has failed. */
    introduce(f);
    enum outcome outcome = await_welcome(f, reason);
    bool attached = outcome == GO_ON;
    if (attached) {
        notify(f, true, NULL);
        outcome = serve(f);
        ferry_abandon(f);
    }
    close(f->sock);
    f->sock = -1;
    if (outcome != STOPPING && (attached || outcome == REFUSED)) {
        notify(f, false, reason);
    }
    if (outcome != STOPPING) {
        pause_ms(f, outcome == REFUSED ? RETRY_REFUSED_MS : RETRY_ABSENT_MS);
    }
}

void *ferry_thread(void *arg)
{
    struct ferry *f = arg;
    while (!should_stop(f)) {
        run_connection(f);
    }
    return NULL;
}
