/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is left to do when a job has ended.  QEMU may not be through then with what it was told: its
 * migration may not have ended, its guest may have to be told to run again, and before that its
 * settings can't be put back.  The main thread sees to it as QEMU tells how it goes, and the
 * guardian (guardian.h) stays until the last of it has been answered, for the case that ferryd ends
 * before.
 */
#include "qemu/internal.h"

#include "common/clock.h"
#include "common/log.h"

#include <string.h>

/* From this one on `blockdev-set-active` says who has the images. */
#define VERSION_SETS_ACTIVE CLIENT_VERSION(10, 0)

/* So long the end of a job waits for QEMU to be as it was before. */
#define SETTLE_MS 1000

/* For an answer of a QEMU that may be busy. */
#define ANSWER_MS 10000

/* A guest that can't run by then, since somebody else has its disk, is its operator's. */
#define RESUME_NS (30 * NS_PER_SEC)

const char qemu_announce_self[] = "announce-self";

static json_t *announcement(struct qemu *q)
{
    return json_pack("{s:s, s:o, s:b}", "execute", qemu_announce_self, "arguments",
                     qemu_announce_arguments(q), "once", 1);
}

bool qemu_entrust(struct qemu *q, const char *const commands[], struct error **errp)
{
    json_t *all = json_array();
    json_t *settings = qemu_settings_undone_by(q);
    bool announces = false;
    for (; *commands; commands++) {
        if (*commands == qemu_announce_self) {
            announces = true;
        } else {
            json_array_append_new(all, json_pack("{s:s}", "execute", *commands));
        }
    }
    if (q->state.fd >= 0) { /* there is none in QEMU where its migration has taken it */
        json_array_append_new(all, json_pack("{s:s, s:{s:s}, s:b}", "execute", "closefd",
                                             "arguments", "fdname", QEMU_STREAM_NAME, "once", 1));
    }
    json_array_extend(all, settings);
    json_decref(settings);
    if (announces) {
        json_array_append_new(all, announcement(q));
    }
    return guardian_entrust(&q->guardian, all, errp);
}

const char *const qemu_only_settings[] = {NULL};

/* Whether QEMU's own migration, if it was told to, is none any more, and no drain is under way. */
static bool is_idle(const struct qemu *q)
{
    return !atomic_load(&q->draining) && (!atomic_load(&q->migrating) || qemu_migration_is_over(q));
}

/* ---- all is as it was ---- */

static void put_back(void *opaque, json_t *reply, struct error *err)
{
    struct qemu *q = opaque;
    (void)reply;
    if (!err) {
        guardian_end(&q->guardian);
    }
    atomic_store(&q->put_back_due, false);
    client_wake(q->client);
    error_free(err); /* no answer: the guardian stays, and does it once more if ferryd ends */
}

bool qemu_images_are_due(const struct qemu *q)
{
    return atomic_load(&q->migration) == QEMU_MIGRATION_COMPLETED &&
           q->version >= VERSION_SETS_ACTIVE;
}

/* Somebody may have told it to run meanwhile. */
static void seen_standing(void *opaque, json_t *reply)
{
    if (json_is_false(json_object_get(reply, "running"))) {
        qemu_set_state(opaque, GUEST_PAUSED);
    }
}

static void take_images_back(struct qemu *q)
{
    struct client_command command = {.name = "blockdev-set-active",
                                     .arguments = json_pack("{s:b}", "active", 1)};
    client_tell(q->client, &command);
}

/* The settings, and behind their answers the guardian's end. */
static void put_settings_back(struct qemu *q)
{
    struct client_command command = {.name = "query-status", .opaque = q};
    atomic_store(&q->stopping, false);
    atomic_store(&q->put_back_due, true);
    if (guardian_is_on(&q->guardian)) {
        qemu_entrust(q, qemu_only_settings, NULL);
    }
    qemu_settings_restore(q);
    if (atomic_exchange(&q->stand_due, false)) {
        command.seen = seen_standing;
        if (qemu_images_are_due(q)) {
            take_images_back(q);
        }
    }
    client_ask(q->client, &command, ANSWER_MS, put_back, q);
}

static void finish_if_settled(struct qemu *q)
{
    if (atomic_load(&q->job_left) && atomic_load(&q->resume) == QEMU_RESUME_NONE && is_idle(q) &&
        atomic_exchange(&q->job_left, false)) {
        put_settings_back(q);
    }
}

/* What has to wait for QEMU is not waited for. */
static bool is_put_back(const struct qemu *q)
{
    return !atomic_load(&q->put_back_due);
}

static struct wait moment(const struct wait *w)
{
    struct wait m = *w;
    m.timeout_ms = w->timeout_ms < SETTLE_MS ? w->timeout_ms : SETTLE_MS;
    return m;
}

void qemu_undo_settings(struct qemu *q, const struct wait *w)
{
    if (qemu_settings_put_back(q, w)) {
        guardian_end(&q->guardian);
    }
}

/*
 * One that still waits is to keep what it needs, and one that has loaded a state for nothing is
 * only to be ended.  Who sees the job's end may end this QEMU, which can crash where it is given
 * settings meanwhile (it frees them before it is through with its monitors).
 */
void qemu_settle_incoming(struct guest *g, bool started, const struct wait *w)
{
    struct qemu *q = qemu_of(g);
    struct wait m = moment(w);
    if (started) {
        qemu_undo_settings(q, &m);
    } else if (q->loaded) {
        qemu_give_up(q);
        guardian_end(&q->guardian);
    }
}

void qemu_settle_begin(struct qemu *q, const struct wait *w)
{
    struct wait m = moment(w);
    if (client_is_lost(q->client)) {
        guardian_leave(&q->guardian);
        return;
    }
    atomic_store(&q->job_left, true);
    finish_if_settled(q);
    qemu_await(q, is_put_back, "take its settings back", &m, NULL);
}

/* ---- the guest is to run again ---- */

void qemu_resume_later(struct qemu *q)
{
    atomic_store(&q->resume_until_ns, clock_ns() + RESUME_NS);
    atomic_store(&q->resume, QEMU_RESUME_DUE);
}

/* A QEMU that is not through with its migration refuses: it is asked again. */
static void resumed(void *opaque, json_t *reply, struct error *err)
{
    struct qemu *q = opaque;
    int asked = QEMU_RESUME_ASKED;
    (void)reply;
    atomic_compare_exchange_strong(&q->resume, &asked, err ? QEMU_RESUME_DUE : QEMU_RESUME_NONE);
    error_free(err);
    finish_if_settled(q);
}

static void ask_to_resume(struct qemu *q)
{
    struct client_command command = {
        .name = "cont", .seen = qemu_seen, .opaque = &q->marks[GUEST_RUNNING]};
    int due = QEMU_RESUME_DUE;
    if (atomic_compare_exchange_strong(&q->resume, &due, QEMU_RESUME_ASKED)) {
        client_ask(q->client, &command, ANSWER_MS, resumed, q);
    }
}

void qemu_stand_later(struct qemu *q)
{
    atomic_store(&q->stand_due, true);
}

void qemu_resume_is_off(struct qemu *q)
{
    atomic_store(&q->stand_due, false);
    atomic_store(&q->resume, QEMU_RESUME_NONE);
    finish_if_settled(q);
}

void qemu_settle(struct qemu *q)
{
    if (!atomic_load(&q->job_left)) {
        return;
    }
    if (atomic_load(&q->resume) == QEMU_RESUME_DUE && clock_ns() > q->resume_until_ns) {
        log_warning("guest %s: QEMU does not run it again: it is left to 'cont'", q->guest.name);
        if (guest_get_state(&q->guest) == GUEST_RUNNING) {
            qemu_set_state(q, GUEST_PAUSED);
        }
        qemu_resume_is_off(q);
    } else if (is_idle(q)) {
        ask_to_resume(q);
        finish_if_settled(q);
    }
}
