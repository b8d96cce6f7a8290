/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/clock.h"
#include "guest/borrow.h"
#include "guest/process.h"
#include "guest/vcpus.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"
#include "tests/unit/victims.h"
#include "tests/unit/waits.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static bool start(struct victim *v, const char *kind)
{
    if (!victim_can_run(victim_kind(kind))) {
        fprintf(stderr, "skipped: /dev/kvm is missing\n");
        return false;
    }
    victim_start(v, victim_kind(kind));
    victim_goes_on(v, 1);
    return true;
}

static struct vcpus *hold(const struct victim *v, unsigned percent)
{
    struct error *err = NULL;
    struct vcpus *held = vcpus_hold(v->pid, &v->pid, 1, &err);
    expect_ok(held != NULL, err);
    ck_assert(vcpus_set(held, percent));
    return held;
}

/* Each stop is an interruption of KVM_RUN, which is what this victim's rounds are. */
static void await_stops(const struct victim *v, uint64_t count)
{
    uint64_t deadline = clock_ns() + 30 * NS_PER_SEC;
    uint64_t end = atomic_load(&v->page->rounds) + count;
    while (atomic_load(&v->page->rounds) < end) {
        ck_assert_uint_lt(clock_ns(), deadline);
        usleep(1000);
    }
}

static int64_t is_held(pid_t pid)
{
    return tracer_of(pid) != 0;
}

/* It comes to run without being stopped any more; the last stop may yet have to end. */
static void expect_free(struct victim *v)
{
    uint64_t deadline = clock_ns() + 30 * NS_PER_SEC, stops;
    do {
        ck_assert_uint_lt(clock_ns(), deadline);
        stops = atomic_load(&v->page->rounds);
        victim_goes_on(v, 50);
    } while (atomic_load(&v->page->rounds) != stops);
    ck_assert_int_eq(is_held(v->pid), 0);
}

static const unsigned percents[] = {1, 20, 50, 80, 99};

START_TEST(stops_and_goes_on)
{
    struct victim v;
    if (!start(&v, "kvm-run")) {
        return;
    }
    struct vcpus *held = hold(&v, percents[_i]);
    await_number(is_held, v.pid, 1);
    await_stops(&v, 5);
    victim_goes_on(&v, 5);
    ck_assert(vcpus_set(held, 0));
    expect_free(&v);
    ck_assert(vcpus_set(held, percents[_i]));
    await_stops(&v, 5);
    vcpus_release(held);
    ck_assert_int_eq(is_held(v.pid), 0);
    expect_free(&v);
    victim_end(&v);
}
END_TEST

/* The kernel's word for a stop is in /proc; a stop that lasts is seen as one. */
START_TEST(stands_still)
{
    struct victim v;
    if (!start(&v, "kvm-run")) {
        return;
    }
    struct vcpus *held = hold(&v, 99);
    uint64_t deadline = clock_ns() + 30 * NS_PER_SEC;
    unsigned still = 0;
    while (still < 20) {
        uint64_t rounds = atomic_load(&v.page->rounds), before = victim_progress(&v);
        usleep(5000);
        bool one_stop = atomic_load(&v.page->rounds) == rounds && is_held(v.pid);
        still += one_stop && victim_progress(&v) == before;
        ck_assert_uint_lt(clock_ns(), deadline);
    }
    vcpus_release(held);
    expect_free(&v);
    victim_end(&v);
}
END_TEST

START_TEST(signals_get_through)
{
    struct victim v;
    if (!start(&v, "kvm-run")) {
        return;
    }
    struct vcpus *held = hold(&v, 99);
    uint64_t deadline = clock_ns() + 30 * NS_PER_SEC;
    for (int i = 0; i < 200; i++) {
        await_number(is_held, v.pid, 1);
        victim_signal(&v, i);
        while (atomic_load(&v.page->signals) <= (uint64_t)i) {
            ck_assert_uint_lt(clock_ns(), deadline);
        }
    }
    vcpus_release(held);
    victim_end(&v);
}
END_TEST

/* Outside of KVM_RUN nothing is held: calls are done in time, and are not disturbed. */
START_TEST(elsewhere)
{
    struct victim v;
    if (!start(&v, "nanosleep")) {
        return;
    }
    struct vcpus *held = hold(&v, 99);
    await_number(is_held, v.pid, 1);
    victim_goes_on(&v, 100);
    vcpus_release(held);
    ck_assert_int_eq(is_held(v.pid), 0);
    victim_end(&v);
}
END_TEST

START_TEST(ferryd_killed)
{
    struct victim v;
    if (!start(&v, "kvm-run")) {
        return;
    }
    for (int i = 0; i < 20; i++) {
        pid_t ferryd = fork();
        if (ferryd == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            hold(&v, 99);
            pause();
        }
        await_number(is_held, v.pid, 1);
        kill(ferryd, SIGKILL);
        waitpid(ferryd, NULL, 0);
        await_number(is_held, v.pid, 0);
    }
    expect_free(&v);
    victim_end(&v);
}
END_TEST

START_TEST(process_ends)
{
    struct victim v;
    if (!start(&v, "kvm-run")) {
        return;
    }
    struct vcpus *held = hold(&v, 80);
    await_stops(&v, 5);
    kill(v.pid, SIGKILL);
    ck_assert_int_eq(waitpid(v.pid, NULL, 0), v.pid);
    ck_assert(vcpus_set(held, 50));
    vcpus_release(held);
}
END_TEST

/* Both want the same, only thread: the borrower waits for its turn, and gets one. */
START_TEST(borrowed_meanwhile)
{
    struct victim v;
    if (!start(&v, "kvm-run")) {
        return;
    }
    struct vcpus *held = hold(&v, 20);
    await_stops(&v, 1);
    for (int got = 0; got < 20;) {
        struct error *err = NULL;
        uint64_t stopped;
        int fd = borrow_userfaultfd(v.pid, &patient, &stopped, &err);
        if (fd < 0) {
            ck_assert(strcmp(err->code, "guest-timeout") == 0 || /* it saw that a helper has it */
                      strcmp(err->code, "no-permission") == 0);  /* or that it may not, just then */
            error_free(err);
        } else {
            got++;
            close(fd);
        }
    }
    await_stops(&v, 5);
    vcpus_release(held);
    victim_end(&v);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/vcpus");
    unit_add_loop(suite, "guest/vcpus/stops-and-goes-on", stops_and_goes_on,
                  sizeof(percents) / sizeof(percents[0]));
    unit_add(suite, "guest/vcpus/stands-still", stands_still);
    unit_add(suite, "guest/vcpus/signals-get-through", signals_get_through);
    unit_add(suite, "guest/vcpus/elsewhere", elsewhere);
    unit_add(suite, "guest/vcpus/ferryd-killed", ferryd_killed);
    unit_add(suite, "guest/vcpus/process-ends", process_ends);
    unit_add(suite, "guest/vcpus/borrowed-meanwhile", borrowed_meanwhile);
    return unit_run(suite);
}
