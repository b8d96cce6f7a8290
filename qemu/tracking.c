/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A QEMU whose guest leaves, while it runs: what it writes, what has to be waited for before it may
 * be read, and its vCPUs held back.  From log_start to log_stop a guardian stands by.
 */
#include "qemu/internal.h"

#include "common/clock.h"
#include "common/log.h"
#include "guest/borrow.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/*
 * Up to this version an empty transaction waits for all I/O that is in flight (tried with 7.2 and
 * 10.0, tests/system/test_qemu_direct.py).  Later ones are stopped for a moment instead, which
 * drains in every version: migration itself rests on it.
 */
#define VERSION_TRANSACTION_DRAINS CLIENT_VERSION(10, 0)

/* ---- tracking ---- */

static bool check_images(const struct qemu *q, struct error **errp)
{
    if (atomic_load(&q->images_inactive) && q->version < QEMU_INACTIVATES_TWICE) {
        error_set(errp, "guest-state",
                  "Guest '%s' came here paused and has not run since: this QEMU migrates it again "
                  "only after 'cont'",
                  q->guest.name);
        return false;
    }
    return true;
}

/* A paused guest whose migration did not come off stays in postmigrate where QEMU is older than
 * 8.2, which refuses to migrate it once more. */
static bool check_state(struct qemu *q, const struct wait *w, struct error **errp)
{
    json_t *reply = qemu_call(q, "query-status", NULL, w, errp);
    const char *status = json_string_value(json_object_get(reply, "status"));
    bool again = status && strcmp(status, "postmigrate") == 0;
    json_decref(reply);
    if (again) {
        error_set(errp, "guest-state",
                  "Guest '%s' was paused when a migration failed, and this QEMU migrates it again "
                  "only after 'cont'",
                  q->guest.name);
    }
    return reply && !again;
}

static struct wptrack *begin_tracking(struct qemu *q, const struct wait *w, struct error **errp)
{
    struct wptrack_range ranges[GUEST_BLOCKS_MAX];
    uint64_t stopped_ns = 0;
    for (unsigned i = 0; i < q->guest.nblocks; i++) {
        const struct guest_block *b = &q->guest.blocks[i];
        ranges[i] = (struct wptrack_range){
            .address = q->address[i], .length = b->length, .fd = b->fd, .offset = b->offset};
    }
    int uffd = borrow_userfaultfd(q->guest.pid, w, &stopped_ns, errp);
    if (uffd < 0) {
        return NULL;
    }
    log_info("guest %s: a thread of QEMU was borrowed for %.3f ms", q->guest.name,
             ns_to_ms(stopped_ns));
    return wptrack_start(q->guest.pid, uffd, ranges, q->guest.nblocks, w, errp);
}

bool qemu_log_start(struct guest *g, const struct wait *w, struct error **errp)
{
    struct qemu *q = qemu_of(g);
    atomic_store(&q->job_left, false); /* from here on it is this job's to settle */
    atomic_store(&q->stopping, false); /* it may be left over from a resume that failed */
    qemu_forget_devices(q); /* those that were plugged before the job are known to its client */
    if (!check_images(q, errp) || !check_state(q, w, errp) || !qemu_check_idle(q, w, errp) ||
        !qemu_check_blockers(q, w, errp) || !qemu_check_block_jobs(q, w, errp) ||
        !qemu_check_hazards(q, w, errp) || !qemu_check_ram(q, w, errp)) {
        return false;
    }
    guardian_end(&q->guardian);
    atomic_store(&q->migrating, false);
    atomic_store(&q->cancel_due, false);
    atomic_store(&q->resume, QEMU_RESUME_NONE);
    atomic_store(&q->stand_due, false);
    if (!guardian_post(&q->guardian, client_socket(q->client), errp)) {
        return false;
    }
    q->track = begin_tracking(q, w, errp);
    return q->track;
}

void qemu_release_vcpus(struct qemu *q)
{
    vcpus_release(q->vcpus);
    q->vcpus = NULL;
}

void qemu_log_stop(struct guest *g, const struct wait *w)
{
    struct qemu *q = qemu_of(g);
    qemu_release_vcpus(q);
    wptrack_stop(q->track);
    q->track = NULL;
    qemu_close_stream(q);
    qemu_settle_begin(q, w);
}

bool qemu_log_sync(struct guest *g, uint64_t *const dirty[], const struct wait *w,
                   struct error **errp)
{
    struct qemu *q = qemu_of(g);
    return wptrack_sync(q->track, dirty, w, errp) && wptrack_check(q->track, errp);
}

/* The scan has protected its pages anew before. */
bool qemu_log_clear(struct guest *g, unsigned block, uint64_t first, uint64_t count,
                    const struct wait *w, struct error **errp)
{
    (void)g;
    (void)block;
    (void)first;
    (void)count;
    (void)w;
    (void)errp;
    return true;
}

/* QEMU's disks are not moved with its guests. */
void qemu_disk_sync(struct guest *g, uint64_t *const dirty[])
{
    (void)g;
    (void)dirty;
}

/* ---- direct I/O ---- */

static bool is_drained(const struct qemu *q)
{
    return !atomic_load(&q->draining);
}

/* Its events have come before this answer.  One that did not come leaves it to be told again. */
static void drained(void *opaque, json_t *reply, struct error *err)
{
    struct qemu *q = opaque;
    (void)reply;
    if (err) {
        qemu_resume_later(q);
    } else if (atomic_load(&q->stop_wanted)) {
        qemu_tell(q, "stop"); /* it came before our `cont` */
    }
    error_free(err);
    atomic_store(&q->draining, false);
    qemu_settle(q);
    client_wake(q->client);
}

static bool stop_and_go_on(struct qemu *q, const struct wait *w, struct error **errp)
{
    struct client_command cont = {.name = "cont"};
    atomic_store(&q->draining, true);
    bool stopped = qemu_do(q, "stop", NULL, w, errp);
    client_ask(q->client, &cont, w->timeout_ms, drained, q);
    if (!stopped || !qemu_await(q, is_drained, "run again", w, errp)) {
        return false;
    }
    if (client_is_lost(q->client) || atomic_load(&q->resume) != QEMU_RESUME_NONE) {
        qemu_set_failed(q, "was stopped for a moment and did not run again", errp);
        return false;
    }
    return true;
}

static const char *const to_go_on[] = {"cont", NULL};

/* Whatever becomes of this job, or of ferryd: the guest is told to run again. */
static bool drain_by_stop(struct qemu *q, const struct wait *w, struct error **errp)
{
    if (guest_get_state(&q->guest) != GUEST_RUNNING) {
        return true; /* stopping it has drained it */
    }
    if (atomic_load(&q->stop_wanted)) {
        return qemu_do(q, "stop", NULL, w, errp); /* behind an operator's, which it is to obey */
    }
    return qemu_entrust(q, to_go_on, errp) && stop_and_go_on(q, w, errp) &&
           qemu_entrust(q, qemu_only_settings, errp);
}

/*
 * A page that a disk writes to by itself is reported when the I/O begins, protected anew, and then
 * written without a fault.  Whatever was in flight as the pages were protected has landed when this
 * returns; what has begun since is reported by the next scan.  So nothing is read too early, and
 * the guest runs on: of its I/O alone is waited for.
 *
 * Whether there are such disks, and what else may have been plugged, is asked behind the scan and
 * before a page of it is read.  A guest that is stopped has nothing plugged, and is drained: none
 * of this is part of the downtime, nor of the time that log_sync takes, from which that is
 * expected.
 */
bool qemu_log_settle(struct guest *g, const struct wait *w, struct error **errp)
{
    struct qemu *q = qemu_of(g);
    if (atomic_load(&q->stopping)) {
        return true;
    }
    if (!qemu_check_ram(q, w, errp) || !qemu_check_hazards(q, w, errp) ||
        !qemu_check_block_jobs(q, w, errp)) {
        return false;
    }
    if (!q->drains) {
        return true;
    }
    if (q->version > VERSION_TRANSACTION_DRAINS) {
        return drain_by_stop(q, w, errp);
    }
    return qemu_do(q, "transaction", json_pack("{s:[]}", "actions"), w, errp);
}

/* ---- throttling ---- */

/* The threads are the monitor's word: those of other processes are none of this guest's. */
static unsigned own_threads(const struct qemu *q, pid_t *tids, unsigned count)
{
    unsigned n = 0;
    for (unsigned i = 0; i < count; i++) {
        char path[64];
        snprintf(path, sizeof(path), "/proc/%d/task/%d", (int)q->guest.pid, (int)tids[i]);
        if (access(path, F_OK) == 0) {
            tids[n++] = tids[i];
        }
    }
    return n;
}

static struct vcpus *hold_vcpus(struct qemu *q, const struct wait *w, struct error **errp)
{
    pid_t tids[VCPUS_MAX];
    int n = qemu_vcpu_threads(q, tids, VCPUS_MAX, w, errp);
    return n < 0 ? NULL : vcpus_hold(q->guest.pid, tids, own_threads(q, tids, (unsigned)n), errp);
}

bool qemu_throttle(struct guest *g, unsigned percent, const struct wait *w, struct error **errp)
{
    struct qemu *q = qemu_of(g);
    if (percent && !q->vcpus) {
        q->vcpus = hold_vcpus(q, w, errp);
        if (!q->vcpus) {
            return false;
        }
    }
    if (percent && !vcpus_set(q->vcpus, percent)) {
        error_set(errp, "system-error",
                  "Guest '%s' is throttled no more: the helper that held its vCPUs is gone",
                  g->name);
        return false;
    }
    if (!percent) {
        qemu_release_vcpus(q);
    }
    return true;
}
