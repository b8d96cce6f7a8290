/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libferry from its wire: the test plays ferryd, and a VMM whose callbacks write down that they
 * were called.
 */
#include "common/bits.h"
#include "common/cleanup.h"
#include "guest/dirtymap.h"
#include "guest/libferry.h"
#include "guest/wire.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* Longer than anything takes that works. */
#define PATIENCE_MS 30000

/* ---- the VMM ---- */

struct vmm {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char calls[512]; /* "stop resume throttle=20" */
    /* What the callback of this name does. */
    const char *failing;
    int error;
    const char *words; /* or NULL */
    const char *blocking;
    bool blocked, go_on;
    char loaded[32]; /* what load_state has read */
    struct ferry *f;
};

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

static void on_attached(void *opaque)
{
    called(opaque, "attached", "");
}

static void on_detached(void *opaque, const char *reason)
{
    char note[64];
    snprintf(note, sizeof(note), "(%s)", reason);
    called(opaque, "detached", note);
}

static const struct ferry_ops all_ops = {
    .size = sizeof(struct ferry_ops),
    .stop = on_stop,
    .resume = on_resume,
    .save_state = on_save,
    .load_state = on_load,
    .throttle = on_throttle,
    .released = on_released,
};

static void vmm_init(struct vmm *v)
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
static void expect_calls(struct vmm *v, const char *calls)
{
    pthread_mutex_lock(&v->lock);
    while (strlen(v->calls) < strlen(calls) && await_change(v)) {
    }
    ck_assert_str_eq(v->calls, calls);
    v->calls[0] = '\0';
    pthread_mutex_unlock(&v->lock);
}

static void await_blocked(struct vmm *v)
{
    pthread_mutex_lock(&v->lock);
    while (!v->blocked && await_change(v)) {
    }
    ck_assert(v->blocked);
    pthread_mutex_unlock(&v->lock);
}

static void let_go_on(struct vmm *v)
{
    pthread_mutex_lock(&v->lock);
    v->go_on = true;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
}

/* Each failure is for the next call only. */
static void make_fail(struct vmm *v, const char *name, int error, const char *words)
{
    pthread_mutex_lock(&v->lock);
    v->failing = name;
    v->error = error;
    v->words = words;
    pthread_mutex_unlock(&v->lock);
}

/* ---- ferryd ---- */

struct ferryd {
    char folder[32];
    struct sockaddr_un addr;
    int listener, sock;
    uint64_t seq;
    struct wire_hello hello;
    struct wire_block blocks[4];
};

static void ferryd_listen(struct ferryd *d)
{
    d->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(d->listener, (struct sockaddr *)&d->addr, sizeof(d->addr)), 0);
    ck_assert_int_eq(listen(d->listener, 4), 0);
}

static void ferryd_init(struct ferryd *d)
{
    *d = (struct ferryd){.sock = -1, .addr = {.sun_family = AF_UNIX}};
    strcpy(d->folder, "/tmp/ferry-unit-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(d->folder));
    snprintf(d->addr.sun_path, sizeof(d->addr.sun_path), "%s/s", d->folder);
    ferryd_listen(d);
}

static void ferryd_end(struct ferryd *d)
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

/* The next message; `fd` (or NULL) is the caller's. */
static struct wire_message receive(struct ferryd *d, uint32_t type, int *fd)
{
    struct wire_message msg = {0};
    int passed;
    await_fd(d->sock);
    ck_assert_int_eq(wire_recv(d->sock, &msg, &passed), 1);
    ck_assert_uint_eq(msg.head.type, type);
    if (fd) {
        *fd = passed;
    } else {
        ck_assert_int_eq(passed, -1);
    }
    return msg;
}

static void expect_lost(struct ferryd *d)
{
    struct wire_message msg;
    int passed;
    await_fd(d->sock);
    ck_assert_int_le(wire_recv(d->sock, &msg, &passed), 0);
    fd_close(&d->sock);
}

/* Accepts a VMM and reads its introduction; `same` (or NULL) are its blocks' files. */
static void take_introduction(struct ferryd *d, const int *same)
{
    await_fd(d->listener);
    d->sock = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC);
    ck_assert_int_ge(d->sock, 0);
    d->hello = receive(d, WIRE_HELLO, NULL).body.hello;
    ck_assert_uint_le(d->hello.blocks, 4);
    for (unsigned i = 0; i < d->hello.blocks; i++) {
        struct stat a, b;
        int fd;
        d->blocks[i] = receive(d, WIRE_BLOCK, &fd).body.block;
        ck_assert_int_eq(fstat(fd, &a), 0);
        ck_assert(!same || (fstat(same[i], &b) == 0 && a.st_ino == b.st_ino));
        close(fd);
    }
    receive(d, WIRE_READY, NULL);
}

static void welcome(struct ferryd *d)
{
    struct wire_welcome body = {.version = WIRE_VERSION};
    ck_assert_int_eq(wire_send(d->sock, WIRE_WELCOME, 0, &body, -1), 0);
}

static struct wire_reply ask(struct ferryd *d, uint32_t type, const void *body, int fd)
{
    uint64_t seq = ++d->seq;
    ck_assert_int_eq(wire_send(d->sock, type, seq, body, fd), 0);
    struct wire_message msg = receive(d, WIRE_REPLY, NULL);
    ck_assert_uint_eq(msg.head.seq, seq);
    return msg.body.reply;
}

/* Asks, and expects it done with the guest in `state` then. */
static struct wire_reply expect_done(struct ferryd *d, uint32_t type, const void *body, int fd,
                                     enum ferry_guest_state state)
{
    struct wire_reply reply = ask(d, type, body, fd);
    ck_assert_msg(reply.status == 0, "request %u: %d, %s", type, reply.status, reply.text);
    ck_assert_uint_eq(reply.state, state);
    return reply;
}

static void expect_refusal(struct ferryd *d, uint32_t type, const void *body, int fd, int status,
                           const char *part)
{
    struct wire_reply reply = ask(d, type, body, fd);
    ck_assert_msg(reply.status == status, "request %u: %d, %s", type, reply.status, reply.text);
    ck_assert_msg(!part || strstr(reply.text, part), "%s", reply.text);
    ck_assert_uint_eq(reply.text[WIRE_TEXT_SIZE - 1], '\0');
}

/* ---- both ---- */

static const struct wire_stop migration_stop = {.migration = 1};
static const struct wire_stop pause_request = {.migration = 0};
static const struct wire_resume migration_resume = {.migration = 1};
static const struct wire_resume cont_request = {.migration = 0};
static const struct wire_give_away give_away = {.job = "0123456789abcde"};
static const struct wire_start start_running = {.paused = 0};
static const struct wire_start start_paused = {.paused = 1};

/* A guest of two blocks next to each other, of 70 and 10 pages, and a third further up. */
#define FIRST     70u
#define SECOND    10u
#define THIRD     3u
#define THIRD_GPA (1ULL << 32)

struct stage {
    struct ferryd d;
    struct vmm v;
    struct ferry *f;
    int fds[3];
};

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

static void stage_make(struct stage *s, bool incoming, const struct ferry_ops *ops)
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

static void stage_open(struct stage *s, bool incoming)
{
    stage_make(s, incoming, &all_ops);
    ck_assert_int_eq(ferry_start(s->f), 0);
    take_introduction(&s->d, s->fds);
    welcome(&s->d);
}

static void stage_close(struct stage *s)
{
    ferry_free(s->f);
    ferryd_end(&s->d);
    for (int i = 0; i < 3; i++) {
        close(s->fds[i]);
    }
}

/* Loses the connection, and takes the next one's introduction. */
static void reconnect(struct stage *s)
{
    fd_close(&s->d.sock);
    take_introduction(&s->d, s->fds);
    welcome(&s->d);
}

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
    stage_make(&s, false, &all_ops);
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
    stage_close(&s);
}
END_TEST

START_TEST(too_many_blocks)
{
    struct stage s;
    stage_make(&s, false, &all_ops);
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
    stage_close(&s);
}
END_TEST

/* Members that an older VMM's structs lack read as zero. */
START_TEST(older_vmm)
{
    struct stage s;
    struct ferry_ops ops = all_ops;
    ops.size = offsetof(struct ferry_ops, throttle);
    stage_make(&s, false, &ops);
    ck_assert_int_eq(ferry_start(s.f), 0);
    take_introduction(&s.d, s.fds);
    ck_assert_uint_eq(s.d.hello.features & WIRE_FEATURE_THROTTLE, 0);
    welcome(&s.d);
    struct wire_throttle throttle = {.percent = 10};
    expect_refusal(&s.d, WIRE_THROTTLE, &throttle, -1, -EINVAL, "can't throttle");
    stage_close(&s);
}
END_TEST

START_TEST(started_is_settled)
{
    struct stage s;
    stage_open(&s, false);
    ck_assert_int_eq(ferry_start(s.f), -EALREADY);
    struct ferry_ram_block block = {.size = sizeof(block),
                                    .name = "late",
                                    .fd = s.fds[0],
                                    .length = PAGE,
                                    .gpa = 1ULL << 40,
                                    .slot = FERRY_NO_SLOT};
    ck_assert_int_eq(ferry_add_ram(s.f, &block), -EINVAL);
    ck_assert_int_eq(ferry_set_kvm(s.f, s.fds[0]), -EINVAL);
    stage_close(&s);
}
END_TEST

/* ---- the introduction ---- */

START_TEST(introduction)
{
    struct stage s;
    static const uint8_t no_job[WIRE_UUID_SIZE];
    stage_open(&s, false);
    const struct wire_hello *h = &s.d.hello;
    ck_assert_uint_eq(h->magic, WIRE_MAGIC);
    ck_assert_uint_eq(h->version, WIRE_VERSION);
    ck_assert_uint_eq(h->version_min, WIRE_VERSION_MIN);
    ck_assert_uint_eq(h->features, WIRE_FEATURE_THROTTLE);
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
    stage_close(&s);
}
END_TEST

START_TEST(attached_and_detached)
{
    struct stage s;
    struct ferry_ops ops = all_ops;
    ops.attached = on_attached;
    ops.detached = on_detached;
    stage_make(&s, true, &ops);
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
    stage_close(&s);
}
END_TEST

/* Whoever closes without an answer was never attached to. */
START_TEST(no_answer)
{
    struct stage s;
    struct ferry_ops ops = all_ops;
    ops.attached = on_attached;
    ops.detached = on_detached;
    stage_make(&s, false, &ops);
    ck_assert_int_eq(ferry_start(s.f), 0);
    take_introduction(&s.d, s.fds);
    fd_close(&s.d.sock);
    take_introduction(&s.d, s.fds);
    ck_assert_int_eq(wire_send(s.d.sock, WIRE_LOG_SYNC, 1, NULL, -1), 0); /* out of turn */
    expect_lost(&s.d);
    take_introduction(&s.d, s.fds);
    welcome(&s.d);
    expect_calls(&s.v, "attached");
    stage_close(&s);
}
END_TEST

START_TEST(ferryd_comes_later)
{
    struct stage s;
    stage_make(&s, false, &all_ops);
    close(s.d.listener);
    ck_assert_int_eq(unlink(s.d.addr.sun_path), 0);
    ck_assert_int_eq(ferry_start(s.f), 0);
    ferry_guest_paused(s.f); /* wakes it: it looks for its ferryd, which is not there */
    ferryd_listen(&s.d);
    take_introduction(&s.d, s.fds);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_PAUSED);
    welcome(&s.d);
    expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_PAUSED);
    stage_close(&s);
}
END_TEST

START_TEST(nonsense_is_cut_off)
{
    struct stage s;
    stage_open(&s, false);
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
    stage_close(&s);
}
END_TEST

/* ---- requests ---- */

START_TEST(outgoing)
{
    struct stage s;
    char text[16] = "";
    CLEANUP_CLOSE int state = memfd_create("state", MFD_CLOEXEC);
    stage_open(&s, false);
    struct wire_reply r = expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    ck_assert_uint_eq(r.was_paused, 0);
    expect_done(&s.d, WIRE_SAVE, NULL, state, FERRY_GUEST_STOPPED);
    ck_assert_int_eq(pread(state, text, sizeof(text), 0), 9);
    ck_assert_str_eq(text, "the state");
    expect_done(&s.d, WIRE_GIVE_AWAY, &give_away, -1, FERRY_GUEST_GIVEN_AWAY);
    expect_done(&s.d, WIRE_RELEASE, NULL, -1, FERRY_GUEST_GIVEN_AWAY);
    expect_done(&s.d, WIRE_RELEASE, NULL, -1, FERRY_GUEST_GIVEN_AWAY); /* again: told once */
    expect_calls(&s.v, "stop save_state released");
    expect_refusal(&s.d, WIRE_TAKE_BACK, NULL, -1, -EINVAL, "runs at its destination");
    reconnect(&s);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_GIVEN_AWAY);
    ck_assert_uint_eq(s.d.hello.released, 1);
    ck_assert_mem_eq(s.d.hello.job, give_away.job, WIRE_UUID_SIZE);
    expect_calls(&s.v, "");
    stage_close(&s);
}
END_TEST

START_TEST(taken_back)
{
    struct stage s;
    stage_open(&s, false);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_GIVE_AWAY, &give_away, -1, FERRY_GUEST_GIVEN_AWAY);
    expect_refusal(&s.d, WIRE_RESUME, &migration_resume, -1, -EINVAL, "hands of a migration");
    expect_done(&s.d, WIRE_TAKE_BACK, NULL, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_RUNNING);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "stop resume");
    stage_close(&s);
}
END_TEST

START_TEST(incoming)
{
    struct stage s;
    CLEANUP_CLOSE int state = memfd_create("state", MFD_CLOEXEC);
    ck_assert_int_eq(write(state, "from afar", 9), 9); /* its position is at the end */
    stage_open(&s, true);
    expect_refusal(&s.d, WIRE_START, &start_running, -1, -EINVAL, "no state was loaded");
    expect_done(&s.d, WIRE_LOAD, NULL, state, FERRY_GUEST_INCOMING);
    ck_assert_str_eq(s.v.loaded, "from afar");
    expect_done(&s.d, WIRE_START, &start_running, -1, FERRY_GUEST_RUNNING);
    expect_refusal(&s.d, WIRE_START, &start_running, -1, -EINVAL, "does not wait");
    expect_calls(&s.v, "load_state resume");
    stage_close(&s);
}
END_TEST

START_TEST(incoming_paused)
{
    struct stage s;
    CLEANUP_CLOSE int state = memfd_create("state", MFD_CLOEXEC);
    stage_open(&s, true);
    expect_done(&s.d, WIRE_LOAD, NULL, state, FERRY_GUEST_INCOMING);
    expect_done(&s.d, WIRE_START, &start_paused, -1, FERRY_GUEST_PAUSED);
    expect_calls(&s.v, "load_state");
    expect_done(&s.d, WIRE_RESUME, &cont_request, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "resume");
    stage_close(&s);
}
END_TEST

/* A state whose load has failed, or whose ferryd went away, is not started. */
START_TEST(incoming_fails)
{
    struct stage s;
    CLEANUP_CLOSE int state = memfd_create("state", MFD_CLOEXEC);
    stage_open(&s, true);
    expect_done(&s.d, WIRE_LOAD, NULL, state, FERRY_GUEST_INCOMING);
    make_fail(&s.v, "load_state", -EPROTO, "device 'fan' spins backwards");
    expect_refusal(&s.d, WIRE_LOAD, NULL, state, -EPROTO,
                   "load_state: device 'fan' spins backwards");
    expect_refusal(&s.d, WIRE_START, &start_running, -1, -EINVAL, "no state");
    make_fail(&s.v, NULL, 0, NULL);
    expect_done(&s.d, WIRE_LOAD, NULL, state, FERRY_GUEST_INCOMING);
    reconnect(&s);
    expect_refusal(&s.d, WIRE_START, &start_running, -1, -EINVAL, "no state");
    expect_calls(&s.v, "load_state load_state load_state");
    stage_close(&s);
}
END_TEST

START_TEST(operators_pause)
{
    struct stage s;
    stage_open(&s, false);
    expect_done(&s.d, WIRE_STOP, &pause_request, -1, FERRY_GUEST_PAUSED);
    expect_done(&s.d, WIRE_STOP, &pause_request, -1, FERRY_GUEST_PAUSED);
    expect_calls(&s.v, "stop");
    /* A migration drains its I/O, and leaves it paused. */
    struct wire_reply r = expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    ck_assert_uint_eq(r.was_paused, 1);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_PAUSED);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_PAUSED);
    expect_calls(&s.v, "stop");
    expect_done(&s.d, WIRE_RESUME, &cont_request, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "resume");
    stage_close(&s);
}
END_TEST

struct refusal {
    uint32_t type;
    const void *body;
};

static void expect_refusals(struct stage *s, const struct refusal *refusals, size_t count)
{
    CLEANUP_CLOSE int fd = memfd_create("state", MFD_CLOEXEC);
    for (size_t i = 0; i < count; i++) {
        bool with_fd = refusals[i].type == WIRE_SAVE || refusals[i].type == WIRE_LOAD;
        expect_refusal(&s->d, refusals[i].type, refusals[i].body, with_fd ? fd : -1, -EINVAL, "");
    }
    expect_calls(&s->v, "");
}

START_TEST(out_of_order)
{
    static const struct wire_throttle too_much = {.percent = 100};
    static const struct refusal running[] = {
        {WIRE_SAVE, NULL},
        {WIRE_LOAD, NULL},
        {WIRE_START, &start_running},
        {WIRE_GIVE_AWAY, &give_away},
        {WIRE_TAKE_BACK, NULL},
        {WIRE_RELEASE, NULL},
        {WIRE_LOG_SYNC, NULL},
        {WIRE_THROTTLE, &too_much},
    };
    static const struct refusal stopped[] = {
        {WIRE_STOP, &migration_stop}, {WIRE_STOP, &pause_request},
        {WIRE_RESUME, &cont_request}, {WIRE_LOAD, NULL},
        {WIRE_START, &start_running}, {WIRE_TAKE_BACK, NULL},
        {WIRE_RELEASE, NULL},
    };
    static const struct refusal given_away[] = {
        {WIRE_STOP, &migration_stop},
        {WIRE_STOP, &pause_request},
        {WIRE_RESUME, &cont_request},
        {WIRE_RESUME, &migration_resume},
        {WIRE_SAVE, NULL},
        {WIRE_LOAD, NULL},
        {WIRE_START, &start_running},
        {WIRE_GIVE_AWAY, &give_away},
    };
    struct stage s;
    stage_open(&s, false);
    expect_refusals(&s, running, sizeof(running) / sizeof(running[0]));
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_calls(&s.v, "stop");
    expect_refusals(&s, stopped, sizeof(stopped) / sizeof(stopped[0]));
    expect_done(&s.d, WIRE_GIVE_AWAY, &give_away, -1, FERRY_GUEST_GIVEN_AWAY);
    expect_refusals(&s, given_away, sizeof(given_away) / sizeof(given_away[0]));
    stage_close(&s);
}
END_TEST

START_TEST(out_of_order_incoming)
{
    static const struct refusal refusals[] = {
        {WIRE_STOP, &migration_stop},     {WIRE_STOP, &pause_request}, {WIRE_RESUME, &cont_request},
        {WIRE_RESUME, &migration_resume}, {WIRE_SAVE, NULL},           {WIRE_GIVE_AWAY, &give_away},
        {WIRE_TAKE_BACK, NULL},           {WIRE_RELEASE, NULL},
    };
    struct stage s;
    stage_open(&s, true);
    expect_refusals(&s, refusals, sizeof(refusals) / sizeof(refusals[0]));
    stage_close(&s);
}
END_TEST

START_TEST(without_descriptor)
{
    struct stage s;
    stage_open(&s, false);
    expect_refusal(&s.d, WIRE_LOG_START, NULL, -1, -EBADF, "dirty map");
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_refusal(&s.d, WIRE_SAVE, NULL, -1, -EBADF, "");
    expect_calls(&s.v, "stop");
    stage_close(&s);
}
END_TEST

START_TEST(callbacks_fail)
{
    struct stage s;
    char words[600];
    memset(words, 'w', sizeof(words));
    words[sizeof(words) - 1] = '\0';
    stage_open(&s, false);
    make_fail(&s.v, "stop", -EBUSY, "the disk is stuck");
    expect_refusal(&s.d, WIRE_STOP, &migration_stop, -1, -EBUSY, "stop: the disk is stuck");
    ck_assert_int_eq(ferry_guest_state(s.f), FERRY_GUEST_RUNNING);
    make_fail(&s.v, "stop", -ENOSPC, NULL); /* and not the words from before */
    expect_refusal(&s.d, WIRE_STOP, &migration_stop, -1, -ENOSPC, "stop: No space left on device");
    make_fail(&s.v, "stop", -EIO, words);
    expect_refusal(&s.d, WIRE_STOP, &migration_stop, -1, -EIO, "stop: wwww");
    make_fail(&s.v, NULL, 0, NULL);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    make_fail(&s.v, "resume", -EIO, "no way back");
    expect_refusal(&s.d, WIRE_RESUME, &migration_resume, -1, -EIO, "resume: no way back");
    ck_assert_int_eq(ferry_guest_state(s.f), FERRY_GUEST_STOPPED);
    expect_calls(&s.v, "stop stop stop stop resume");
    make_fail(&s.v, NULL, 0, NULL);
    stage_close(&s);
}
END_TEST

START_TEST(throttle)
{
    struct stage s;
    struct wire_throttle percent = {.percent = 99};
    stage_open(&s, false);
    expect_done(&s.d, WIRE_THROTTLE, &percent, -1, FERRY_GUEST_RUNNING);
    percent.percent = 0;
    expect_done(&s.d, WIRE_THROTTLE, &percent, -1, FERRY_GUEST_RUNNING);
    fd_close(&s.d.sock);
    take_introduction(&s.d, s.fds);
    expect_calls(&s.v, "throttle=99 throttle=0"); /* nothing to end */
    stage_close(&s);
}
END_TEST

/* ---- the dirty map ---- */

static const uint64_t block_pages[] = {FIRST, SECOND, THIRD};

struct marks {
    struct dirtymap map;
};

static void start_log(struct stage *s, struct marks *m)
{
    CLEANUP_CLOSE int fd = dirtymap_create(block_pages, 3);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(dirtymap_map(&m->map, fd, block_pages, 3), 0);
    expect_done(&s->d, WIRE_LOG_START, NULL, fd, FERRY_GUEST_RUNNING);
}

/* The pages marked since the last time, as "0:3-5 1:0"; clears them. */
static void expect_marks(struct marks *m, const char *expected)
{
    char text[256] = "";
    for (unsigned i = 0; i < 3; i++) {
        uint64_t *marks = (uint64_t *)dirtymap_marks(&m->map, block_pages, i);
        /* Also what lies behind the block's last page. */
        uint64_t bits = bits_words(block_pages[i]) * BITS_PER_WORD, at = 0;
        while ((at = bits_next_set(marks, at, bits)) < bits) {
            uint64_t end = bits_next_clear(marks, at, bits);
            size_t n = strlen(text);
            snprintf(text + n, sizeof(text) - n, "%s%u:%ju-%ju", n ? " " : "", i, (uintmax_t)at,
                     (uintmax_t)(end - 1));
            at = end;
        }
        bits_clear_range(marks, 0, bits);
    }
    ck_assert_str_eq(text, expected);
}

START_TEST(mark_dirty)
{
    struct stage s;
    struct marks m;
    stage_open(&s, false);
    ferry_mark_dirty(s.f, 0, FIRST * PAGE); /* nobody is listening */
    start_log(&s, &m);
    expect_marks(&m, "");
    ferry_mark_dirty(s.f, 0, 1);
    expect_marks(&m, "0:0-0");
    ferry_mark_dirty(s.f, 3 * PAGE - 1, 2);
    expect_marks(&m, "0:2-3");
    ferry_mark_dirty(s.f, 60 * PAGE, 8 * PAGE); /* over a word's border */
    expect_marks(&m, "0:60-67");
    ferry_mark_dirty(s.f, (FIRST - 1) * PAGE + 5, PAGE); /* into the next block */
    expect_marks(&m, "0:69-69 1:0-0");
    ferry_mark_dirty(s.f, 0, UINT64_MAX); /* all there is, and past it */
    expect_marks(&m, "0:0-69 1:0-9 2:0-2");
    ferry_mark_dirty(s.f, THIRD_GPA - PAGE, 2 * PAGE);
    expect_marks(&m, "2:0-0");
    ferry_mark_dirty(s.f, THIRD_GPA + 2 * PAGE, 100 * PAGE);
    expect_marks(&m, "2:2-2");
    ferry_mark_dirty(s.f, THIRD_GPA + 1, UINT64_MAX); /* its end wraps around */
    expect_marks(&m, "2:0-2");
    ferry_mark_dirty(s.f, 5 * PAGE, 0);
    ferry_mark_dirty(s.f, (FIRST + SECOND) * PAGE, PAGE); /* no RAM */
    ferry_mark_dirty(s.f, UINT64_MAX, UINT64_MAX);
    expect_marks(&m, "");
    expect_done(&s.d, WIRE_LOG_SYNC, NULL, -1, FERRY_GUEST_RUNNING);
    expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_RUNNING);
    ferry_mark_dirty(s.f, 0, PAGE);
    expect_marks(&m, "");
    expect_refusal(&s.d, WIRE_LOG_SYNC, NULL, -1, -EINVAL, "no dirty log");
    dirtymap_unmap(&m.map);
    stage_close(&s);
}
END_TEST

static void *mark_all(void *arg)
{
    struct stage *s = arg;
    for (uint64_t page = 0; page < FIRST; page++) {
        ferry_mark_dirty(s->f, page * PAGE, 1);
    }
    return NULL;
}

/* Several threads mark; none of it is lost. */
START_TEST(mark_from_threads)
{
    struct stage s;
    struct marks m;
    pthread_t threads[4];
    stage_open(&s, false);
    start_log(&s, &m);
    for (int i = 0; i < 4; i++) {
        pthread_create(&threads[i], NULL, mark_all, &s);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    expect_marks(&m, "0:0-69");
    dirtymap_unmap(&m.map);
    stage_close(&s);
}
END_TEST

START_TEST(log_ends_with_the_connection)
{
    struct stage s;
    struct marks m;
    stage_open(&s, false);
    start_log(&s, &m);
    reconnect(&s);
    expect_refusal(&s.d, WIRE_LOG_SYNC, NULL, -1, -EINVAL, "no dirty log");
    ferry_mark_dirty(s.f, 0, PAGE);
    expect_marks(&m, "");
    dirtymap_unmap(&m.map);
    stage_close(&s);
}
END_TEST

/* A second LOG_START replaces the first one's map. */
START_TEST(log_starts_again)
{
    struct stage s;
    struct marks old, new;
    stage_open(&s, false);
    start_log(&s, &old);
    start_log(&s, &new);
    ferry_mark_dirty(s.f, 0, PAGE);
    expect_marks(&old, "");
    expect_marks(&new, "0:0-0");
    dirtymap_unmap(&old.map);
    dirtymap_unmap(&new.map);
    stage_close(&s);
}
END_TEST

static void expect_map_refused(struct stage *s, int fd)
{
    expect_refusal(&s->d, WIRE_LOG_START, NULL, fd, -EINVAL, "dirty map");
    expect_refusal(&s->d, WIRE_LOG_SYNC, NULL, -1, -EINVAL, "no dirty log");
    close(fd);
}

START_TEST(bad_maps)
{
    static const uint64_t other_pages[] = {FIRST, SECOND, 100000};
    struct stage s;
    int ends[2];
    stage_open(&s, false);
    expect_map_refused(&s, dirtymap_create(other_pages, 3));
    expect_map_refused(&s, dirtymap_create(block_pages, 2));
    int unsealed = memfd_create("unsealed", MFD_CLOEXEC);
    ck_assert_int_eq(ftruncate(unsealed, 6 * 4096), 0);
    expect_map_refused(&s, unsealed);
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    close(ends[1]);
    expect_map_refused(&s, ends[0]);
    ferry_mark_dirty(s.f, 0, PAGE);
    stage_close(&s);
}
END_TEST

START_TEST(clear_ranges)
{
    static const struct wire_log_clear bad[] = {
        {.block = 3, .first = 0, .count = 1},
        {.block = UINT32_MAX, .first = 0, .count = 1},
        {.block = 0, .first = 0, .count = FIRST + 1},
        {.block = 0, .first = FIRST + 1, .count = 0},
        {.block = 0, .first = 64, .count = UINT64_MAX},
        {.block = 1, .first = UINT64_MAX, .count = 1},
    };
    struct wire_log_clear good = {.block = 0, .first = 64, .count = FIRST - 64};
    struct stage s;
    struct marks m;
    stage_open(&s, false);
    expect_refusal(&s.d, WIRE_LOG_CLEAR, &good, -1, -EINVAL, NULL);
    start_log(&s, &m);
    expect_done(&s.d, WIRE_LOG_CLEAR, &good, -1, FERRY_GUEST_RUNNING);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        expect_refusal(&s.d, WIRE_LOG_CLEAR, &bad[i], -1, -EINVAL, "outside");
    }
    dirtymap_unmap(&m.map);
    stage_close(&s);
}
END_TEST

/* ---- a lost connection ---- */

START_TEST(lost_while_stopped)
{
    struct stage s;
    struct wire_throttle percent = {.percent = 30};
    stage_open(&s, false);
    expect_done(&s.d, WIRE_THROTTLE, &percent, -1, FERRY_GUEST_RUNNING);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    reconnect(&s);
    expect_calls(&s.v, "throttle=30 stop throttle=0 resume");
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_RUNNING);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    stage_close(&s);
}
END_TEST

START_TEST(lost_while_paused)
{
    struct stage s;
    stage_open(&s, false);
    expect_done(&s.d, WIRE_STOP, &pause_request, -1, FERRY_GUEST_PAUSED);
    reconnect(&s);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_PAUSED);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    reconnect(&s);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_PAUSED);
    expect_calls(&s.v, "stop stop"); /* and never a resume */
    stage_close(&s);
}
END_TEST

START_TEST(lost_while_given_away)
{
    struct stage s;
    stage_open(&s, false);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_GIVE_AWAY, &give_away, -1, FERRY_GUEST_GIVEN_AWAY);
    reconnect(&s);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_GIVEN_AWAY);
    ck_assert_uint_eq(s.d.hello.released, 0);
    ck_assert_mem_eq(s.d.hello.job, give_away.job, WIRE_UUID_SIZE);
    expect_calls(&s.v, "stop");
    /* An operator's word brings it back. */
    expect_done(&s.d, WIRE_TAKE_BACK, NULL, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "resume");
    stage_close(&s);
}
END_TEST

/* Lost while a callback runs: what was asked is done, and undone. */
START_TEST(lost_in_a_callback)
{
    struct stage s;
    stage_open(&s, false);
    s.v.blocking = "stop";
    ck_assert_int_eq(wire_send(s.d.sock, WIRE_STOP, 1, &migration_stop, -1), 0);
    await_blocked(&s.v);
    fd_close(&s.d.sock);
    let_go_on(&s.v);
    take_introduction(&s.d, s.fds);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_RUNNING);
    expect_calls(&s.v, "stop resume");
    stage_close(&s);
}
END_TEST

/* ---- the end ---- */

static void *free_it(void *arg)
{
    ferry_free(arg);
    return NULL;
}

START_TEST(free_in_a_callback)
{
    struct stage s;
    pthread_t thread;
    stage_open(&s, false);
    s.v.blocking = "stop";
    ck_assert_int_eq(wire_send(s.d.sock, WIRE_STOP, 1, &migration_stop, -1), 0);
    await_blocked(&s.v);
    pthread_create(&thread, NULL, free_it, s.f);
    let_go_on(&s.v);
    pthread_join(thread, NULL);
    s.f = NULL;
    expect_calls(&s.v, "stop resume"); /* what ferryd can't undo any more */
    stage_close(&s);
}
END_TEST

START_TEST(free_unwelcomed)
{
    struct stage s;
    stage_make(&s, false, &all_ops);
    ck_assert_int_eq(ferry_start(s.f), 0);
    take_introduction(&s.d, s.fds);
    ferry_free(s.f);
    s.f = NULL;
    expect_lost(&s.d);
    stage_close(&s);
}
END_TEST

START_TEST(free_unconnected)
{
    struct stage s;
    stage_make(&s, false, &all_ops);
    close(s.d.listener);
    s.d.listener = -1;
    ck_assert_int_eq(ferry_start(s.f), 0);
    stage_close(&s);
}
END_TEST

START_TEST(free_unstarted)
{
    struct stage s;
    stage_make(&s, false, &all_ops);
    stage_close(&s);
}
END_TEST

/* ---- what the VMM tells ---- */

static void expect_state(struct stage *s, enum ferry_guest_state state)
{
    ck_assert_uint_eq(receive(&s->d, WIRE_STATE, NULL).body.state.state, state);
}

START_TEST(paused_and_running)
{
    struct stage s;
    stage_open(&s, false);
    ferry_guest_paused(s.f);
    expect_state(&s, FERRY_GUEST_PAUSED);
    ck_assert_int_eq(ferry_guest_running(s.f), 0);
    expect_state(&s, FERRY_GUEST_RUNNING);
    ck_assert_int_eq(ferry_guest_running(s.f), 0); /* no news */
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    ck_assert_int_eq(ferry_guest_running(s.f), -EBUSY);
    ferry_guest_paused(s.f); /* paused it is when it comes back */
    ck_assert_int_eq(ferry_guest_state(s.f), FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_PAUSED);
    expect_calls(&s.v, "stop");
    stage_close(&s);
}
END_TEST

START_TEST(not_the_vmms_to_run)
{
    struct stage s;
    stage_open(&s, true);
    ck_assert_int_eq(ferry_guest_running(s.f), -EBUSY);
    ferry_guest_paused(s.f);
    ck_assert_int_eq(ferry_guest_state(s.f), FERRY_GUEST_INCOMING);
    stage_close(&s);
    stage_open(&s, false);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_GIVE_AWAY, &give_away, -1, FERRY_GUEST_GIVEN_AWAY);
    ck_assert_int_eq(ferry_guest_running(s.f), -EBUSY);
    ferry_guest_paused(s.f);
    ck_assert_int_eq(ferry_guest_state(s.f), FERRY_GUEST_GIVEN_AWAY);
    stage_close(&s);
}
END_TEST

START_TEST(told_after_the_loss)
{
    struct stage s;
    struct ferry_ops ops = all_ops;
    ops.detached = on_detached;
    stage_make(&s, false, &ops);
    ck_assert_int_eq(ferry_start(s.f), 0);
    take_introduction(&s.d, s.fds);
    welcome(&s.d);
    fd_close(&s.d.sock);
    expect_calls(&s.v, "detached(the connection to ferryd was lost)");
    ferry_guest_paused(s.f);
    take_introduction(&s.d, s.fds);
    ck_assert_uint_eq(s.d.hello.state, FERRY_GUEST_PAUSED);
    ferry_guest_shutdown(s.f); /* in the middle of the introduction */
    welcome(&s.d);
    receive(&s.d, WIRE_SHUTDOWN, NULL);
    stage_close(&s);
}
END_TEST

START_TEST(guest_shutdown)
{
    struct stage s;
    stage_open(&s, false);
    ferry_guest_shutdown(s.f);
    receive(&s.d, WIRE_SHUTDOWN, NULL);
    expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_RUNNING);
    stage_close(&s);
}
END_TEST

START_TEST(version)
{
    unsigned major, minor, micro;
    ck_assert_int_eq(sscanf(ferry_version(), "%u.%u.%u", &major, &minor, &micro), 3);
}
END_TEST

/* ---- KVM ---- */

/* Real mode, at 0x1000: mov byte [0x5000], 1; hlt. */
static const uint8_t code[] = {0xc6, 0x06, 0x00, 0x50, 0x01, 0xf4};

struct machine {
    int kvm, vm, vcpu;
    struct kvm_run *run;
    size_t run_size;
    uint8_t *ram;
};

static bool machine_open(struct machine *m, int fd)
{
    m->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    m->vm = m->kvm < 0 ? -1 : ioctl(m->kvm, KVM_CREATE_VM, 0);
    if (m->vm < 0) {
        fd_close(&m->kvm);
        return false;
    }
    m->ram = mmap(NULL, FIRST * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(m->ram, MAP_FAILED);
    memcpy(m->ram + 0x1000, code, sizeof(code));
    struct kvm_userspace_memory_region region = {
        .slot = 3, .memory_size = FIRST * PAGE, .userspace_addr = (uint64_t)(uintptr_t)m->ram};
    ck_assert_int_eq(ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
    m->vcpu = ioctl(m->vm, KVM_CREATE_VCPU, 0);
    ck_assert_int_ge(m->vcpu, 0);
    m->run_size = (size_t)ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    m->run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
    ck_assert_ptr_ne(m->run, MAP_FAILED);
    return true;
}

static void machine_close(struct machine *m)
{
    munmap(m->run, m->run_size);
    close(m->vcpu);
    close(m->vm);
    close(m->kvm);
    munmap(m->ram, FIRST * PAGE);
}

/* The guest writes page 5. */
static void machine_run(struct machine *m)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};
    ck_assert_int_eq(ioctl(m->vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = sregs.cs.selector = 0;
    sregs.ds.base = sregs.ds.selector = 0;
    ck_assert_int_eq(ioctl(m->vcpu, KVM_SET_SREGS, &sregs), 0);
    ck_assert_int_eq(ioctl(m->vcpu, KVM_SET_REGS, &regs), 0);
    ck_assert_int_eq(ioctl(m->vcpu, KVM_RUN, 0), 0);
    ck_assert_uint_eq(m->run->exit_reason, KVM_EXIT_HLT);
}

static bool slot_logs(const struct machine *m)
{
    uint64_t bitmap[2];
    struct kvm_dirty_log log = {.slot = 3, .dirty_bitmap = bitmap};
    return ioctl(m->vm, KVM_GET_DIRTY_LOG, &log) == 0;
}

static void machine_stage(struct stage *s, struct machine *m)
{
    struct ferry_config config = {.size = sizeof(config),
                                  .name = "unit",
                                  .socket_path = s->d.addr.sun_path,
                                  .ops = &all_ops,
                                  .opaque = &s->v};
    struct ferry_ram_block block = {.size = sizeof(block),
                                    .name = "first",
                                    .fd = s->fds[0],
                                    .length = FIRST * PAGE,
                                    .hva = m->ram,
                                    .slot = 3};
    ck_assert_int_eq(ferry_new(&config, &s->f), 0);
    ck_assert_int_eq(ferry_add_ram(s->f, &block), 0);
    ck_assert_int_eq(ferry_start(s->f), -EINVAL); /* a slot, and no VM */
    ck_assert_int_eq(ferry_set_kvm(s->f, m->vm), 0);
    ck_assert_int_eq(ferry_set_kvm(s->f, m->vm), -EINVAL);
    ck_assert_int_eq(ferry_start(s->f), 0);
    take_introduction(&s->d, s->fds);
    ck_assert(s->d.hello.features & WIRE_FEATURE_KVM_LOG);
    ck_assert_uint_eq(s->d.blocks[0].has_slot, 1);
    welcome(&s->d);
}

/* The log after a sync: how many pages, and whether page 5 is one of them. */
static uint64_t sync_log(struct stage *s, const struct dirtymap *map, bool *fifth)
{
    const uint64_t *log = dirtymap_log(map, block_pages, 0);
    expect_done(&s->d, WIRE_LOG_SYNC, NULL, -1, FERRY_GUEST_RUNNING);
    *fifth = bits_test(log, 5);
    return bits_count(log, 0, FIRST);
}

static void log_a_write(struct stage *s, struct machine *m, const struct dirtymap *map)
{
    static const struct wire_log_clear all = {.block = 0, .first = 0, .count = FIRST};
    bool manual = s->d.hello.features & WIRE_FEATURE_MANUAL_PROTECT;
    bool fifth;
    sync_log(s, map, &fifth);
    expect_done(&s->d, WIRE_LOG_CLEAR, &all, -1, FERRY_GUEST_RUNNING);
    ck_assert_uint_eq(sync_log(s, map, &fifth), 0);
    machine_run(m);
    ck_assert_uint_ge(sync_log(s, map, &fifth), 1);
    ck_assert(fifth);
    if (manual) { /* until it is cleared it stays */
        ck_assert_uint_ge(sync_log(s, map, &fifth), 1);
        ck_assert(fifth);
        expect_done(&s->d, WIRE_LOG_CLEAR, &all, -1, FERRY_GUEST_RUNNING);
    }
    sync_log(s, map, &fifth);
    ck_assert(!fifth);
}

START_TEST(kvm_log)
{
    struct stage s = {.fds = {file_new(FIRST), -1, -1}};
    struct machine m;
    if (!machine_open(&m, s.fds[0])) {
        printf("SKIP: no usable /dev/kvm\n");
        close(s.fds[0]);
        return;
    }
    struct dirtymap map;
    vmm_init(&s.v);
    ferryd_init(&s.d);
    machine_stage(&s, &m);
    CLEANUP_CLOSE int fd = dirtymap_create(block_pages, 1);
    ck_assert_int_eq(dirtymap_map(&map, fd, block_pages, 1), 0);
    ck_assert(!slot_logs(&m));
    expect_done(&s.d, WIRE_LOG_START, NULL, fd, FERRY_GUEST_RUNNING);
    ck_assert(slot_logs(&m));
    log_a_write(&s, &m, &map);
    expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_RUNNING);
    ck_assert(!slot_logs(&m));
    expect_done(&s.d, WIRE_LOG_START, NULL, fd, FERRY_GUEST_RUNNING);
    ck_assert(slot_logs(&m));
    fd_close(&s.d.sock); /* a lost ferryd's log is turned off */
    take_introduction(&s.d, s.fds);
    ck_assert(!slot_logs(&m));
    dirtymap_unmap(&map);
    ferry_free(s.f);
    machine_close(&m);
    ferryd_end(&s.d);
    close(s.fds[0]);
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
    unit_add(suite, "guest/libferry/requests/outgoing", outgoing);
    unit_add(suite, "guest/libferry/requests/taken-back", taken_back);
    unit_add(suite, "guest/libferry/requests/incoming", incoming);
    unit_add(suite, "guest/libferry/requests/incoming-paused", incoming_paused);
    unit_add(suite, "guest/libferry/requests/incoming-fails", incoming_fails);
    unit_add(suite, "guest/libferry/requests/operators-pause", operators_pause);
    unit_add(suite, "guest/libferry/requests/out-of-order", out_of_order);
    unit_add(suite, "guest/libferry/requests/out-of-order-incoming", out_of_order_incoming);
    unit_add(suite, "guest/libferry/requests/without-descriptor", without_descriptor);
    unit_add(suite, "guest/libferry/requests/callbacks-fail", callbacks_fail);
    unit_add(suite, "guest/libferry/requests/throttle", throttle);
    unit_add(suite, "guest/libferry/log/mark-dirty", mark_dirty);
    unit_add(suite, "guest/libferry/log/mark-from-threads", mark_from_threads);
    unit_add(suite, "guest/libferry/log/ends-with-the-connection", log_ends_with_the_connection);
    unit_add(suite, "guest/libferry/log/starts-again", log_starts_again);
    unit_add(suite, "guest/libferry/log/bad-maps", bad_maps);
    unit_add(suite, "guest/libferry/log/clear-ranges", clear_ranges);
    unit_add(suite, "guest/libferry/lost/stopped", lost_while_stopped);
    unit_add(suite, "guest/libferry/lost/paused", lost_while_paused);
    unit_add(suite, "guest/libferry/lost/given-away", lost_while_given_away);
    unit_add(suite, "guest/libferry/lost/in-a-callback", lost_in_a_callback);
    unit_add(suite, "guest/libferry/free/in-a-callback", free_in_a_callback);
    unit_add(suite, "guest/libferry/free/unwelcomed", free_unwelcomed);
    unit_add(suite, "guest/libferry/free/unconnected", free_unconnected);
    unit_add(suite, "guest/libferry/free/unstarted", free_unstarted);
    unit_add(suite, "guest/libferry/news/paused-and-running", paused_and_running);
    unit_add(suite, "guest/libferry/news/not-the-vmms-to-run", not_the_vmms_to_run);
    unit_add(suite, "guest/libferry/news/told-after-the-loss", told_after_the_loss);
    unit_add(suite, "guest/libferry/news/shutdown", guest_shutdown);
    unit_add(suite, "guest/libferry/version", version);
    unit_add(suite, "guest/libferry/kvm/log", kvm_log);
    return unit_run(suite);
}
