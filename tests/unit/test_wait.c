/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/wait.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>

/* Far longer than any test takes. */
#define LONG_MS 30000

static void ring(int fd)
{
    uint64_t one = 1;
    ck_assert_int_eq(write(fd, &one, sizeof(one)), sizeof(one));
}

static void *ring_later(void *arg)
{
    ring(*(int *)arg);
    return NULL;
}

START_TEST(ready_at_once)
{
    CLEANUP_CLOSE int fd = eventfd(1, EFD_CLOEXEC);
    struct error *err = NULL;
    struct wait w = {.cancel_fd = -1, .timeout_ms = 0, .what = "nobody"};
    expect_ok(wait_fd(fd, POLLIN, &w, &err), err);
    w.timeout_ms = -1;
    expect_ok(wait_fd(fd, POLLIN, &w, &err), err);
}
END_TEST

START_TEST(deadline)
{
    CLEANUP_CLOSE int fd = eventfd(0, EFD_CLOEXEC);
    struct error *err = NULL;
    struct wait w = {.cancel_fd = -1, .timeout_ms = 20, .what = "the moon"};
    uint64_t start = clock_ns();
    ck_assert(!wait_fd(fd, POLLIN, &w, &err));
    ck_assert_uint_ge(clock_ns() - start, 20 * NS_PER_MS);
    expect_error(err, "timeout", "the moon");
}
END_TEST

/* Something always shows. */
START_TEST(deadline_holds)
{
    CLEANUP_CLOSE int fd = eventfd(1, EFD_CLOEXEC);
    const struct wait w = {.cancel_fd = -1, .what = "nobody"};
    struct pollfd one = {.fd = fd, .events = POLLIN};
    ck_assert_int_eq(wait_any(&one, 1, 1, &w, NULL), 1);
    ck_assert_int_eq(wait_any_until(&one, 1, 1, &w, NULL), 0);
    ck_assert_int_eq(wait_any_until(&one, 1, 0, &w, NULL), 1);
    ck_assert_int_eq(wait_any_until(&one, 1, clock_ns() + LONG_MS * NS_PER_MS, &w, NULL), 1);
}
END_TEST

static void count_signal(int sig)
{
    (void)sig;
}

static void *interrupt(void *arg)
{
    pthread_kill(*(pthread_t *)arg, SIGUSR1);
    return NULL;
}

START_TEST(signals_do_not_end_it)
{
    CLEANUP_CLOSE int fd = eventfd(0, EFD_CLOEXEC);
    struct error *err = NULL;
    struct wait w = {.cancel_fd = -1, .timeout_ms = 50, .what = "nobody"};
    struct sigaction action = {.sa_handler = count_signal};
    pthread_t self = pthread_self(), other;
    sigaction(SIGUSR1, &action, NULL);
    uint64_t start = clock_ns();
    pthread_create(&other, NULL, interrupt, &self);
    ck_assert(!wait_fd(fd, POLLIN, &w, &err));
    pthread_join(other, NULL);
    ck_assert_uint_ge(clock_ns() - start, 50 * NS_PER_MS);
    expect_error(err, "timeout", NULL);
}
END_TEST

START_TEST(cancel_wakes)
{
    CLEANUP_CLOSE int fd = eventfd(0, EFD_CLOEXEC);
    CLEANUP_CLOSE int cancel = eventfd(0, EFD_CLOEXEC);
    struct error *err = NULL;
    struct wait w = {.cancel_fd = cancel, .timeout_ms = LONG_MS, .what = "nobody"};
    pthread_t other;
    pthread_create(&other, NULL, ring_later, &cancel);
    ck_assert(!wait_fd(fd, POLLIN, &w, &err));
    pthread_join(other, NULL);
    expect_error(err, "cancelled", NULL);
}
END_TEST

/* Cancelled once is cancelled for good, also where there is something to read. */
START_TEST(cancel_stays)
{
    CLEANUP_CLOSE int fd = eventfd(1, EFD_CLOEXEC);
    CLEANUP_CLOSE int cancel = eventfd(1, EFD_CLOEXEC);
    struct wait w = {.cancel_fd = cancel, .timeout_ms = LONG_MS, .what = "nobody"};
    for (int i = 0; i < 3; i++) {
        struct error *err = NULL;
        ck_assert(!wait_fd(fd, POLLIN, &w, &err));
        expect_error(err, "cancelled", NULL);
        err = NULL;
        ck_assert(!wait_ns(LONG_MS * NS_PER_MS, &w, &err));
        expect_error(err, "cancelled", NULL);
        err = NULL;
        ck_assert(wait_cancelled(&w, &err));
        expect_error(err, "cancelled", NULL);
    }
}
END_TEST

START_TEST(not_cancelled)
{
    CLEANUP_CLOSE int cancel = eventfd(0, EFD_CLOEXEC);
    struct error *err = NULL;
    struct wait w = {.cancel_fd = cancel};
    ck_assert(!wait_cancelled(&w, &err));
    w.cancel_fd = -1;
    ck_assert(!wait_cancelled(&w, &err));
    ck_assert_ptr_null(err);
    uint64_t start = clock_ns();
    expect_ok(wait_ns(10 * NS_PER_MS, &w, &err), err);
    ck_assert_uint_ge(clock_ns() - start, 10 * NS_PER_MS);
    expect_ok(wait_ns(0, &w, &err), err);
}
END_TEST

/* The other end's closing ends a wait: the read that follows tells what it was. */
START_TEST(hang_up)
{
    int ends[2];
    struct error *err = NULL;
    struct wait w = {.cancel_fd = -1, .timeout_ms = LONG_MS, .what = "nobody"};
    ck_assert_int_eq(pipe(ends), 0);
    close(ends[1]);
    expect_ok(wait_fd(ends[0], POLLIN, &w, &err), err);
    close(ends[0]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("common/wait");
    unit_add(suite, "common/wait/ready-at-once", ready_at_once);
    unit_add(suite, "common/wait/deadline", deadline);
    unit_add(suite, "common/wait/deadline-holds", deadline_holds);
    unit_add(suite, "common/wait/signals-do-not-end-it", signals_do_not_end_it);
    unit_add(suite, "common/wait/cancel-wakes", cancel_wakes);
    unit_add(suite, "common/wait/cancel-stays", cancel_stays);
    unit_add(suite, "common/wait/not-cancelled", not_cancelled);
    unit_add(suite, "common/wait/hang-up", hang_up);
    return unit_run(suite);
}
