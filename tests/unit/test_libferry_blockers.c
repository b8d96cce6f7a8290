/* SPDX-License-Identifier: BSD-3-Clause */
/* Reasons why a guest may not leave: told to ferryd, and settled with LOG_START in the library. */
#include "common/cleanup.h"
#include "guest/dirtymap.h"
#include "tests/unit/libferry_stage.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static uint64_t add(struct stage *s, const char *reason)
{
    uint64_t id = 0;
    ck_assert_int_eq(ferry_add_blocker(s->f, reason, &id), 0);
    ck_assert_uint_ne(id, 0);
    return id;
}

static void expect_add_fails(struct stage *s, const char *reason, int err)
{
    uint64_t id = 77;
    ck_assert_int_eq(ferry_add_blocker(s->f, reason, &id), err);
    ck_assert_uint_eq(id, 77);
}

/* `reason` NULL: it is gone. */
static void expect_told(struct stage *s, uint64_t id, const char *reason)
{
    struct wire_blocker told = await_message(&s->d, WIRE_BLOCKER, NULL).body.blocker;
    ck_assert_uint_eq(told.id, id);
    ck_assert_uint_eq(told.added, reason != NULL);
    ck_assert_str_eq(told.text, reason ? reason : "");
}

static int new_map(void)
{
    static const uint64_t pages[] = {FIRST, SECOND, THIRD};
    int fd = dirtymap_create(pages, 3);
    ck_assert_int_ge(fd, 0);
    return fd;
}

START_TEST(limits)
{
    struct stage s;
    uint64_t ids[FERRY_BLOCKERS_MAX];
    char reason[FERRY_REASON_MAX + 2];
    memset(reason, 'r', sizeof(reason));
    reason[FERRY_REASON_MAX + 1] = '\0';
    lib_stage_make(&s, false, &all_ops);
    expect_add_fails(&s, NULL, -EINVAL);
    expect_add_fails(&s, "", -EINVAL);
    expect_add_fails(&s, reason, -EINVAL);
    for (unsigned i = 0; i < FERRY_BLOCKERS_MAX; i++) {
        ids[i] = add(&s, reason + 1);
        ck_assert_uint_ne(ids[i], i ? ids[i - 1] : 0);
    }
    expect_add_fails(&s, "one more", -E2BIG);
    ck_assert_int_eq(ferry_remove_blocker(s.f, ids[3]), 0);
    ck_assert_int_eq(ferry_remove_blocker(s.f, ids[3]), -ENOENT);
    ck_assert_int_eq(ferry_remove_blocker(s.f, 0), -ENOENT);
    ck_assert_int_eq(ferry_remove_blocker(s.f, UINT64_MAX), -ENOENT);
    add(&s, "in its place");
    lib_stage_close(&s);
}
END_TEST

START_TEST(introduced)
{
    struct stage s;
    lib_stage_make(&s, true, &all_ops);
    uint64_t first = add(&s, "a device in use"), second = add(&s, "a second one");
    ck_assert_int_eq(ferry_start(s.f), 0);
    for (int i = 0; i < 2; i++) { /* and the next ferryd is told all of it again */
        take_introduction(&s.d, s.fds);
        ck_assert_uint_eq(s.d.nblockers, 2);
        ck_assert_uint_eq(s.d.blockers[0].id, first);
        ck_assert_uint_eq(s.d.blockers[0].added, 1);
        ck_assert_str_eq(s.d.blockers[0].text, "a device in use");
        ck_assert_uint_eq(s.d.blockers[1].id, second);
        welcome(&s.d);
        expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_INCOMING); /* nothing in between */
        fd_close(&s.d.sock);
    }
    lib_stage_close(&s);
}
END_TEST

START_TEST(told)
{
    struct stage s;
    lib_stage_open(&s, false);
    uint64_t first = add(&s, "one");
    expect_told(&s, first, "one");
    uint64_t second = add(&s, "two");
    expect_told(&s, second, "two");
    ck_assert_int_eq(ferry_remove_blocker(s.f, first), 0);
    expect_told(&s, first, NULL);
    fd_close(&s.d.sock);
    take_introduction(&s.d, s.fds);
    ck_assert_uint_eq(s.d.nblockers, 1);
    ck_assert_uint_eq(s.d.blockers[0].id, second);
    welcome(&s.d);
    lib_stage_close(&s);
}
END_TEST

/* What comes and goes while the library's thread is busy piles up nothing. */
START_TEST(told_in_short)
{
    struct stage s;
    uint64_t last = 0;
    lib_stage_open(&s, false);
    uint64_t old = add(&s, "old");
    expect_told(&s, old, "old");
    s.v.blocking = "stop";
    ck_assert_int_eq(wire_send(s.d.sock, WIRE_STOP, 1, &pause_request, -1), 0);
    await_blocked(&s.v);
    ck_assert_int_eq(ferry_remove_blocker(s.f, old), 0);
    for (int i = 0; i < 1000; i++) {
        last = add(&s, "new");
        ck_assert_int_eq(ferry_remove_blocker(s.f, last), 0);
    }
    last = add(&s, "the last");
    let_go_on(&s.v);
    await_message(&s.d, WIRE_REPLY, NULL);
    expect_told(&s, old, NULL);
    expect_told(&s, last, "the last");
    expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_PAUSED);
    lib_stage_close(&s);
}
END_TEST

START_TEST(refuses_the_log)
{
    struct stage s;
    CLEANUP_CLOSE int map = new_map();
    lib_stage_open(&s, false);
    uint64_t first = add(&s, "a device in use");
    expect_told(&s, first, "a device in use");
    uint64_t second = add(&s, "and another");
    expect_told(&s, second, "and another");
    expect_refusal(&s.d, WIRE_LOG_START, NULL, map, -EBUSY, "blocked: a device in use");
    expect_refusal(&s.d, WIRE_LOG_SYNC, NULL, -1, -EINVAL, "no dirty log");
    ck_assert_int_eq(ferry_remove_blocker(s.f, first), 0);
    expect_told(&s, first, NULL);
    expect_refusal(&s.d, WIRE_LOG_START, NULL, map, -EBUSY, "and another");
    ck_assert_int_eq(ferry_remove_blocker(s.f, second), 0);
    expect_told(&s, second, NULL);
    expect_done(&s.d, WIRE_LOG_START, NULL, map, FERRY_GUEST_RUNNING);
    lib_stage_close(&s);
}
END_TEST

START_TEST(busy_with_a_migration)
{
    struct stage s;
    CLEANUP_CLOSE int map = new_map();
    lib_stage_open(&s, false);
    expect_refusal(&s.d, WIRE_LOG_START, NULL, -1, -EBADF, NULL);
    ck_assert_int_eq(ferry_remove_blocker(s.f, add(&s, "that did not begin")), 0);
    reconnect(&s);
    expect_done(&s.d, WIRE_LOG_START, NULL, map, FERRY_GUEST_RUNNING);
    expect_add_fails(&s, "late", -EBUSY);
    expect_done(&s.d, WIRE_STOP, &migration_stop, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_STOPPED);
    expect_add_fails(&s, "late", -EBUSY);
    expect_done(&s.d, WIRE_GIVE_AWAY, &give_away, -1, FERRY_GUEST_GIVEN_AWAY);
    expect_add_fails(&s, "late", -EBUSY);
    expect_done(&s.d, WIRE_TAKE_BACK, NULL, -1, FERRY_GUEST_STOPPED);
    expect_done(&s.d, WIRE_RESUME, &migration_resume, -1, FERRY_GUEST_RUNNING);
    uint64_t id = add(&s, "it came back");
    expect_told(&s, id, "it came back");
    ck_assert_int_eq(ferry_remove_blocker(s.f, id), 0);
    expect_told(&s, id, NULL);
    expect_done(&s.d, WIRE_LOG_START, NULL, map, FERRY_GUEST_RUNNING);
    reconnect(&s); /* the end of a ferryd is the end of its migration */
    add(&s, "ferryd is gone");
    lib_stage_close(&s);
}
END_TEST

static void *add_and_remove(void *arg)
{
    struct stage *s = arg;
    for (int i = 0; i < 300; i++) {
        ck_assert_int_eq(ferry_remove_blocker(s->f, add(s, "for a moment")), 0);
    }
    return NULL;
}

/* Whatever is told in between, each one that was added is removed before its place is used again.
 */
START_TEST(from_threads)
{
    struct stage s;
    pthread_t threads[4];
    uint64_t there[4] = {0};
    unsigned count = 0;
    struct wire_message msg;
    lib_stage_open(&s, false);
    for (int i = 0; i < 4; i++) {
        pthread_create(&threads[i], NULL, add_and_remove, &s);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    uint64_t end = add(&s, "the end");
    while ((msg = await_any(&s.d)).body.blocker.id != end) {
        const struct wire_blocker *b = &msg.body.blocker;
        unsigned at = 0;
        while (at < count && there[at] != b->id) {
            at++;
        }
        ck_assert(b->added ? at == count && count < 4 : at < count);
        if (b->added) {
            there[count++] = b->id;
        } else {
            there[at] = there[--count];
        }
    }
    lib_stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/libferry/blockers");
    unit_add(suite, "guest/libferry/blockers/limits", limits);
    unit_add(suite, "guest/libferry/blockers/introduced", introduced);
    unit_add(suite, "guest/libferry/blockers/told", told);
    unit_add(suite, "guest/libferry/blockers/told-in-short", told_in_short);
    unit_add(suite, "guest/libferry/blockers/refuses-the-log", refuses_the_log);
    unit_add(suite, "guest/libferry/blockers/busy-with-a-migration", busy_with_a_migration);
    unit_add(suite, "guest/libferry/blockers/from-threads", from_threads);
    return unit_run(suite);
}
