/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The daemon's side of a VMM that links libferry.  The test is both the daemon's main thread and
 * the VMM; calls that a job makes run on a thread of their own.
 */
#include "common/bits.h"
#include "common/cleanup.h"
#include "guest/agent.h"
#include "guest/dirtymap.h"
#include "guest/wire.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define PATIENCE_MS 30000

static const struct wait patient = {.cancel_fd = -1, .timeout_ms = PATIENCE_MS, .what = "nobody"};
static const struct wait hasty = {.cancel_fd = -1, .timeout_ms = 20, .what = "nobody"};

/* ---- the stage ---- */

struct stage {
    struct guest *g;
    int vmm;       /* its end of the socket */
    int files[4];  /* what the VMM passes */
    bool refusing; /* the daemon wants no more guests */
    unsigned attached, changes, shut_downs;
    enum guest_state from; /* of the last change */
};

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

static void on_shut_down(void *opaque, struct guest *g)
{
    struct stage *s = opaque;
    ck_assert_ptr_eq(g, s->g);
    s->shut_downs++;
}

static void stage_open(struct stage *s)
{
    int ends[2];
    *s = (struct stage){0};
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    s->vmm = ends[1];
    s->g = agent_new(ends[0], &(struct agent_events){.attached = on_attached,
                                                     .state_changed = on_changed,
                                                     .shut_down = on_shut_down,
                                                     .opaque = s});
    ck_assert_ptr_nonnull(s->g);
    for (int i = 0; i < 4; i++) {
        s->files[i] = file_new(100);
    }
}

static void stage_close(struct stage *s)
{
    guest_unref(s->g);
    fd_close(&s->vmm);
    for (int i = 0; i < 4; i++) {
        close(s->files[i]);
    }
}

/* The daemon's loop: reads what has come, as often as there is something. */
static bool read_all(struct stage *s, struct error **errp)
{
    struct pollfd fd = {.fd = agent_socket(s->g), .events = POLLIN};
    while (poll(&fd, 1, 0) > 0) {
        if (!agent_read(s->g, errp)) {
            return false;
        }
    }
    return true;
}

static void expect_read(struct stage *s)
{
    struct error *err = NULL;
    bool ok = read_all(s, &err);
    expect_ok(ok, err);
}

/* ---- the VMM ---- */

static void vmm_send(struct stage *s, uint32_t type, uint64_t seq, const void *body, int fd)
{
    ck_assert_int_eq(wire_send(s->vmm, type, seq, body, fd), 0);
}

static struct wire_message vmm_receive(struct stage *s, uint32_t type, int *fd)
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

static void vmm_reply(struct stage *s, uint64_t seq, int status, enum guest_state state,
                      const char *text)
{
    struct wire_reply body = {.status = status, .state = state};
    snprintf(body.text, sizeof(body.text), "%s", text);
    vmm_send(s, WIRE_REPLY, seq, &body, -1);
}

static void expect_silence(struct stage *s)
{
    struct pollfd p = {.fd = s->vmm, .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, 0), 0);
}

static struct wire_hello good_hello(void)
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
static struct wire_block good_block(int index)
{
    static const struct wire_block blocks[] = {
        {.length = 70 * PAGE, .has_slot = 1, .name = "low"},
        {.offset = PAGE, .length = 10 * PAGE, .gpa = 70 * PAGE, .has_slot = 1, .name = "high"},
    };
    return blocks[index];
}

static const uint64_t block_pages[] = {70, 10};

static void introduce(struct stage *s, struct wire_hello hello)
{
    vmm_send(s, WIRE_HELLO, 0, &hello, -1);
    for (int i = 0; i < 2; i++) {
        struct wire_block block = good_block(i);
        vmm_send(s, WIRE_BLOCK, 0, &block, s->files[i]);
    }
    vmm_send(s, WIRE_READY, 0, NULL, -1);
}

static void stage_attach(struct stage *s)
{
    stage_open(s);
    introduce(s, good_hello());
    expect_read(s);
    ck_assert(agent_is_attached(s->g));
    vmm_receive(s, WIRE_WELCOME, NULL);
}

/* ---- the introduction ---- */

START_TEST(introduction)
{
    struct stage s;
    struct stat a, b;
    stage_open(&s);
    ck_assert(!agent_is_attached(s.g));
    struct wire_hello hello = good_hello();
    hello.state = GUEST_GIVEN_AWAY;
    hello.released = 1;
    memcpy(hello.job, "0123456789abcdef", 16);
    introduce(&s, hello);
    expect_read(&s);
    ck_assert_uint_eq(vmm_receive(&s, WIRE_WELCOME, NULL).body.welcome.version, WIRE_VERSION);
    ck_assert_uint_eq(s.attached, 1);
    ck_assert_uint_eq(s.changes, 0);
    const struct guest *g = s.g;
    ck_assert_str_eq(g->name, "unit");
    ck_assert_uint_eq(g->nblocks, 2);
    ck_assert_uint_eq(g->ram, 80 * PAGE);
    ck_assert_int_eq(g->pid, getpid());
    ck_assert(g->released);
    ck_assert_mem_eq(g->job, hello.job, 16);
    ck_assert_str_eq(g->tracking, "kvm-manual-protect");
    ck_assert_int_eq(guest_get_state(s.g), GUEST_GIVEN_AWAY);
    ck_assert_str_eq(g->blocks[1].name, "high");
    ck_assert_uint_eq(g->blocks[1].offset, PAGE);
    ck_assert_uint_eq(g->blocks[1].length, 10 * PAGE);
    ck_assert_uint_eq(g->blocks[1].gpa, 70 * PAGE);
    fstat(g->blocks[1].fd, &a);
    fstat(s.files[1], &b);
    ck_assert_uint_eq(a.st_ino, b.st_ino);
    stage_close(&s);
}
END_TEST

START_TEST(tracking)
{
    static const struct {
        uint32_t features;
        const char *tracking;
    } rows[] = {
        {0, "marks"},
        {WIRE_FEATURE_MANUAL_PROTECT, "marks"},
        {WIRE_FEATURE_KVM_LOG, "kvm-log"},
        {WIRE_FEATURE_KVM_LOG | WIRE_FEATURE_MANUAL_PROTECT | 1u << 31, "kvm-manual-protect"},
    };
    for (size_t i = 0; i < 4; i++) {
        struct stage s;
        stage_open(&s);
        struct wire_hello hello = good_hello();
        hello.features = rows[i].features;
        introduce(&s, hello);
        expect_read(&s);
        ck_assert_str_eq(s.g->tracking, rows[i].tracking);
        stage_close(&s);
    }
}
END_TEST

/* A newer libferry that still speaks our version is welcome. */
START_TEST(newer_version)
{
    struct stage s;
    stage_open(&s);
    struct wire_hello hello = good_hello();
    hello.version = 1000;
    introduce(&s, hello);
    expect_read(&s);
    ck_assert_uint_eq(vmm_receive(&s, WIRE_WELCOME, NULL).body.welcome.version, WIRE_VERSION);
    stage_close(&s);
}
END_TEST

/* What the VMM has sent is refused, with the error's text for both. */
static void expect_refused(struct stage *s, const char *code, const char *part)
{
    struct error *err = NULL;
    ck_assert(!read_all(s, &err));
    ck_assert_ptr_nonnull(err);
    struct wire_message msg = vmm_receive(s, WIRE_REFUSE, NULL);
    ck_assert_str_eq(msg.body.refuse.text, err->text);
    expect_error(err, code, part);
    ck_assert(!agent_is_attached(s->g));
    stage_close(s);
}

static void hello_refused(struct wire_hello hello, const char *code, const char *part)
{
    struct stage s;
    stage_open(&s);
    vmm_send(&s, WIRE_HELLO, 0, &hello, -1);
    expect_refused(&s, code, part);
}

START_TEST(hello_refusals)
{
    static const char *const names[] = {"",     "a b",  "a\"b", "a'b",
                                        "a\\b", "a\nb", "\x7f", "\xc3\xa9"};
    struct wire_hello h = good_hello();
    h.magic++;
    hello_refused(h, "guest-protocol", "libferry's protocol");
    h = good_hello();
    h.version = 0;
    h.version_min = 0;
    hello_refused(h, "guest-version", "versions 0 to 0");
    h = good_hello();
    h.version = h.version_min = WIRE_VERSION + 1;
    hello_refused(h, "guest-version", NULL);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        h = good_hello();
        strcpy(h.name, names[i]);
        hello_refused(h, "guest-invalid", "name");
    }
    h = good_hello();
    memset(h.name, 'a', sizeof(h.name)); /* without an end */
    hello_refused(h, "guest-invalid", "name");
    h = good_hello();
    h.page_size = 65536;
    hello_refused(h, "guest-invalid", "65536");
    h = good_hello();
    h.blocks = 0;
    hello_refused(h, "guest-invalid", "0 RAM blocks");
    h.blocks = GUEST_BLOCKS_MAX + 1;
    hello_refused(h, "guest-invalid", "65 RAM blocks");
    h = good_hello();
    h.state = GUEST_STATES;
    hello_refused(h, "guest-invalid", NULL);
}
END_TEST

/* A hello, a good first block, and this as the second. */
static void block_refused(struct wire_block block, int fd, const char *part)
{
    struct stage s;
    stage_open(&s);
    struct wire_hello hello = good_hello();
    struct wire_block first = good_block(0);
    vmm_send(&s, WIRE_HELLO, 0, &hello, -1);
    vmm_send(&s, WIRE_BLOCK, 0, &first, s.files[0]);
    vmm_send(&s, WIRE_BLOCK, 0, &block, fd == -2 ? s.files[1] : fd);
    expect_refused(&s, "guest-invalid", part);
}

START_TEST(block_refusals)
{
    const int good = -2;
    struct wire_block b = good_block(1);
    b.name[0] = '\0';
    block_refused(b, good, "printable name");
    b = good_block(1);
    memset(b.name, 'a', sizeof(b.name));
    block_refused(b, good, "printable name");
    b = good_block(1);
    strcpy(b.name, "low");
    block_refused(b, good, "two RAM blocks named 'low'");
    b = good_block(1);
    b.gpa = 69 * PAGE;
    block_refused(b, good, "overlap");
    b = good_block(1);
    b.length = 0;
    block_refused(b, good, "empty");
    b.length = PAGE + 1;
    block_refused(b, good, "not aligned");
    b = good_block(1);
    b.offset = 8;
    block_refused(b, good, "not aligned");
    b = good_block(1);
    b.gpa += 8;
    block_refused(b, good, "not aligned");
    b = good_block(1);
    b.length = 1ULL << 46; /* with the first one's */
    block_refused(b, good, "past");
    b.length = -PAGE;
    block_refused(b, good, "past");
    b = good_block(1);
    b.offset = -PAGE;
    block_refused(b, good, "past");
    b = good_block(1);
    b.gpa = -PAGE;
    block_refused(b, good, "past");
    b = good_block(1);
    b.offset = 91 * PAGE;
    block_refused(b, good, "ends at byte");
}
END_TEST

START_TEST(block_files)
{
    int ends[2];
    struct wire_block b = good_block(1);
    block_refused(b, -1, "memory file");
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    block_refused(b, ends[0], "memory file");
    block_refused(b, ends[1], "memory file");
    CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    block_refused(b, null, "memory file");
    CLEANUP_CLOSE int fd = file_new(100);
    char path[40];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    CLEANUP_CLOSE int readonly = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(readonly, 0);
    block_refused(b, readonly, "memory file");
    close(ends[0]);
    close(ends[1]);
}
END_TEST

static void order_refused(const uint32_t *types, size_t count)
{
    struct stage s;
    stage_open(&s);
    int blocks = 0;
    for (size_t i = 0; i < count; i++) {
        struct wire_hello hello = good_hello();
        struct wire_block block = good_block(blocks % 2);
        union wire_body other = {0};
        if (types[i] == WIRE_HELLO) {
            vmm_send(&s, WIRE_HELLO, 0, &hello, -1);
        } else if (types[i] == WIRE_BLOCK) {
            vmm_send(&s, WIRE_BLOCK, 0, &block, s.files[blocks++]);
        } else {
            vmm_send(&s, types[i], 0, &other, -1);
        }
    }
    expect_refused(&s, "guest-protocol", "was due");
}

#define ORDER_REFUSED(...)                                                                         \
    order_refused((const uint32_t[]){__VA_ARGS__},                                                 \
                  sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

START_TEST(order_refusals)
{
    ORDER_REFUSED(WIRE_BLOCK);
    ORDER_REFUSED(WIRE_READY);
    ORDER_REFUSED(WIRE_REPLY);
    ORDER_REFUSED(WIRE_STATE);
    ORDER_REFUSED(WIRE_WELCOME);
    ORDER_REFUSED(WIRE_HELLO, WIRE_HELLO);
    ORDER_REFUSED(WIRE_HELLO, WIRE_READY);
    ORDER_REFUSED(WIRE_HELLO, WIRE_BLOCK, WIRE_READY);
    ORDER_REFUSED(WIRE_HELLO, WIRE_BLOCK, WIRE_BLOCK, WIRE_BLOCK);
    ORDER_REFUSED(WIRE_HELLO, WIRE_BLOCK, WIRE_BLOCK, WIRE_STATE);
}
END_TEST

START_TEST(owner_refuses)
{
    struct stage s;
    stage_open(&s);
    s.refusing = true;
    introduce(&s, good_hello());
    expect_refused(&s, "guest-exists", "there is one already");
}
END_TEST

static unsigned count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;
    while (readdir(dir)) {
        count++;
    }
    closedir(dir);
    return count;
}

/* Sends these with a descriptor each, the last of which is refused. */
static void waste_descriptors(const uint32_t *types, size_t count)
{
    struct stage s;
    struct error *err = NULL;
    stage_open(&s);
    for (size_t i = 0; i < count; i++) {
        struct wire_hello hello = good_hello();
        union wire_body body = {0};
        body.hello = types[i] == WIRE_HELLO ? hello : body.hello;
        vmm_send(&s, types[i], 0, &body, s.files[0]);
    }
    ck_assert(!read_all(&s, &err));
    error_free(err);
    stage_close(&s);
}

/* Descriptors that came and were not wanted are closed. */
START_TEST(unwanted_descriptors)
{
    unsigned before = count_fds();
    waste_descriptors((const uint32_t[]){WIRE_HELLO, WIRE_READY}, 2);
    waste_descriptors((const uint32_t[]){WIRE_HELLO, WIRE_BLOCK}, 2); /* an empty block */
    waste_descriptors((const uint32_t[]){WIRE_REPLY}, 1);
    ck_assert_uint_eq(count_fds(), before);
}
END_TEST

START_TEST(nonsense)
{
    static const uint8_t bytes[WIRE_MESSAGE_MAX];
    static const size_t lengths[] = {1, 15, 16, 17, sizeof(bytes)};
    for (int attached = 0; attached < 2; attached++) {
        for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
            struct stage s;
            struct error *err = NULL;
            (attached ? stage_attach : stage_open)(&s);
            ck_assert_int_eq(send(s.vmm, bytes, lengths[i], 0), (ssize_t)lengths[i]);
            ck_assert(!read_all(&s, &err));
            expect_error(err, "guest-protocol", NULL);
            stage_close(&s);
        }
    }
}
END_TEST

START_TEST(closed)
{
    struct stage s;
    struct error *err = NULL;
    stage_open(&s);
    fd_close(&s.vmm);
    ck_assert(!read_all(&s, &err));
    expect_error(err, "guest-lost", NULL);
    stage_close(&s);
}
END_TEST

/* ---- news ---- */

START_TEST(news)
{
    struct stage s;
    stage_attach(&s);
    struct wire_state state = {.state = GUEST_PAUSED};
    vmm_send(&s, WIRE_STATE, 0, &state, -1);
    vmm_send(&s, WIRE_STATE, 0, &state, -1);
    expect_read(&s);
    ck_assert_uint_eq(s.changes, 1);
    ck_assert_int_eq(s.from, GUEST_RUNNING);
    ck_assert_int_eq(guest_get_state(s.g), GUEST_PAUSED);
    state.state = GUEST_STATES; /* a state from the future */
    vmm_send(&s, WIRE_STATE, 0, &state, -1);
    vmm_send(&s, WIRE_SHUTDOWN, 0, NULL, -1);
    expect_read(&s);
    ck_assert_uint_eq(s.changes, 1);
    ck_assert_uint_eq(s.shut_downs, 1);
    stage_close(&s);
}
END_TEST

START_TEST(too_much_news)
{
    struct stage s;
    struct error *err = NULL;
    unsigned sent = 0;
    stage_attach(&s);
    while (sent < 10000) {
        struct wire_state state = {.state = sent++ & 1};
        vmm_send(&s, WIRE_STATE, 0, &state, -1);
        if (!read_all(&s, &err)) {
            break;
        }
        if (sent == 100) {
            agent_expire(s.g); /* counted anew */
        }
    }
    ck_assert_uint_eq(sent, 100 + 201);
    expect_error(err, "guest-protocol", "too often");
    stage_close(&s);
}
END_TEST

START_TEST(out_of_place)
{
    static const uint32_t types[] = {WIRE_HELLO, WIRE_BLOCK, WIRE_READY, WIRE_WELCOME, WIRE_STOP};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        struct stage s;
        struct error *err = NULL;
        union wire_body body = {0};
        stage_attach(&s);
        vmm_send(&s, types[i], 0, &body, -1);
        ck_assert(!read_all(&s, &err));
        expect_error(err, "guest-protocol", "out of place");
        stage_close(&s);
    }
}
END_TEST

/* A VMM that never stops talking does not keep the main thread. */
START_TEST(reads_are_bounded)
{
    struct stage s;
    struct error *err = NULL;
    stage_attach(&s);
    for (int i = 0; i < 70; i++) {
        vmm_reply(&s, 999, 0, GUEST_RUNNING, "");
    }
    expect_ok(agent_read(s.g, &err), err);
    struct pollfd fd = {.fd = agent_socket(s.g), .events = POLLIN};
    ck_assert_int_eq(poll(&fd, 1, 0), 1);
    expect_read(&s);
    stage_close(&s);
}
END_TEST

/* ---- a job's calls ---- */

/* One call of guest_ops on a job's thread. */
struct call {
    struct stage *s;
    void (*make)(struct call *c);
    struct wait w;
    bool ok;
    struct error *err;
    bool was_paused;
    int fd;
    uint64_t dirty[2][2];
    pthread_t thread;
};

static void *run_call(void *arg)
{
    struct call *c = arg;
    c->make(c);
    return NULL;
}

static void call_begin(struct call *c, struct stage *s, void (*make)(struct call *c),
                       const struct wait *w)
{
    *c = (struct call){.s = s, .make = make, .w = *w, .fd = c->fd};
    pthread_create(&c->thread, NULL, run_call, c);
}

static void call_done(struct call *c)
{
    pthread_join(c->thread, NULL);
    expect_ok(c->ok, c->err);
}

static void call_failed(struct call *c, const char *code, const char *part)
{
    pthread_join(c->thread, NULL);
    ck_assert(!c->ok);
    expect_error(c->err, code, part);
}

static void make_stop(struct call *c)
{
    c->ok = c->s->g->ops->stop(c->s->g, &c->was_paused, &c->w, &c->err);
}

static void make_resume(struct call *c)
{
    c->ok = c->s->g->ops->resume(c->s->g, &c->w, &c->err);
}

static void make_save(struct call *c)
{
    c->fd = c->s->g->ops->save_state(c->s->g, &c->w, &c->err);
    c->ok = c->fd >= 0;
}

static void make_load(struct call *c)
{
    c->ok = c->s->g->ops->load_state(c->s->g, c->fd, &c->w, &c->err);
}

static void make_start(struct call *c)
{
    c->ok = c->s->g->ops->start(c->s->g, true, &c->w, &c->err);
}

static void make_give_away(struct call *c)
{
    static const uint8_t job[] = "0123456789abcde";
    c->ok = c->s->g->ops->give_away(c->s->g, job, &c->w, &c->err);
}

static void make_take_back(struct call *c)
{
    c->ok = c->s->g->ops->take_back(c->s->g, &c->w, &c->err);
}

static void make_release(struct call *c)
{
    c->ok = c->s->g->ops->release(c->s->g, &c->w, &c->err);
}

static void make_log_start(struct call *c)
{
    c->ok = c->s->g->ops->log_start(c->s->g, &c->w, &c->err);
}

static void make_log_sync(struct call *c)
{
    uint64_t *const dirty[] = {c->dirty[0], c->dirty[1]};
    c->ok = c->s->g->ops->log_sync(c->s->g, dirty, &c->w, &c->err);
}

static void make_log_clear(struct call *c)
{
    c->ok = c->s->g->ops->log_clear(c->s->g, 1, 0, 10, &c->w, &c->err);
}

/* Takes the request of a call that goes well, answers it; the request. */
static struct wire_message exchange(struct stage *s, void (*make)(struct call *c), uint32_t type,
                                    enum guest_state state)
{
    struct call c = {0};
    call_begin(&c, s, make, &patient);
    struct wire_message msg = vmm_receive(s, type, NULL);
    vmm_reply(s, msg.head.seq, 0, state, "");
    expect_read(s);
    call_done(&c);
    ck_assert_int_eq(guest_get_state(s->g), state);
    return msg;
}

START_TEST(simple_calls)
{
    struct stage s;
    stage_attach(&s);
    struct wire_message m = exchange(&s, make_stop, WIRE_STOP, GUEST_STOPPED);
    ck_assert_uint_eq(m.body.stop.migration, 1);
    uint64_t seq = m.head.seq;
    ck_assert_uint_eq(s.changes, 1);
    m = exchange(&s, make_give_away, WIRE_GIVE_AWAY, GUEST_GIVEN_AWAY);
    ck_assert_uint_eq(m.head.seq, seq + 1);
    ck_assert_mem_eq(m.body.give_away.job, "0123456789abcde", 16);
    exchange(&s, make_take_back, WIRE_TAKE_BACK, GUEST_STOPPED);
    m = exchange(&s, make_resume, WIRE_RESUME, GUEST_RUNNING);
    ck_assert_uint_eq(m.body.resume.migration, 1);
    exchange(&s, make_release, WIRE_RELEASE, GUEST_GIVEN_AWAY);
    m = exchange(&s, make_start, WIRE_START, GUEST_PAUSED);
    ck_assert_uint_eq(m.body.start.paused, 1);
    m = exchange(&s, make_log_clear, WIRE_LOG_CLEAR, GUEST_PAUSED);
    ck_assert_uint_eq(m.body.log_clear.block, 1);
    ck_assert_uint_eq(m.body.log_clear.count, 10);
    stage_close(&s);
}
END_TEST

START_TEST(was_paused)
{
    struct stage s;
    struct call c = {0};
    stage_attach(&s);
    call_begin(&c, &s, make_stop, &patient);
    struct wire_reply body = {.state = GUEST_STOPPED, .was_paused = 1};
    vmm_send(&s, WIRE_REPLY, vmm_receive(&s, WIRE_STOP, NULL).head.seq, &body, -1);
    expect_read(&s);
    call_done(&c);
    ck_assert(c.was_paused);
    stage_close(&s);
}
END_TEST

static void refused_with(int status, const char *text, const char *part)
{
    struct stage s;
    struct call c = {0};
    stage_attach(&s);
    call_begin(&c, &s, make_stop, &patient);
    vmm_reply(&s, vmm_receive(&s, WIRE_STOP, NULL).head.seq, status, GUEST_RUNNING, text);
    expect_read(&s);
    call_failed(&c, "guest-refused", part);
    stage_close(&s);
}

START_TEST(refused)
{
    refused_with(-EBUSY, "the disk is stuck", "asked to stop the guest: the disk is stuck");
    refused_with(-ENOSPC, "", "No space left on device");
    refused_with(INT32_MIN + 1, "", "asked to stop the guest");
}
END_TEST

/* A text without an end is cut. */
START_TEST(endless_text)
{
    struct stage s;
    struct call c = {0};
    stage_attach(&s);
    call_begin(&c, &s, make_stop, &patient);
    struct wire_reply body = {.status = -EIO};
    memset(body.text, 'x', sizeof(body.text));
    vmm_send(&s, WIRE_REPLY, vmm_receive(&s, WIRE_STOP, NULL).head.seq, &body, -1);
    expect_read(&s);
    call_failed(&c, "guest-refused", "xxxx");
    stage_close(&s);
}
END_TEST

START_TEST(unknown_replies)
{
    struct stage s;
    struct call c = {0};
    stage_attach(&s);
    vmm_reply(&s, 0, 0, GUEST_RUNNING, "");
    vmm_reply(&s, 77, -EIO, GUEST_RUNNING, "");
    expect_read(&s);
    call_begin(&c, &s, make_stop, &patient);
    uint64_t seq = vmm_receive(&s, WIRE_STOP, NULL).head.seq;
    vmm_reply(&s, seq + 1, -EIO, GUEST_RUNNING, "not this one");
    vmm_reply(&s, UINT64_MAX, -EIO, GUEST_RUNNING, "nor this");
    expect_read(&s);
    vmm_reply(&s, seq, 0, GUEST_STOPPED, "");
    expect_read(&s);
    call_done(&c);
    stage_close(&s);
}
END_TEST

START_TEST(deadline)
{
    static const struct {
        void (*make)(struct call *c);
        uint32_t type;
        const char *part;
    } rows[] = {
        {make_stop, WIRE_STOP, "asked to stop the guest"},
        {make_resume, WIRE_RESUME, "asked to resume the guest"},
        {make_give_away, WIRE_GIVE_AWAY, "asked to give the guest away"},
        {make_log_clear, WIRE_LOG_CLEAR, "asked to clear the dirty log"},
        {make_release, WIRE_RELEASE, "the VMM of guest 'unit'"},
    };
    struct stage s;
    stage_attach(&s);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct call c = {0};
        call_begin(&c, &s, rows[i].make, &hasty);
        vmm_receive(&s, rows[i].type, NULL);
        call_failed(&c, "guest-timeout", rows[i].part);
    }
    stage_close(&s);
}
END_TEST

/* A reply that comes too late tells the state, and does not answer the next request. */
START_TEST(late_reply)
{
    struct stage s;
    struct call c = {0};
    stage_attach(&s);
    call_begin(&c, &s, make_stop, &hasty);
    uint64_t late = vmm_receive(&s, WIRE_STOP, NULL).head.seq;
    call_failed(&c, "guest-timeout", NULL);
    call_begin(&c, &s, make_resume, &patient);
    uint64_t seq = vmm_receive(&s, WIRE_RESUME, NULL).head.seq;
    vmm_reply(&s, late, -EIO, GUEST_STOPPED, "not for this one");
    expect_read(&s);
    ck_assert_int_eq(guest_get_state(s.g), GUEST_STOPPED);
    vmm_reply(&s, seq, 0, GUEST_RUNNING, "");
    expect_read(&s);
    call_done(&c);
    stage_close(&s);
}
END_TEST

START_TEST(cancelled)
{
    struct stage s;
    struct call c = {0};
    uint64_t one = 1;
    CLEANUP_CLOSE int cancel = eventfd(0, EFD_CLOEXEC);
    struct wait w = {.cancel_fd = cancel, .timeout_ms = -1, .what = "nobody"};
    stage_attach(&s);
    call_begin(&c, &s, make_stop, &w);
    vmm_receive(&s, WIRE_STOP, NULL);
    ck_assert_int_eq(write(cancel, &one, sizeof(one)), sizeof(one));
    call_failed(&c, "cancelled", NULL);
    stage_close(&s);
}
END_TEST

START_TEST(lost)
{
    struct stage s;
    struct call c = {0};
    struct error *err = NULL;
    stage_attach(&s);
    call_begin(&c, &s, make_stop, &patient);
    vmm_receive(&s, WIRE_STOP, NULL);
    fd_close(&s.vmm);
    ck_assert(!read_all(&s, &err));
    expect_error(err, "guest-lost", "unit");
    agent_lost(s.g);
    call_failed(&c, "guest-lost", "unit");
    call_begin(&c, &s, make_resume, &patient); /* and from now on at once */
    call_failed(&c, "guest-lost", "unit");
    s.g->ops->log_stop(s.g);
    stage_close(&s);
}
END_TEST

/* It was asked, and nobody knows what came of it: unlike with a refusal. */
START_TEST(start_in_doubt)
{
    struct stage s;
    struct call c = {0};
    stage_attach(&s);
    call_begin(&c, &s, make_start, &patient);
    vmm_reply(&s, vmm_receive(&s, WIRE_START, NULL).head.seq, -EIO, GUEST_INCOMING, "no");
    expect_read(&s);
    call_failed(&c, "guest-refused", "no");
    call_begin(&c, &s, make_start, &hasty);
    vmm_receive(&s, WIRE_START, NULL);
    call_failed(&c, "guest-in-doubt", NULL);
    call_begin(&c, &s, make_start, &patient);
    vmm_receive(&s, WIRE_START, NULL);
    agent_lost(s.g);
    call_failed(&c, "guest-in-doubt", NULL);
    call_begin(&c, &s, make_start, &patient); /* never sent */
    call_failed(&c, "guest-lost", NULL);
    stage_close(&s);
}
END_TEST

/* ---- state and dirty log ---- */

START_TEST(save_and_load)
{
    struct stage s;
    struct call c = {0};
    char text[8] = "";
    int fd;
    stage_attach(&s);
    call_begin(&c, &s, make_save, &patient);
    uint64_t seq = vmm_receive(&s, WIRE_SAVE, &fd).head.seq;
    ck_assert_int_eq(write(fd, "state", 5), 5);
    close(fd);
    vmm_reply(&s, seq, 0, GUEST_STOPPED, "");
    expect_read(&s);
    call_done(&c);
    ck_assert_int_eq(pread(c.fd, text, sizeof(text), 0), 5);
    ck_assert_str_eq(text, "state");
    call_begin(&c, &s, make_load, &patient);
    seq = vmm_receive(&s, WIRE_LOAD, &fd).head.seq;
    ck_assert_int_eq(pread(fd, text, sizeof(text), 0), 5);
    close(fd);
    vmm_reply(&s, seq, 0, GUEST_INCOMING, "");
    expect_read(&s);
    int state = c.fd;
    call_done(&c);
    close(state);
    stage_close(&s);
}
END_TEST

START_TEST(state_too_large)
{
    struct stage s;
    struct call c = {0};
    int fd;
    stage_attach(&s);
    call_begin(&c, &s, make_save, &patient);
    uint64_t seq = vmm_receive(&s, WIRE_SAVE, &fd).head.seq;
    ck_assert_int_eq(ftruncate(fd, (off_t)WIRE_STATE_MAX + 1), 0);
    close(fd);
    vmm_reply(&s, seq, 0, GUEST_STOPPED, "");
    expect_read(&s);
    call_failed(&c, "state-too-large", "1073741825");
    stage_close(&s);
}
END_TEST

START_TEST(dirty_log)
{
    struct stage s;
    struct call c = {0};
    struct dirtymap map;
    int fd;
    stage_attach(&s);
    call_begin(&c, &s, make_log_start, &patient);
    uint64_t seq = vmm_receive(&s, WIRE_LOG_START, &fd).head.seq;
    ck_assert_int_eq(dirtymap_map(&map, fd, block_pages, 2), 0);
    close(fd);
    vmm_reply(&s, seq, 0, GUEST_RUNNING, "");
    expect_read(&s);
    call_done(&c);
    uint64_t *log = dirtymap_log(&map, block_pages, 0);
    uint64_t *marks = (uint64_t *)dirtymap_marks(&map, block_pages, 1);
    bits_set(log, 3);
    bits_set_range(log, 69, 128); /* and nonsense behind the last page */
    bits_set_range(marks, 9, 64);
    call_begin(&c, &s, make_log_sync, &patient);
    vmm_reply(&s, vmm_receive(&s, WIRE_LOG_SYNC, NULL).head.seq, 0, GUEST_RUNNING, "");
    expect_read(&s);
    call_done(&c);
    ck_assert_uint_eq(c.dirty[0][0], 1 << 3);
    ck_assert_uint_eq(c.dirty[0][1], 1 << (69 - 64));
    ck_assert_uint_eq(c.dirty[1][0], 1 << 9);
    ck_assert_uint_eq(marks[0], 0); /* taken */
    ck_assert_uint_eq(bits_count(log, 0, 70), 2);
    s.g->ops->log_stop(s.g);
    vmm_receive(&s, WIRE_LOG_STOP, NULL);
    dirtymap_unmap(&map);
    stage_close(&s);
}
END_TEST

START_TEST(clear_without_protection)
{
    struct stage s;
    struct call c = {0};
    stage_open(&s);
    struct wire_hello hello = good_hello();
    hello.features = WIRE_FEATURE_KVM_LOG;
    introduce(&s, hello);
    expect_read(&s);
    vmm_receive(&s, WIRE_WELCOME, NULL);
    call_begin(&c, &s, make_log_clear, &patient);
    call_done(&c);
    expect_silence(&s);
    stage_close(&s);
}
END_TEST

/* ---- the main thread's requests ---- */

struct outcome {
    unsigned calls;
    struct error *err;
};

static void note_outcome(void *opaque, struct error *err)
{
    struct outcome *o = opaque;
    o->calls++;
    error_free(o->err);
    o->err = err;
}

START_TEST(async)
{
    static const struct {
        enum agent_request request;
        uint32_t type;
    } rows[] = {
        {AGENT_PAUSE, WIRE_STOP},          {AGENT_CONTINUE, WIRE_RESUME},
        {AGENT_TAKE_BACK, WIRE_TAKE_BACK}, {AGENT_RESUME, WIRE_RESUME},
        {AGENT_RELEASE, WIRE_RELEASE},
    };
    struct stage s;
    stage_attach(&s);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct outcome o = {0};
        agent_ask(s.g, rows[i].request, PATIENCE_MS, note_outcome, &o);
        struct wire_message m = vmm_receive(&s, rows[i].type, NULL);
        if (rows[i].type == WIRE_RESUME || rows[i].type == WIRE_STOP) {
            ck_assert_uint_eq(m.body.resume.migration, rows[i].request == AGENT_RESUME);
        }
        ck_assert_uint_eq(o.calls, 0);
        vmm_reply(&s, m.head.seq, 0, GUEST_RUNNING, "");
        expect_read(&s);
        ck_assert_uint_eq(o.calls, 1);
        ck_assert_ptr_null(o.err);
    }
    stage_close(&s);
}
END_TEST

START_TEST(async_out_of_order)
{
    struct stage s;
    struct outcome first = {0}, second = {0};
    stage_attach(&s);
    agent_ask(s.g, AGENT_PAUSE, PATIENCE_MS, note_outcome, &first);
    agent_ask(s.g, AGENT_CONTINUE, PATIENCE_MS, note_outcome, &second);
    uint64_t seq = vmm_receive(&s, WIRE_STOP, NULL).head.seq;
    ck_assert_uint_eq(vmm_receive(&s, WIRE_RESUME, NULL).head.seq, seq + 1);
    vmm_reply(&s, seq + 1, -EIO, GUEST_RUNNING, "stuck");
    expect_read(&s);
    ck_assert_uint_eq(first.calls, 0);
    ck_assert_uint_eq(second.calls, 1);
    expect_error(second.err, "guest-refused", "asked to resume the guest: stuck");
    vmm_reply(&s, seq, 0, GUEST_PAUSED, "");
    vmm_reply(&s, seq, 0, GUEST_PAUSED, ""); /* twice */
    expect_read(&s);
    ck_assert_uint_eq(first.calls, 1);
    ck_assert_ptr_null(first.err);
    stage_close(&s);
}
END_TEST

START_TEST(async_expires)
{
    struct stage s;
    struct outcome now = {0}, later = {0};
    stage_attach(&s);
    agent_ask(s.g, AGENT_PAUSE, 0, note_outcome, &now);
    agent_ask(s.g, AGENT_CONTINUE, PATIENCE_MS, note_outcome, &later);
    agent_expire(s.g);
    ck_assert_uint_eq(now.calls, 1);
    expect_error(now.err, "guest-timeout", "asked to stop the guest");
    ck_assert_uint_eq(later.calls, 0);
    vmm_reply(&s, vmm_receive(&s, WIRE_STOP, NULL).head.seq, 0, GUEST_PAUSED, ""); /* too late */
    expect_read(&s);
    ck_assert_uint_eq(now.calls, 1);
    ck_assert_int_eq(guest_get_state(s.g), GUEST_PAUSED);
    agent_lost(s.g);
    ck_assert_uint_eq(later.calls, 1);
    expect_error(later.err, "guest-lost", NULL);
    struct outcome after = {0};
    agent_ask(s.g, AGENT_PAUSE, PATIENCE_MS, note_outcome, &after);
    ck_assert_uint_eq(after.calls, 1);
    expect_error(after.err, "guest-lost", NULL);
    stage_close(&s);
}
END_TEST

/* The main thread does not wait for a VMM that does not read. */
START_TEST(async_full_socket)
{
    static struct outcome outcomes[10000];
    struct stage s;
    size_t n = 0;
    stage_attach(&s);
    do {
        ck_assert_uint_lt(n, sizeof(outcomes) / sizeof(outcomes[0]));
        agent_ask(s.g, AGENT_PAUSE, PATIENCE_MS, note_outcome, &outcomes[n++]);
    } while (!outcomes[n - 1].calls);
    expect_error(outcomes[n - 1].err, "guest-timeout", "takes no requests");
    agent_lost(s.g);
    for (size_t i = 0; i < n - 1; i++) {
        ck_assert_uint_eq(outcomes[i].calls, 1);
        expect_error(outcomes[i].err, "guest-lost", NULL);
    }
    stage_close(&s);
}
END_TEST

/* ... and a job's thread does, as long as it may. */
START_TEST(job_full_socket)
{
    struct stage s;
    struct outcome o = {0};
    struct call c = {0};
    stage_attach(&s);
    do {
        agent_ask(s.g, AGENT_PAUSE, PATIENCE_MS, note_outcome, &o);
    } while (!o.calls);
    call_begin(&c, &s, make_resume, &hasty);
    call_failed(&c, "guest-timeout", "asked to resume the guest");
    fd_close(&s.vmm);
    agent_lost(s.g); /* ends those that are still under way */
    error_free(o.err);
    stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/agent");
    unit_add(suite, "guest/agent/introduce/all", introduction);
    unit_add(suite, "guest/agent/introduce/tracking", tracking);
    unit_add(suite, "guest/agent/introduce/newer-version", newer_version);
    unit_add(suite, "guest/agent/introduce/hello-refused", hello_refusals);
    unit_add(suite, "guest/agent/introduce/block-refused", block_refusals);
    unit_add(suite, "guest/agent/introduce/block-files", block_files);
    unit_add(suite, "guest/agent/introduce/order-refused", order_refusals);
    unit_add(suite, "guest/agent/introduce/owner-refuses", owner_refuses);
    unit_add(suite, "guest/agent/introduce/unwanted-descriptors", unwanted_descriptors);
    unit_add(suite, "guest/agent/read/nonsense", nonsense);
    unit_add(suite, "guest/agent/read/closed", closed);
    unit_add(suite, "guest/agent/read/news", news);
    unit_add(suite, "guest/agent/read/too-much-news", too_much_news);
    unit_add(suite, "guest/agent/read/out-of-place", out_of_place);
    unit_add(suite, "guest/agent/read/bounded", reads_are_bounded);
    unit_add(suite, "guest/agent/call/simple", simple_calls);
    unit_add(suite, "guest/agent/call/was-paused", was_paused);
    unit_add(suite, "guest/agent/call/refused", refused);
    unit_add(suite, "guest/agent/call/endless-text", endless_text);
    unit_add(suite, "guest/agent/call/unknown-replies", unknown_replies);
    unit_add(suite, "guest/agent/call/deadline", deadline);
    unit_add(suite, "guest/agent/call/late-reply", late_reply);
    unit_add(suite, "guest/agent/call/cancelled", cancelled);
    unit_add(suite, "guest/agent/call/lost", lost);
    unit_add(suite, "guest/agent/call/start-in-doubt", start_in_doubt);
    unit_add(suite, "guest/agent/call/full-socket", job_full_socket);
    unit_add(suite, "guest/agent/state/save-and-load", save_and_load);
    unit_add(suite, "guest/agent/state/too-large", state_too_large);
    unit_add(suite, "guest/agent/log/map", dirty_log);
    unit_add(suite, "guest/agent/log/clear-without-protection", clear_without_protection);
    unit_add(suite, "guest/agent/ask/all", async);
    unit_add(suite, "guest/agent/ask/out-of-order", async_out_of_order);
    unit_add(suite, "guest/agent/ask/expires", async_expires);
    unit_add(suite, "guest/agent/ask/full-socket", async_full_socket);
    return unit_run(suite);
}
