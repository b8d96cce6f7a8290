/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/clock.h"
#include "daemon/pace.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"
#include "transports/memory.h"

#include <string.h>

#define ROOM (8u << 20)

/* A source's stream; the other end takes nothing unless it is told to. */
struct stage {
    struct guest guest;
    struct params *params;
    struct job *job;
    struct channel *peer;
    struct stream stream;
    struct pace pace;
};

static void free_guest(struct guest *g)
{
    (void)g;
}

static void ignore_news(struct guest *g, enum guest_migration status, bool outgoing)
{
    (void)g;
    (void)status;
    (void)outgoing;
}

static void note_status(void *opaque, struct job *job, enum job_status status)
{
    (void)opaque;
    (void)job;
    (void)status;
}

static void stage_open(struct stage *s)
{
    static const struct guest_ops ops = {.free = free_guest, .notify = ignore_news};
    static const bool capabilities[CAPABILITY_COUNT];
    struct job_hooks hooks = {.status = note_status};
    struct channel *ends[2];
    struct error *err = NULL;
    *s = (struct stage){.guest = {.ops = &ops, .refs = 1, .name = "unit"}};
    s->params = params_new();
    s->job = job_new(JOB_OUTGOING, &s->guest, s->params, capabilities, NULL, &hooks, &err);
    expect_ok(s->job != NULL, err);
    memory_pair(ROOM, ends);
    s->peer = ends[1];
    struct wait w = job_peer_wait(s->job);
    stream_open(&s->stream, ends[0], &w, &w);
    pace_init(&s->pace, s->job, &s->stream);
}

static void stage_close(struct stage *s)
{
    stream_close(&s->stream);
    channel_close(s->peer);
    job_unref(s->job);
    params_unref(s->params);
}

static void send_bytes(struct stage *s, size_t length)
{
    uint8_t *bytes = calloc(1, length);
    struct error *err = NULL;
    expect_ok(stream_write_raw(&s->stream, bytes, length, &err), err);
    free(bytes);
}

static size_t allow(struct stage *s, size_t want, struct error **errp)
{
    struct record_pacer pacer = pace_pacer(&s->pace);
    return pacer.allow(pacer.opaque, want, errp);
}

static size_t allowed(struct stage *s, size_t want)
{
    struct error *err = NULL;
    size_t n = allow(s, want, &err);
    expect_ok(n > 0, err);
    ck_assert_uint_le(n, want);
    return n;
}

/* What the peer sends, to be found between two sends. */
static void peer_says(struct stage *s, uint32_t type, const char *body, size_t length)
{
    struct bytes b = {0};
    struct record_sink sink = bytes_sink(&b);
    struct wait w = {.cancel_fd = -1, .timeout_ms = 1000, .what = "the test"};
    ck_assert(record_write(&sink, type, body, length, NULL));
    struct iovec iov = {.iov_base = b.data, .iov_len = b.length};
    ck_assert(channel_write(s->peer, &iov, 1, &w, NULL));
    bytes_free(&b);
}

START_TEST(without_a_limit)
{
    struct stage s;
    stage_open(&s);
    for (int i = 0; i < 6; i++) {
        ck_assert_uint_eq(allowed(&s, 1 << 20), 1 << 20);
        send_bytes(&s, 1 << 20);
    }
    ck_assert_uint_eq(s.pace.waited_ns, 0);
    stage_close(&s);
}
END_TEST

/* 400 kB at 1 MB/s: the fourth window has to open for it. */
START_TEST(with_a_limit)
{
    struct stage s;
    stage_open(&s);
    param_set(s.params, PARAM_MAX_BANDWIDTH, 1000000);
    uint64_t start = clock_ns();
    while (s.stream.sent < 400000) {
        size_t n = allowed(&s, 64 << 10);
        ck_assert_uint_le(n, 64 << 10);
        send_bytes(&s, n);
    }
    ck_assert_uint_ge(clock_ns() - start, 3 * ESTIMATE_WINDOW_NS - ESTIMATE_WINDOW_NS / 2);
    ck_assert_uint_gt(s.pace.waited_ns, 0);
    stage_close(&s);
}
END_TEST

/* An allowance never takes a window past its budget. */
START_TEST(within_a_window)
{
    struct stage s;
    stage_open(&s);
    param_set(s.params, PARAM_MAX_BANDWIDTH, 1000000);
    uint64_t window = s.pace.window_start_ns, in_window = 0;
    for (int i = 0; i < 12; i++) {
        size_t n = allowed(&s, 40000);
        if (s.pace.window_start_ns != window) {
            window = s.pace.window_start_ns;
            in_window = 0;
        }
        in_window += n;
        ck_assert_uint_le(in_window, 100000 + 1);
        send_bytes(&s, n);
    }
    stage_close(&s);
}
END_TEST

/* What was sent past the budget is paid back by the windows that follow. */
START_TEST(overdrawn)
{
    struct stage s;
    stage_open(&s);
    param_set(s.params, PARAM_MAX_BANDWIDTH, 1000000);
    uint64_t start = clock_ns();
    allowed(&s, 1000);
    send_bytes(&s, 350000);
    allowed(&s, 1000);
    ck_assert_uint_ge(clock_ns() - start, 2 * ESTIMATE_WINDOW_NS);
    stage_close(&s);
}
END_TEST

START_TEST(unlimited_when_stopped)
{
    struct stage s;
    stage_open(&s);
    param_set(s.params, PARAM_MAX_BANDWIDTH, 1);
    s.pace.unlimited = true;
    for (int i = 0; i < 5; i++) {
        ck_assert_uint_eq(allowed(&s, 1 << 20), 1 << 20);
        send_bytes(&s, 1 << 20);
    }
    ck_assert_uint_eq(s.pace.waited_ns, 0);
    stage_close(&s);
}
END_TEST

/* A limit of a byte a second still lets one through at a time. */
START_TEST(tiny_limit)
{
    struct stage s;
    stage_open(&s);
    param_set(s.params, PARAM_MAX_BANDWIDTH, 1);
    ck_assert_uint_eq(allowed(&s, 1 << 20), 1);
    stage_close(&s);
}
END_TEST

static void *raise_limit(void *arg)
{
    struct stage *s = arg;
    param_set(s->params, PARAM_MAX_BANDWIDTH, 0);
    return NULL;
}

/* A limit that is lifted while it is waited for is lifted with the next window. */
START_TEST(limit_changes)
{
    struct stage s;
    pthread_t thread;
    stage_open(&s);
    param_set(s.params, PARAM_MAX_BANDWIDTH, 1);
    send_bytes(&s, 1 << 20);
    pthread_create(&thread, NULL, raise_limit, &s);
    ck_assert_uint_eq(allowed(&s, 1000), 1000);
    pthread_join(thread, NULL);
    stage_close(&s);
}
END_TEST

static void *cancel_it(void *arg)
{
    job_cancel(arg);
    return NULL;
}

START_TEST(cancelled)
{
    struct stage s;
    struct error *err = NULL;
    pthread_t thread;
    stage_open(&s);
    param_set(s.params, PARAM_MAX_BANDWIDTH, 1);
    send_bytes(&s, 1 << 20);
    pthread_create(&thread, NULL, cancel_it, s.job);
    ck_assert_uint_eq(allow(&s, 1000, &err), 0);
    expect_error(err, "cancelled", NULL);
    pthread_join(thread, NULL);
    stage_close(&s);
}
END_TEST

START_TEST(peer_gives_up)
{
    struct stage s;
    struct error *err = NULL;
    stage_open(&s);
    peer_says(&s, RECORD_FAIL, "no room", 7);
    ck_assert_uint_eq(allow(&s, 1000, &err), 0);
    expect_error(err, "peer-failed", "no room");
    stage_close(&s);
}
END_TEST

START_TEST(peer_out_of_turn)
{
    struct stage s;
    struct error *err = NULL;
    stage_open(&s);
    peer_says(&s, RECORD_READY, "12345678", 8);
    ck_assert(!pace_check(&s.pace, &err));
    expect_error(err, "stream-order", NULL);
    stage_close(&s);
}
END_TEST

START_TEST(peer_leaves)
{
    struct stage s;
    struct error *err = NULL;
    stage_open(&s);
    channel_end_writing(s.peer);
    ck_assert(!pace_check(&s.pace, &err));
    expect_error(err, "stream-truncated", NULL);
    stage_close(&s);
}
END_TEST

/* Nothing was sent for a second: the peer hears that we are there, once. */
START_TEST(alive)
{
    struct stage s;
    struct error *err = NULL;
    stage_open(&s);
    expect_ok(pace_check(&s.pace, &err), err);
    ck_assert(!channel_readable(s.peer));
    s.pace.alive_ns -= 2 * NS_PER_SEC;
    expect_ok(pace_check(&s.pace, &err), err);
    expect_ok(pace_check(&s.pace, &err), err);
    uint8_t head[32];
    struct wait w = {.cancel_fd = -1, .timeout_ms = 1000, .what = "the test"};
    ck_assert_int_eq(channel_read(s.peer, head, sizeof(head), &w, NULL), RECORD_HEAD_SIZE);
    ck_assert_uint_eq(get_le32(head), RECORD_ALIVE);
    stage_close(&s);
}
END_TEST

START_TEST(bandwidth)
{
    struct stage s;
    stage_open(&s);
    ck_assert_double_eq(pace_bandwidth(&s.pace), 0); /* nothing is known */
    param_set(s.params, PARAM_AVAIL_SWITCHOVER_BANDWIDTH, 5000);
    ck_assert_double_eq_tol(pace_bandwidth(&s.pace), 5, 1e-9);
    param_set(s.params, PARAM_AVAIL_SWITCHOVER_BANDWIDTH, 0);
    s.stream.sent = 1000000;
    s.stream.send_ns = 50 * NS_PER_MS;
    ck_assert_double_eq_tol(pace_bandwidth(&s.pace), 20000, 1e-6);
    pace_publish(&s.pace);
    stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("daemon/pace");
    unit_add(suite, "daemon/pace/without-a-limit", without_a_limit);
    unit_add(suite, "daemon/pace/with-a-limit", with_a_limit);
    unit_add(suite, "daemon/pace/within-a-window", within_a_window);
    unit_add(suite, "daemon/pace/overdrawn", overdrawn);
    unit_add(suite, "daemon/pace/unlimited-when-stopped", unlimited_when_stopped);
    unit_add(suite, "daemon/pace/tiny-limit", tiny_limit);
    unit_add(suite, "daemon/pace/limit-changes", limit_changes);
    unit_add(suite, "daemon/pace/cancelled", cancelled);
    unit_add(suite, "daemon/pace/peer-gives-up", peer_gives_up);
    unit_add(suite, "daemon/pace/peer-out-of-turn", peer_out_of_turn);
    unit_add(suite, "daemon/pace/peer-leaves", peer_leaves);
    unit_add(suite, "daemon/pace/alive", alive);
    unit_add(suite, "daemon/pace/bandwidth", bandwidth);
    return unit_run(suite);
}
