/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/libferry_stage.h"

#include "common/cleanup.h"
#include "tests/unit/ram_tools.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Longer than anything takes that works. */
#define PATIENCE_MS 30000

/* ---- the VMM ---- */

/* Writes a call down; what the callback is to answer. */
static int called(struct vmm *v, const char *name, const char *note)
{
    pthread_mutex_lock(&v->lock);
    size_t n = strlen(v->calls);
    snprintf(v->calls + n, sizeof(v->calls) - n, "%s%s%s", n ? " " : "", name, note);
    v->blocked = v->blocking && strcmp(v->blocking, name) == 0;
    pthread_cond_broadcast(&v->changed);
    while (v->blocked && !v->go_on) {
        pthread_cond_wait(&v->changed, &v->lock);
    }
    bool fails = v->failing && strcmp(v->failing, name) == 0;
    int err = fails ? v->error : 0;
    if (fails && v->words) {
        ferry_set_error(v->f, "%s", v->words);
    }
    pthread_mutex_unlock(&v->lock);
    return err;
}

int vmm_called(struct vmm *v, const char *name)
{
    return called(v, name, "");
}

static int on_stop(void *opaque)
{
    return called(opaque, "stop", "");
}

static int on_resume(void *opaque)
{
    return called(opaque, "resume", "");
}

static int on_save(void *opaque, int fd)
{
    ck_assert_int_eq(write(fd, "the state", 9), 9);
    return called(opaque, "save_state", "");
}

static int on_load(void *opaque, int fd)
{
    struct vmm *v = opaque;
    ssize_t n = read(fd, v->loaded, sizeof(v->loaded) - 1);
    v->loaded[n > 0 ? n : 0] = '\0';
    return called(v, "load_state", "");
}

static int on_throttle(void *opaque, unsigned percent)
{
    char note[16];
    snprintf(note, sizeof(note), "=%u", percent);
    return called(opaque, "throttle", note);
}

static void on_released(void *opaque)
{
    called(opaque, "released", "");
}

static void on_announce(void *opaque)
{
    called(opaque, "announce", "");
}

void on_attached(void *opaque)
{
    called(opaque, "attached", "");
}

void on_detached(void *opaque, const char *reason)
{
    char note[64];
    snprintf(note, sizeof(note), "(%s)", reason);
    called(opaque, "detached", note);
}

const struct ferry_ops all_ops = {
    .size = sizeof(struct ferry_ops),
    .stop = on_stop,
    .resume = on_resume,
    .save_state = on_save,
    .load_state = on_load,
    .throttle = on_throttle,
    .released = on_released,
    .announce = on_announce,
};

void vmm_init(struct vmm *v)
{
    *v = (struct vmm){0};
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->changed, NULL);
}

static bool await_change(struct vmm *v)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_MS / 1000;
    return pthread_cond_timedwait(&v->changed, &v->lock, &until) == 0;
}

/* Waits until the calls since the last time are these. */
void expect_calls(struct vmm *v, const char *calls)
{
    pthread_mutex_lock(&v->lock);
    while (strlen(v->calls) < strlen(calls) && await_change(v)) {
    }
    ck_assert_str_eq(v->calls, calls);
    v->calls[0] = '\0';
    pthread_mutex_unlock(&v->lock);
}

void await_blocked(struct vmm *v)
{
    pthread_mutex_lock(&v->lock);
    while (!v->blocked && await_change(v)) {
    }
    ck_assert(v->blocked);
    pthread_mutex_unlock(&v->lock);
}

void let_go_on(struct vmm *v)
{
    pthread_mutex_lock(&v->lock);
    v->go_on = true;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
}

/* Each failure is for the next call only. */
void make_fail(struct vmm *v, const char *name, int error, const char *words)
{
    pthread_mutex_lock(&v->lock);
    v->failing = name;
    v->error = error;
    v->words = words;
    pthread_mutex_unlock(&v->lock);
}

/* ---- ferryd ---- */

void ferryd_listen(struct ferryd *d)
{
    d->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(d->listener, (struct sockaddr *)&d->addr, sizeof(d->addr)), 0);
    ck_assert_int_eq(listen(d->listener, 4), 0);
}

void ferryd_init(struct ferryd *d)
{
    *d = (struct ferryd){.sock = -1, .addr = {.sun_family = AF_UNIX}};
    strcpy(d->folder, "/tmp/ferry-unit-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(d->folder));
    snprintf(d->addr.sun_path, sizeof(d->addr.sun_path), "%s/s", d->folder);
    ferryd_listen(d);
}

void ferryd_end(struct ferryd *d)
{
    fd_close(&d->sock);
    fd_close(&d->listener);
    unlink(d->addr.sun_path);
    rmdir(d->folder);
}

static void await_fd(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, PATIENCE_MS), 1);
}

static struct wire_message take_message(struct ferryd *d, int *fd)
{
    struct wire_message msg = {0};
    await_fd(d->sock);
    ck_assert_int_eq(wire_recv(d->sock, &msg, fd), 1);
    return msg;
}

struct wire_message await_any(struct ferryd *d)
{
    int passed;
    struct wire_message msg = take_message(d, &passed);
    ck_assert_int_eq(passed, -1);
    return msg;
}

struct wire_message await_message(struct ferryd *d, uint32_t type, int *fd)
{
    int passed;
    struct wire_message msg = take_message(d, &passed);
    ck_assert_uint_eq(msg.head.type, type);
    if (fd) {
        *fd = passed;
    } else {
        ck_assert_int_eq(passed, -1);
    }
    return msg;
}

void expect_lost(struct ferryd *d)
{
    struct wire_message msg;
    int passed;
    await_fd(d->sock);
    ck_assert_int_le(wire_recv(d->sock, &msg, &passed), 0);
    fd_close(&d->sock);
}

/* Accepts a VMM and reads its introduction; `same` (or NULL) are its blocks' files. */
void take_introduction(struct ferryd *d, const int *same)
{
    await_fd(d->listener);
    d->sock = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC);
    ck_assert_int_ge(d->sock, 0);
    d->hello = await_message(d, WIRE_HELLO, NULL).body.hello;
    ck_assert_uint_le(d->hello.blocks, 4);
    for (unsigned i = 0; i < d->hello.blocks; i++) {
        struct stat a, b;
        int fd;
        d->blocks[i] = await_message(d, WIRE_BLOCK, &fd).body.block;
        ck_assert_int_eq(fstat(fd, &a), 0);
        ck_assert(!same || (fstat(same[i], &b) == 0 && a.st_ino == b.st_ino));
        close(fd);
    }
    d->nblockers = 0;
    struct wire_message msg;
    while ((msg = await_any(d)).head.type == WIRE_BLOCKER) {
        ck_assert_uint_lt(d->nblockers, WIRE_BLOCKERS_MAX);
        d->blockers[d->nblockers++] = msg.body.blocker;
    }
    ck_assert_uint_eq(msg.head.type, WIRE_READY);
}

void welcome(struct ferryd *d)
{
    struct wire_welcome body = {.version = WIRE_VERSION};
    ck_assert_int_eq(wire_send(d->sock, WIRE_WELCOME, 0, &body, -1), 0);
}

struct wire_reply ask(struct ferryd *d, uint32_t type, const void *body, int fd)
{
    uint64_t seq = ++d->seq;
    ck_assert_int_eq(wire_send(d->sock, type, seq, body, fd), 0);
    struct wire_message msg = await_message(d, WIRE_REPLY, NULL);
    ck_assert_uint_eq(msg.head.seq, seq);
    return msg.body.reply;
}

/* Asks, and expects it done with the guest in `state` then. */
struct wire_reply expect_done(struct ferryd *d, uint32_t type, const void *body, int fd,
                              enum ferry_guest_state state)
{
    struct wire_reply reply = ask(d, type, body, fd);
    ck_assert_msg(reply.status == 0, "request %u: %d, %s", type, reply.status, reply.text);
    ck_assert_uint_eq(reply.state, state);
    return reply;
}

void expect_refusal(struct ferryd *d, uint32_t type, const void *body, int fd, int status,
                    const char *part)
{
    struct wire_reply reply = ask(d, type, body, fd);
    ck_assert_msg(reply.status == status, "request %u: %d, %s", type, reply.status, reply.text);
    ck_assert_msg(!part || strstr(reply.text, part), "%s", reply.text);
    ck_assert_uint_eq(reply.text[WIRE_TEXT_SIZE - 1], '\0');
}

/* ---- both ---- */

const struct wire_stop migration_stop = {.migration = 1};
const struct wire_stop pause_request = {.migration = 0};
const struct wire_resume migration_resume = {.migration = 1};
const struct wire_resume cont_request = {.migration = 0};
const struct wire_give_away give_away = {.job = "0123456789abcde"};
const struct wire_start start_running = {.paused = 0};
const struct wire_start start_paused = {.paused = 1};

static void add_ram(struct ferry *f, const char *name, int fd, uint64_t offset, uint64_t pages,
                    uint64_t gpa)
{
    struct ferry_ram_block block = {.size = sizeof(block),
                                    .name = name,
                                    .fd = fd,
                                    .offset = offset,
                                    .length = pages * PAGE,
                                    .gpa = gpa,
                                    .slot = FERRY_NO_SLOT};
    ck_assert_int_eq(ferry_add_ram(f, &block), 0);
}

void lib_stage_make(struct stage *s, bool incoming, const struct ferry_ops *ops)
{
    vmm_init(&s->v);
    ferryd_init(&s->d);
    struct ferry_config config = {.size = sizeof(config),
                                  .name = "unit",
                                  .socket_path = s->d.addr.sun_path,
                                  .incoming = incoming,
                                  .ops = ops,
                                  .opaque = &s->v};
    ck_assert_int_eq(ferry_new(&config, &s->f), 0);
    s->v.f = s->f;
    s->fds[0] = file_new(FIRST);
    s->fds[1] = file_new(4 + SECOND);
    s->fds[2] = file_new(THIRD);
    add_ram(s->f, "first", s->fds[0], 0, FIRST, 0);
    add_ram(s->f, "second", s->fds[1], 4 * PAGE, SECOND, FIRST * PAGE);
    add_ram(s->f, "third", s->fds[2], 0, THIRD, THIRD_GPA);
}

void lib_stage_open(struct stage *s, bool incoming)
{
    lib_stage_make(s, incoming, &all_ops);
    ck_assert_int_eq(ferry_start(s->f), 0);
    take_introduction(&s->d, s->fds);
    welcome(&s->d);
}

void lib_stage_close(struct stage *s)
{
    ferry_free(s->f);
    ferryd_end(&s->d);
    for (int i = 0; i < 3; i++) {
        close(s->fds[i]);
    }
}

/* Loses the connection, and takes the next one's introduction. */
void reconnect(struct stage *s)
{
    fd_close(&s->d.sock);
    take_introduction(&s->d, s->fds);
    welcome(&s->d);
}
