/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A QEMU whose guest leaves: the stop, the device state, and giving away.
 *
 * QEMU's own migration is started only to stop the guest and to save its devices: with all RAM
 * ignored it goes through its states within milliseconds.  It pauses in pre-switchover, vCPUs
 * stopped and I/O drained (qemu_stop); then it saves the devices (qemu_save_state) and waits for
 * the return path's word.  Until that is given (qemu_give_away) a cancel, or the end of our socket,
 * makes it resume the guest.
 */
#include "qemu/internal.h"

#include "common/cleanup.h"
#include "common/clock.h"
#include "guest/wire.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* ---- if ferryd ends ---- */

/* What the guardian has to do before it puts the settings back. */
static const char *const to_cancel[] = {"query-migrate", "migrate_cancel", NULL};
static const char *const to_resume[] = {"query-migrate", "migrate_cancel", "cont",
                                        qemu_announce_self, NULL};
/* QEMU runs the guest by itself; the destination's has announced it, perhaps. */
static const char *const to_announce[] = {qemu_announce_self, NULL};

/* ---- QEMU's migration ---- */

/* Takes the stream until `reached` holds. */
static bool collect(struct qemu *q, bool (*reached)(const struct qemu *q), const struct wait *w,
                    struct error **errp)
{
    uint64_t deadline = clock_ns() + (uint64_t)w->timeout_ms * NS_PER_MS;
    for (;;) {
        client_woken(q->client);
        if (reached(q)) {
            return true;
        }
        if (q->state.ended || client_is_lost(q->client) ||
            atomic_load(&q->migration) == QEMU_MIGRATION_FAILED) {
            qemu_set_failed(q, "did not save the device state", errp);
            return false;
        }
        int n = client_sleep(q->client, deadline, w, errp);
        if (n == 0) {
            error_set(errp, "guest-timeout",
                      "The VMM of guest '%s' did not save the device state within %d ms",
                      q->guest.name, w->timeout_ms);
        }
        if (n <= 0) {
            return false;
        }
    }
}

static bool is_paused(const struct qemu *q)
{
    return atomic_load(&q->migration) == QEMU_MIGRATION_PRE_SWITCHOVER;
}

static bool is_saved(const struct qemu *q)
{
    return vmstate_is_complete(q->state.bytes, q->state.length);
}

/* Where the answer does not come, it may have begun, or begin later. */
static bool begin_migration(struct qemu *q, const struct wait *w, struct error **errp)
{
    struct error *err = NULL;
    atomic_store(&q->migrating, true);
    qemu_do(q, "migrate", json_pack("{s:s}", "uri", QEMU_STREAM_URI), w, &err);
    if (err) {
        atomic_store(&q->migrating, strcmp(err->code, "guest-refused") != 0);
        error_move(errp, err);
        return false;
    }
    return true;
}

/* ---- stop and state ---- */

/* A guest that sleeps (ACPI S3) is not paused: QEMU wakes it, or carries its sleep over.  On the
 * main thread, so that it stands in its place among the events. */
static void note_paused(void *opaque, json_t *reply)
{
    struct qemu *q = opaque;
    const char *status = json_string_value(json_object_get(reply, "status"));
    bool sleeps = status && strcmp(status, "suspended") == 0;
    atomic_store(&q->was_paused, !json_is_true(json_object_get(reply, "running")) && !sleeps);
}

static bool find_paused(struct qemu *q, const struct wait *w, struct error **errp)
{
    struct client_command command = {.name = "query-status", .seen = note_paused, .opaque = q};
    json_t *reply = client_call(q->client, &command, w, errp);
    json_decref(reply);
    return reply;
}

bool qemu_prepare(struct guest *g, const struct guest_announce *announce, const struct wait *w,
                  struct error **errp)
{
    struct qemu *q = qemu_of(g);
    struct guest_announce how = *announce;
    how.rounds = how.rounds ? how.rounds : 1; /* the destination's QEMU has sent one */
    qemu_set_announce(q, &how);
    atomic_store(&q->migration, QEMU_MIGRATION_NONE);
    return qemu_check_hazards(q, w, errp) && qemu_open_stream(q, WIRE_STATE_MAX, w, errp);
}

/* A guest that was paused stands still already: what follows is counted from when QEMU is ready. */
static uint64_t stop_time(struct qemu *q)
{
    uint64_t stopped = atomic_load(&q->stopped_ns);
    return q->was_paused || !stopped ? clock_ns() : stopped;
}

/* Whether it was paused, or an operator was faster than we were.  QEMU, which stops its guest for
 * both, may yet have to tell of it. */
static bool note_stopped_meanwhile(struct qemu *q)
{
    if (guest_get_state(&q->guest) == GUEST_PAUSED || atomic_load(&q->stop_wanted)) {
        atomic_store(&q->was_paused, true);
    }
    return atomic_load(&q->was_paused);
}

/* Only now: whoever else has QEMU migrate would do so without RAM. */
static bool set_up(struct qemu *q, const struct wait *w, struct error **errp)
{
    return qemu_settings_read(q, true, w, errp) && qemu_entrust(q, to_cancel, errp) &&
           qemu_settings_set(q, true, w, errp);
}

/* QEMU gets its migration under way before it stops the guest: some 10 ms. */
bool qemu_begin_stop(struct guest *g, const struct wait *w, struct error **errp)
{
    struct qemu *q = qemu_of(g);
    if (!set_up(q, w, errp) || !find_paused(q, w, errp)) {
        return false;
    }
    qemu_release_vcpus(q); /* only now: held ones would be long in stopping */
    atomic_store(&q->stopped_ns, 0);
    atomic_store(&q->stopping, true);
    /* From here on QEMU itself lets nothing be plugged.  The questions take less than it does to
     * stop its guest. */
    return begin_migration(q, w, errp) && qemu_check_devices(q, w, errp);
}

bool qemu_stop(struct guest *g, bool *was_paused, uint64_t *stopped_ns, const struct wait *w,
               struct error **errp)
{
    struct qemu *q = qemu_of(g);
    if (!collect(q, is_paused, w, errp)) {
        return false;
    }
    *was_paused = note_stopped_meanwhile(q);
    *stopped_ns = stop_time(q);
    return !q->was_paused || qemu_do_state(q, "query-status", GUEST_STOPPED, w, errp);
}

/* The state that has come, as a file. */
static int state_file(const struct qemu *q, struct error **errp)
{
    CLEANUP_CLOSE int fd = memfd_create("ferry-state", MFD_CLOEXEC);
    size_t at = 0;
    while (fd >= 0 && at < q->state.length) {
        ssize_t n = write(fd, q->state.bytes + at, q->state.length - at);
        if (n <= 0) {
            break;
        }
        at += (size_t)n;
    }
    if (fd < 0 || at < q->state.length) {
        error_set(errp, "no-memory", "No file for the device state: %s", strerror(errno));
        return -1;
    }
    return fd_steal(&fd);
}

/* With all devices stopped it saves as it does behind the last round of its own migration. */
bool qemu_begin_save(struct guest *g, const struct wait *w, struct error **errp)
{
    struct qemu *q = qemu_of(g);
    /* A block job may have begun since the last round, not least in a long pause. */
    return qemu_check_block_jobs(q, w, errp) &&
           qemu_do(q, "migrate-continue", json_pack("{s:s}", "state", "pre-switchover"), w, errp);
}

int qemu_save_state(struct guest *g, const struct wait *w, struct error **errp)
{
    struct qemu *q = qemu_of(g);
    if (!collect(q, is_saved, w, errp) || !qemu_entrust(q, to_announce, errp)) {
        return -1;
    }
    atomic_store(&q->announce_due, true); /* a QEMU that loads this announces the guest */
    return state_file(q, errp);
}

/* ---- back ---- */

/* Ends QEMU's migration; the socket first, on which QEMU may be waiting with its locks held. */
static bool end_migration(struct qemu *q, const struct wait *w, struct error **errp)
{
    qemu_close_stream(q);
    if (!atomic_load(&q->migrating) || qemu_migration_is_over(q)) {
        return true;
    }
    atomic_store(&q->cancel_due, true);
    qemu_cancel_if_safe(q);
    /* One that has begun has said so before this is answered. */
    if (!qemu_do(q, "query-status", NULL, w, errp)) {
        return false;
    }
    return !qemu_migration_has_begun(q) || qemu_await_end(q, w, errp);
}

/* QEMU says that its migration has failed a moment before its guest may run again. */
static bool may_run_soon(struct qemu *q, const struct wait *w)
{
    json_t *reply = qemu_call(q, "query-status", NULL, w, NULL);
    const char *status = json_string_value(json_object_get(reply, "status"));
    bool soon = status && (strcmp(status, "finish-migrate") == 0 || strcmp(status, "running") == 0);
    json_decref(reply);
    return soon && wait_ns(NS_PER_MS, w, NULL);
}

/* What is refused may be done by the time that QEMU is asked why: it is told once more. */
static bool run_again(struct qemu *q, const struct wait *w, struct error **errp)
{
    uint64_t deadline = clock_ns() + (uint64_t)w->timeout_ms * NS_PER_MS;
    bool soon = true;
    for (;;) {
        struct error *err = NULL;
        if (qemu_do_state(q, "cont", GUEST_RUNNING, w, &err)) {
            return true;
        }
        if (strcmp(err->code, "guest-refused") != 0 || clock_ns() > deadline || !soon) {
            error_move(errp, err);
            return false;
        }
        error_free(err);
        soon = may_run_soon(q, w);
    }
}

/* Behind an operator's `stop` that came when QEMU had stopped its guest, it would run it again. */
static bool stand_still(struct qemu *q, const struct wait *w, struct error **errp)
{
    uint64_t deadline = clock_ns() + (uint64_t)w->timeout_ms * NS_PER_MS;
    for (;;) {
        if (!qemu_do(q, "stop", NULL, w, errp)) {
            return false;
        }
        if (!may_run_soon(q, w)) {
            return qemu_do_state(q, "query-status", GUEST_PAUSED, w, errp);
        }
        if (clock_ns() > deadline) {
            error_set(errp, "guest-timeout",
                      "The VMM of guest '%s' did not end its migration within %d ms", q->guest.name,
                      w->timeout_ms);
            return false;
        }
    }
}

/* A guest that was given away has let go of its images; from 10.0 on they can be taken back without
 * running it. */
static bool stand_again(struct qemu *q, const struct wait *w, struct error **errp)
{
    if (qemu_images_are_due(q) &&
        !qemu_do(q, "blockdev-set-active", json_pack("{s:b}", "active", 1), w, errp)) {
        return false;
    }
    return stand_still(q, w, errp);
}

/* The main thread does it, once QEMU tells that its migration has ended; if ferryd ends before, the
 * guardian. */
static void resume_later(struct qemu *q, bool was_paused)
{
    if (was_paused) {
        qemu_stand_later(q);
    } else {
        qemu_entrust(q, to_resume, NULL);
        qemu_resume_later(q);
    }
}

/*
 * QEMU resumes by itself where its migration was cancelled; where it was completed (the guest was
 * given away), `cont` does it, and takes the locks of its images again.  A guest whose QEMU was not
 * told to migrate was not stopped: it is left as it is.
 */
bool qemu_resume(struct guest *g, const struct wait *w, struct error **errp)
{
    struct qemu *q = qemu_of(g);
    bool was_paused = note_stopped_meanwhile(q); /* before QEMU says that it has it run again */
    if (!end_migration(q, w, errp)) {
        resume_later(q, was_paused); /* until then QEMU lets nobody change its settings, either */
        return false;
    }
    bool ok = !atomic_load(&q->migrating) ||
              (was_paused ? stand_again(q, w, errp) : run_again(q, w, errp));
    if (ok) {
        atomic_store(&q->migrating, false);
        atomic_store(&q->stopping, false);
    } else {
        resume_later(q, was_paused);
    }
    return ok;
}

/* ---- away ---- */

/* The destination has the state: with this word QEMU is through, and never resumes by itself. */
bool qemu_give_away(struct guest *g, const uint8_t job[GUEST_UUID_SIZE], const struct wait *w,
                    struct error **errp)
{
    struct qemu *q = qemu_of(g);
    struct error *err = NULL;
    (void)job;
    qemu_entrust(q, qemu_only_settings,
                 NULL); /* it is the destination's to announce from here on */
    bool over = vmstate_confirm(&q->state) && qemu_await_end(q, w, &err);
    if (err) {
        error_move(errp, err);
        return false;
    }
    if (!over || atomic_load(&q->migration) != QEMU_MIGRATION_COMPLETED) {
        qemu_set_failed(q, "did not give its guest away", errp);
        return false;
    }
    qemu_tell_state(q, GUEST_GIVEN_AWAY); /* QEMU cleans up for some 10 ms: not waited for */
    return true;
}

/* What has to be done is qemu_resume's. */
bool qemu_take_back(struct guest *g, const struct wait *w, struct error **errp)
{
    (void)g;
    (void)w;
    (void)errp;
    return true;
}

/* QEMU stays in postmigrate until whoever started it ends it.  Before this is known nobody is to
 * take the guest for one that a migration has stopped. */
bool qemu_release(struct guest *g, const struct wait *w, struct error **errp)
{
    return qemu_do_state(qemu_of(g), "query-status", GUEST_GIVEN_AWAY, w, errp);
}
