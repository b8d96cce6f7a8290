/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/agent_stage.h"

#include "common/cleanup.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the stage ---- */

static bool on_attached(void *opaque, struct guest *g, struct error **errp)
{
    struct stage *s = opaque;
    ck_assert_ptr_eq(g, s->g);
    s->attached++;
    if (s->refusing) {
        error_set(errp, "guest-exists", "there is one already");
    }
    return !s->refusing;
}

static void on_changed(void *opaque, struct guest *g, enum guest_state from)
{
    struct stage *s = opaque;
    ck_assert_ptr_eq(g, s->g);
    s->changes++;
    s->from = from;
}

static void on_shut_down(void *opaque, struct guest *g, bool by_guest, const char *reason)
{
    struct stage *s = opaque;
    ck_assert_ptr_eq(g, s->g);
    ck_assert(by_guest);
    ck_assert_str_eq(reason, "guest-shutdown");
    s->shut_downs++;
}

void agent_stage_open(struct stage *s)
{
    int ends[2];
    *s = (struct stage){0};
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    s->sock = ends[0];
    s->vmm = ends[1];
    s->g = agent_new(ends[0], &(struct guest_events){.attached = on_attached,
                                                     .state_changed = on_changed,
                                                     .shut_down = on_shut_down,
                                                     .opaque = s});
    ck_assert_ptr_nonnull(s->g);
    for (int i = 0; i < 4; i++) {
        s->files[i] = file_new(100);
    }
}

void agent_stage_close(struct stage *s)
{
    guest_unref(s->g);
    fd_close(&s->vmm);
    for (int i = 0; i < 4; i++) {
        close(s->files[i]);
    }
}

/* The daemon's loop: reads what has come, as often as there is something. */
bool read_all(struct stage *s, struct error **errp)
{
    struct pollfd fd = {.fd = s->sock, .events = POLLIN};
    while (poll(&fd, 1, 0) > 0) {
        if (!agent_read(s->g, errp)) {
            return false;
        }
    }
    return true;
}

void expect_read(struct stage *s)
{
    struct error *err = NULL;
    bool ok = read_all(s, &err);
    expect_ok(ok, err);
}

/* ---- the VMM ---- */

void vmm_send(struct stage *s, uint32_t type, uint64_t seq, const void *body, int fd)
{
    ck_assert_int_eq(wire_send(s->vmm, type, seq, body, fd), 0);
}

struct wire_message vmm_receive(struct stage *s, uint32_t type, int *fd)
{
    struct wire_message msg = {0};
    struct pollfd p = {.fd = s->vmm, .events = POLLIN};
    int passed;
    ck_assert_int_eq(poll(&p, 1, PATIENCE_MS), 1);
    ck_assert_int_eq(wire_recv(s->vmm, &msg, &passed), 1);
    ck_assert_uint_eq(msg.head.type, type);
    if (fd) {
        *fd = passed;
    } else {
        ck_assert_int_eq(passed, -1);
    }
    return msg;
}

void vmm_reply(struct stage *s, uint64_t seq, int status, enum guest_state state, const char *text)
{
    struct wire_reply body = {.status = status, .state = state};
    snprintf(body.text, sizeof(body.text), "%s", text);
    vmm_send(s, WIRE_REPLY, seq, &body, -1);
}

void expect_silence(struct stage *s)
{
    struct pollfd p = {.fd = s->vmm, .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, 0), 0);
}

struct wire_hello good_hello(void)
{
    return (struct wire_hello){.magic = WIRE_MAGIC,
                               .version = WIRE_VERSION,
                               .version_min = WIRE_VERSION_MIN,
                               .features = WIRE_FEATURE_KVM_LOG | WIRE_FEATURE_MANUAL_PROTECT,
                               .page_size = 4096,
                               .blocks = 2,
                               .state = GUEST_RUNNING,
                               .name = "unit"};
}

/* "low", 70 pages at 0, and "high", 10 pages behind it. */
struct wire_block good_block(int index)
{
    static const struct wire_block blocks[] = {
        {.length = 70 * PAGE, .has_slot = 1, .name = "low"},
        {.offset = PAGE, .length = 10 * PAGE, .gpa = 70 * PAGE, .has_slot = 1, .name = "high"},
    };
    return blocks[index];
}

const uint64_t block_pages[2] = {70, 10};

void introduce(struct stage *s, struct wire_hello hello)
{
    vmm_send(s, WIRE_HELLO, 0, &hello, -1);
    for (int i = 0; i < 2; i++) {
        struct wire_block block = good_block(i);
        vmm_send(s, WIRE_BLOCK, 0, &block, s->files[i]);
    }
    vmm_send(s, WIRE_READY, 0, NULL, -1);
}

void agent_stage_attach(struct stage *s)
{
    agent_stage_open(s);
    introduce(s, good_hello());
    expect_read(s);
    vmm_receive(s, WIRE_WELCOME, NULL);
}

/* ---- a job's calls ---- */

static void *run_call(void *arg)
{
    struct call *c = arg;
    c->make(c);
    return NULL;
}

void call_begin(struct call *c, struct stage *s, void (*make)(struct call *c), const struct wait *w)
{
    *c = (struct call){.s = s, .make = make, .w = *w, .fd = c->fd};
    pthread_create(&c->thread, NULL, run_call, c);
}

void call_done(struct call *c)
{
    pthread_join(c->thread, NULL);
    expect_ok(c->ok, c->err);
}

void call_failed(struct call *c, const char *code, const char *part)
{
    pthread_join(c->thread, NULL);
    ck_assert(!c->ok);
    expect_error(c->err, code, part);
}

void make_stop(struct call *c)
{
    uint64_t stopped_ns = 0;
    c->ok = c->s->g->ops->stop(c->s->g, &c->was_paused, &stopped_ns, &c->w, &c->err);
}

void make_resume(struct call *c)
{
    c->ok = c->s->g->ops->resume(c->s->g, &c->w, &c->err);
}

void make_save(struct call *c)
{
    c->fd = c->s->g->ops->save_state(c->s->g, &c->w, &c->err);
    c->ok = c->fd >= 0;
}

void make_load(struct call *c)
{
    c->ok = c->s->g->ops->load_state(c->s->g, c->fd, &c->w, &c->err);
}

const struct guest_announce some_rounds = {.initial = 1, .max = 2, .rounds = 3, .step = 4};

void make_start(struct call *c)
{
    c->ok = c->s->g->ops->start(c->s->g, true, &some_rounds, &c->w, &c->err);
}

void make_give_away(struct call *c)
{
    static const uint8_t job[] = "0123456789abcde";
    c->ok = c->s->g->ops->give_away(c->s->g, job, &c->w, &c->err);
}

void make_take_back(struct call *c)
{
    c->ok = c->s->g->ops->take_back(c->s->g, &c->w, &c->err);
}

void make_release(struct call *c)
{
    c->ok = c->s->g->ops->release(c->s->g, &c->w, &c->err);
}

void make_log_start(struct call *c)
{
    c->ok = c->s->g->ops->log_start(c->s->g, &c->w, &c->err);
}

void make_log_sync(struct call *c)
{
    uint64_t *const dirty[] = {c->dirty[0], c->dirty[1]};
    c->ok = c->s->g->ops->log_sync(c->s->g, dirty, &c->w, &c->err);
}

void make_log_clear(struct call *c)
{
    c->ok = c->s->g->ops->log_clear(c->s->g, 1, 0, 10, &c->w, &c->err);
}

void note_outcome(void *opaque, struct error *err)
{
    struct outcome *o = opaque;
    o->calls++;
    error_free(o->err);
    o->err = err;
}
