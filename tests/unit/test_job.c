/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/cleanup.h"
#include "common/log.h"
#include "daemon/job.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

/* A job, and what its owner was told. */
struct stage {
    struct job *job;
    struct guest guest;
    unsigned frees; /* of the guest */
    struct params *params;
    enum job_status told[16];
    unsigned tellings;
    enum guest_migration notified; /* the VMM, at last */
    unsigned notifications;
    _Atomic unsigned finished;
};

static void free_guest(struct guest *g)
{
    struct stage *s = (struct stage *)((char *)g - offsetof(struct stage, guest));
    s->frees++;
}

static void notify_guest(struct guest *g, enum guest_migration status, bool outgoing)
{
    struct stage *s = (struct stage *)((char *)g - offsetof(struct stage, guest));
    ck_assert(outgoing);
    s->notified = status;
    s->notifications++;
}

static const struct guest_ops guest_ops = {
    .driver = "unit", .notify = notify_guest, .free = free_guest};

static void note_status(void *opaque, struct job *job, enum job_status status)
{
    struct stage *s = opaque;
    ck_assert_int_eq(job_get_status(job), status);
    ck_assert_uint_lt(s->tellings, 16);
    s->told[s->tellings++] = status;
}

static void note_finished(void *opaque, struct job *job)
{
    struct stage *s = opaque;
    ck_assert(job_status_is_terminal(job_get_status(job)));
    atomic_fetch_add(&s->finished, 1);
}

static void stage_open(struct stage *s)
{
    static const bool capabilities[CAPABILITY_COUNT];
    struct job_hooks hooks = {.status = note_status, .finished = note_finished, .opaque = s};
    struct error *err = NULL;
    *s = (struct stage){.guest = {.ops = &guest_ops, .refs = 1, .name = "unit", .ram = 12345}};
    s->params = params_new();
    s->job = job_new(JOB_OUTGOING, &s->guest, s->params, capabilities, NULL, &hooks, &err);
    expect_ok(s->job != NULL, err);
}

static void stage_close(struct stage *s)
{
    job_unref(s->job);
    params_unref(s->params);
    ck_assert_uint_eq(s->frees, 0);
    guest_unref(&s->guest);
    ck_assert_uint_eq(s->frees, 1);
}

/* Fails unless just these statuses were told. */
static void expect_told(struct stage *s, const enum job_status *statuses, size_t count)
{
    ck_assert_uint_eq(s->tellings, count);
    for (size_t i = 0; i < count; i++) {
        ck_assert_int_eq(s->told[i], statuses[i]);
    }
    s->tellings = 0;
}

#define EXPECT_TOLD(s, ...)                                                                        \
    expect_told(s, (const enum job_status[]){__VA_ARGS__},                                         \
                sizeof((const enum job_status[]){__VA_ARGS__}) / sizeof(enum job_status))

/* ---- statuses ---- */

static const bool legal[JOB_STATUS_COUNT][JOB_STATUS_COUNT] = {
    [JOB_NONE] = {[JOB_SETUP] = true},
    [JOB_SETUP] = {[JOB_ACTIVE] = true, [JOB_CANCELLING] = true, [JOB_FAILED] = true},
    [JOB_ACTIVE] = {[JOB_PRE_SWITCHOVER] = true,
                    [JOB_DEVICE] = true,
                    [JOB_CANCELLING] = true,
                    [JOB_FAILED] = true},
    [JOB_PRE_SWITCHOVER] = {[JOB_DEVICE] = true, [JOB_CANCELLING] = true, [JOB_FAILED] = true},
    [JOB_DEVICE] = {[JOB_COMPLETED] = true, [JOB_CANCELLING] = true, [JOB_FAILED] = true},
    [JOB_CANCELLING] = {[JOB_CANCELLED] = true},
};

/* Every transition, from each status: what is not in the table changes and tells nothing. */
START_TEST(transitions)
{
    struct stage s;
    stage_open(&s);
    ck_assert_ptr_nonnull(freopen("/dev/null", "w", stderr)); /* each is logged as a bug */
    for (int from = 0; from < JOB_STATUS_COUNT; from++) {
        for (int to = 0; to < JOB_STATUS_COUNT; to++) {
            atomic_store(&s.job->status, from);
            s.tellings = s.notifications = 0;
            job_set_status(s.job, (enum job_status)to);
            ck_assert_int_eq(job_get_status(s.job), legal[from][to] ? to : from);
            ck_assert_uint_eq(s.tellings, legal[from][to]);
            ck_assert_uint_eq(s.notifications, legal[from][to]);
            ck_assert(!legal[from][to] || (int)s.notified == to); /* they are numbered alike */
        }
    }
    stage_close(&s);
}
END_TEST

START_TEST(terminal)
{
    for (int i = 0; i < JOB_STATUS_COUNT; i++) {
        bool ends = i == JOB_COMPLETED || i == JOB_FAILED || i == JOB_CANCELLED;
        ck_assert_int_eq(job_status_is_terminal((enum job_status)i), ends);
    }
    ck_assert_str_eq(job_status_name(JOB_PRE_SWITCHOVER), "pre-switchover");
    ck_assert_str_eq(job_status_name(JOB_NONE), "none");
}
END_TEST

START_TEST(times)
{
    struct stage s;
    stage_open(&s);
    atomic_store(&s.job->times.start, 1); /* long ago */
    job_set_status(s.job, JOB_SETUP);
    ck_assert_uint_eq(atomic_load(&s.job->times.setup), 0);
    job_set_status(s.job, JOB_ACTIVE);
    ck_assert_uint_gt(atomic_load(&s.job->times.setup), 0);
    job_set_status(s.job, JOB_DEVICE);
    ck_assert_uint_eq(atomic_load(&s.job->times.end), 0);
    job_set_status(s.job, JOB_COMPLETED);
    ck_assert_uint_ge(atomic_load(&s.job->times.end), atomic_load(&s.job->times.setup));
    stage_close(&s);
}
END_TEST

/* ---- ends ---- */

static struct error *make_error(const char *code, const char *text)
{
    struct error *err = NULL;
    error_set(&err, code, "%s", text);
    return err;
}

static void stage_active(struct stage *s)
{
    stage_open(s);
    job_set_status(s->job, JOB_SETUP);
    job_set_status(s->job, JOB_ACTIVE);
    s->tellings = 0;
}

static bool is_rung(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

START_TEST(completes)
{
    struct stage s;
    stage_active(&s);
    job_set_status(s.job, JOB_DEVICE);
    job_end(s.job, NULL);
    EXPECT_TOLD(&s, JOB_DEVICE, JOB_COMPLETED);
    ck_assert_ptr_null(job_get_error(s.job));
    stage_close(&s);
}
END_TEST

START_TEST(fails)
{
    struct stage s;
    stage_active(&s);
    struct error *err = job_begin_end(s.job, make_error("timeout", "too slow"));
    ck_assert_uint_eq(s.tellings, 0);
    job_end(s.job, err);
    EXPECT_TOLD(&s, JOB_FAILED);
    expect_error(job_get_error(s.job), "timeout", "too slow"); /* a copy, and again */
    expect_error(job_get_error(s.job), "timeout", "too slow");
    stage_close(&s);
}
END_TEST

START_TEST(cancels)
{
    struct stage s;
    stage_active(&s);
    ck_assert(!is_rung(s.job->cancel_fd));
    job_cancel(s.job);
    job_cancel(s.job);
    ck_assert(is_rung(s.job->cancel_fd));
    struct error *err = job_begin_end(s.job, make_error("cancelled", "enough"));
    EXPECT_TOLD(&s, JOB_CANCELLING);
    job_end(s.job, err);
    EXPECT_TOLD(&s, JOB_CANCELLED);
    stage_close(&s);
}
END_TEST

/* An abort wakes as a cancel does, and ends in failure with its reason: the first one's. */
START_TEST(aborts)
{
    struct stage s;
    stage_active(&s);
    job_abort(s.job, make_error("guest-lost", "it went away"));
    job_abort(s.job, make_error("guest-lost", "again"));
    ck_assert(is_rung(s.job->cancel_fd));
    struct error *err = job_begin_end(s.job, make_error("cancelled", "enough"));
    ck_assert_str_eq(err->code, "guest-lost");
    job_end(s.job, err);
    EXPECT_TOLD(&s, JOB_FAILED);
    expect_error(job_get_error(s.job), "guest-lost", "it went away");
    stage_close(&s);
}
END_TEST

/* What went wrong by itself is the reason, whatever else was asked meanwhile. */
START_TEST(fails_while_aborted)
{
    struct stage s;
    stage_active(&s);
    job_abort(s.job, make_error("guest-lost", "it went away"));
    job_end(s.job, job_begin_end(s.job, make_error("channel-closed", "the link broke")));
    EXPECT_TOLD(&s, JOB_FAILED);
    expect_error(job_get_error(s.job), "channel-closed", NULL);
    stage_close(&s);
}
END_TEST

START_TEST(cancelled_in_device)
{
    struct stage s;
    stage_active(&s);
    job_set_status(s.job, JOB_DEVICE);
    job_end(s.job, job_begin_end(s.job, make_error("cancelled", "enough")));
    EXPECT_TOLD(&s, JOB_DEVICE, JOB_CANCELLING, JOB_CANCELLED);
    stage_close(&s);
}
END_TEST

/* ---- the mailbox and the record ---- */

START_TEST(mailbox)
{
    struct stage s;
    stage_open(&s);
    ck_assert(!is_rung(s.job->continue_fd) && !is_rung(s.job->resolve_fd));
    job_continue(s.job);
    ck_assert(is_rung(s.job->continue_fd));
    job_resolve(s.job, RESOLVE_DESTINATION);
    job_resolve(s.job, RESOLVE_SOURCE); /* the first word counts */
    ck_assert(is_rung(s.job->resolve_fd));
    ck_assert_int_eq(atomic_load(&s.job->resolution), RESOLVE_DESTINATION);
    ck_assert(!is_rung(s.job->cancel_fd));
    stage_close(&s);
}
END_TEST

START_TEST(facts)
{
    static const uint8_t uuid[GUEST_UUID_SIZE] = "0123456789abcde";
    struct stage s;
    uint8_t got[GUEST_UUID_SIZE];
    stage_open(&s);
    ck_assert_uint_eq(atomic_load(&s.job->counters.total), 12345);
    ck_assert_str_eq(s.job->guest_name, "unit");
    job_set_uuid(s.job, uuid);
    job_get_uuid(s.job, got);
    ck_assert_mem_eq(got, uuid, sizeof(uuid));
    ck_assert_ptr_null(job_get_address(s.job));
    job_set_address(s.job, "tcp:[::1]:1");
    job_set_address(s.job, "tcp:[::1]:2");
    char *address = job_get_address(s.job);
    ck_assert_str_eq(address, "tcp:[::1]:2");
    free(address);
    job_set_handover(s.job, HANDOVER_UNDECIDED);
    ck_assert_int_eq(atomic_load(&s.job->handover), HANDOVER_UNDECIDED);
    job_store_double(&s.job->counters.mbps_bits, 0.1);
    ck_assert_double_eq(job_load_double(&s.job->counters.mbps_bits), 0.1);
    stage_close(&s);
}
END_TEST

START_TEST(waits)
{
    struct stage s;
    stage_open(&s);
    param_set(s.params, PARAM_GUEST_TIMEOUT, 70);
    param_set(s.params, PARAM_PEER_TIMEOUT, 500);
    ck_assert_int_eq(job_guest_wait(s.job).timeout_ms, 70);
    ck_assert_int_eq(job_peer_wait(s.job).timeout_ms, 500);
    ck_assert_int_eq(job_patient_wait(s.job).timeout_ms, 570);
    ck_assert_str_eq(job_peer_wait(s.job).what, "the destination");
    ck_assert_int_eq(job_peer_wait(s.job).cancel_fd, s.job->cancel_fd);
    stage_close(&s);
}
END_TEST

/* ---- its thread ---- */

/* Active until cancelled. */
static void run_until_cancelled(struct job *job)
{
    struct error *err = NULL;
    struct wait w = job_peer_wait(job);
    job_set_status(job, JOB_ACTIVE);
    while (wait_ns(1000000000, &w, &err)) {
    }
    job_end(job, job_begin_end(job, err));
}

START_TEST(thread)
{
    struct stage s;
    struct error *err = NULL;
    stage_open(&s);
    expect_ok(job_start(s.job, run_until_cancelled, &err), err);
    pthread_t id = s.job->thread;
    job_cancel(s.job);
    pthread_join(id, NULL);
    ck_assert_uint_eq(atomic_load(&s.finished), 1);
    EXPECT_TOLD(&s, JOB_SETUP, JOB_ACTIVE, JOB_CANCELLING, JOB_CANCELLED);
    ck_assert_uint_gt(atomic_load(&s.job->times.start), 0);
    ck_assert_uint_gt(job_elapsed(s.job), 0);
    ck_assert_int_eq(atomic_load(&s.guest.refs), 1); /* the thread has let it go */
    stage_close(&s);
}
END_TEST

/* The thread's own reference keeps the job as long as it runs. */
START_TEST(outlives_its_owner)
{
    struct stage s;
    struct error *err = NULL;
    stage_open(&s);
    expect_ok(job_start(s.job, run_until_cancelled, &err), err);
    pthread_t id = s.job->thread;
    struct job *job = s.job;
    job_cancel(job);
    job_unref(job);
    pthread_join(id, NULL);
    s.job = NULL;
    ck_assert_uint_eq(atomic_load(&s.finished), 1);
    stage_close(&s);
}
END_TEST

/* ---- parameters ---- */

START_TEST(params)
{
    struct params *p = params_new();
    for (int i = 0; i < PARAM_COUNT; i++) {
        const struct param_info *info = &param_infos[i];
        ck_assert_uint_eq(param_get(p, (enum param)i), info->initial);
        ck_assert(info->min <= info->initial && info->initial <= info->max);
    }
    params_unref(params_ref(p));
    params_unref(p);
    for (int i = 0; i < CAPABILITY_COUNT; i++) {
        ck_assert_int_eq(capability_from_name(capability_infos[i].name), i);
    }
    ck_assert_int_eq(capability_from_name("no-such"), CAPABILITY_COUNT);
    ck_assert_int_eq(capability_from_name(""), CAPABILITY_COUNT);
}
END_TEST

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    Suite *suite = suite_create("daemon/job");
    unit_add(suite, "daemon/job/status/transitions", transitions);
    unit_add(suite, "daemon/job/status/terminal", terminal);
    unit_add(suite, "daemon/job/status/times", times);
    unit_add(suite, "daemon/job/end/completes", completes);
    unit_add(suite, "daemon/job/end/fails", fails);
    unit_add(suite, "daemon/job/end/cancels", cancels);
    unit_add(suite, "daemon/job/end/aborts", aborts);
    unit_add(suite, "daemon/job/end/fails-while-aborted", fails_while_aborted);
    unit_add(suite, "daemon/job/end/cancelled-in-device", cancelled_in_device);
    unit_add(suite, "daemon/job/mailbox", mailbox);
    unit_add(suite, "daemon/job/facts", facts);
    unit_add(suite, "daemon/job/waits", waits);
    unit_add(suite, "daemon/job/thread/cancelled", thread);
    unit_add(suite, "daemon/job/thread/outlives-its-owner", outlives_its_owner);
    unit_add(suite, "daemon/params", params);
    return unit_run(suite);
}
