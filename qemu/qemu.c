/* SPDX-License-Identifier: BSD-3-Clause */
/* A guest of an unmodified QEMU: its life, and what its monitor tells unasked. */
#include "qemu/internal.h"

#include "common/cleanup.h"
#include "common/log.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* What a VMM may tell between two calls of qemu_ops.expire. */
#define NEWS_MAX 200u

/* ---- talking to the monitor ---- */

json_t *qemu_call(struct qemu *q, const char *name, json_t *arguments, const struct wait *w,
                  struct error **errp)
{
    struct client_command command = {.name = name, .arguments = arguments};
    return client_call(q->client, &command, w, errp);
}

bool qemu_do(struct qemu *q, const char *name, json_t *arguments, const struct wait *w,
             struct error **errp)
{
    json_t *reply = qemu_call(q, name, arguments, w, errp);
    json_decref(reply);
    return reply;
}

void qemu_tell(struct qemu *q, const char *name)
{
    client_tell(q->client, &(struct client_command){.name = name});
}

void qemu_seen(void *opaque, json_t *reply)
{
    const struct qemu_mark *mark = opaque;
    (void)reply;
    qemu_set_state(mark->qemu, mark->state);
}

void qemu_tell_state(struct qemu *q, enum guest_state state)
{
    struct client_command command = {
        .name = "query-status", .seen = qemu_seen, .opaque = &q->marks[state]};
    client_tell(q->client, &command);
}

bool qemu_do_state(struct qemu *q, const char *name, enum guest_state state, const struct wait *w,
                   struct error **errp)
{
    struct client_command command = {.name = name, .seen = qemu_seen, .opaque = &q->marks[state]};
    json_t *reply = client_call(q->client, &command, w, errp);
    json_decref(reply);
    return reply;
}

char *qemu_human(struct qemu *q, const char *line, const struct wait *w, struct error **errp)
{
    json_t *reply =
        qemu_call(q, "human-monitor-command", json_pack("{s:s}", "command-line", line), w, errp);
    const char *text = json_string_value(reply);
    if (reply && !text) {
        error_set(errp, "guest-protocol", "The VMM of guest '%s' says nothing to '%s'",
                  q->guest.name, line);
    }
    char *copy = text ? strdup(text) : NULL;
    json_decref(reply);
    return copy;
}

/* ---- what it tells ---- */

void qemu_set_state(struct qemu *q, enum guest_state state)
{
    enum guest_state from = guest_get_state(&q->guest);
    if (state != from) {
        atomic_store(&q->guest.state, (int)state);
        if (q->attached) {
            q->events.state_changed(q->events.opaque, &q->guest, from);
        }
    }
}

static void on_stop(struct qemu *q, const json_t *data)
{
    (void)data;
    if (atomic_load(&q->draining)) {
        return;
    }
    bool wanted = atomic_exchange(&q->stop_wanted, false); /* then it is, whoever did it */
    if (guest_get_state(&q->guest) == GUEST_RUNNING) {
        atomic_store(&q->stopped_ns, client_event_ns(q->client));
        qemu_set_state(q, atomic_load(&q->stopping) && !wanted ? GUEST_STOPPED : GUEST_PAUSED);
    }
}

static json_t *announce_arguments(const struct guest_announce *how)
{
    return json_pack("{s:i, s:i, s:i, s:i}", "initial", (int)how->initial, "max", (int)how->max,
                     "rounds", (int)how->rounds, "step", (int)how->step);
}

void qemu_set_announce(struct qemu *q, const struct guest_announce *how)
{
    LOCK_SCOPE(&q->lock);
    q->announce = *how;
}

json_t *qemu_announce_arguments(struct qemu *q)
{
    LOCK_SCOPE(&q->lock);
    return announce_arguments(&q->announce);
}

/* A guest that is the source's yet: whoever has told QEMU to run it here, it stands still again. */
static bool is_stopped_again(struct qemu *q)
{
    LOCK_SCOPE(&q->lock);
    if (q->must_stand) {
        log_warning("guest %s: something else has told QEMU to run it before it is handed over: it "
                    "is stopped again",
                    q->guest.name);
        qemu_tell(q, "stop");
    }
    return q->must_stand;
}

static void on_resume(struct qemu *q, const json_t *data)
{
    (void)data;
    if (atomic_load(&q->draining) || is_stopped_again(q)) {
        return;
    }
    if (atomic_load(&q->stand_due)) { /* QEMU does it by itself behind its own migration */
        qemu_tell(q, "stop");
        return;
    }
    atomic_store(&q->images_inactive, false);
    atomic_store(&q->stop_wanted, false);
    atomic_store(&q->was_paused, false);
    if (atomic_load(&q->resume) != QEMU_RESUME_NONE) {
        atomic_store(&q->stopping, false); /* else it is an operator's, before the job's stop */
    }
    qemu_set_state(q, GUEST_RUNNING);
    qemu_resume_is_off(q);
    if (atomic_exchange(&q->announce_due, false)) {
        struct client_command command = {.name = qemu_announce_self,
                                         .arguments = qemu_announce_arguments(q)};
        client_tell(q->client, &command);
    }
}

/* Whether QEMU itself ends, whatever it was told to do when its guest powers off. */
static bool is_told_to_end(const char *reason)
{
    return strcmp(reason, "host-signal") == 0 || strcmp(reason, "host-qmp-quit") == 0;
}

/* A guest that waits, and has no job: its guardian is the main thread's. */
static bool is_guarded_here(struct qemu *q)
{
    return guardian_is_on(&q->guardian) && guest_get_state(&q->guest) == GUEST_INCOMING &&
           !atomic_load(&q->busy);
}

static void on_shutdown(struct qemu *q, const json_t *data)
{
    char words[CLIENT_WORDS];
    const char *reason = client_words(json_object_get(data, "reason"), words);
    if (is_told_to_end(reason)) {
        qemu_settings_drop(q); /* see qemu_settle_incoming */
        if (is_guarded_here(q)) {
            guardian_entrust(&q->guardian, NULL, NULL);
        }
    }
    if (q->attached) {
        q->events.shut_down(q->events.opaque, &q->guest,
                            json_is_true(json_object_get(data, "guest")), reason);
    }
}

static void on_migration(struct qemu *q, const json_t *data)
{
    static const struct {
        const char *status;
        enum qemu_migration is;
    } known[] = {
        {"pre-switchover", QEMU_MIGRATION_PRE_SWITCHOVER},
        {"device", QEMU_MIGRATION_DEVICE},
        {"completed", QEMU_MIGRATION_COMPLETED},
        {"failed", QEMU_MIGRATION_FAILED},
        {"cancelled", QEMU_MIGRATION_FAILED},
    };
    const char *status = json_string_value(json_object_get(data, "status"));
    enum qemu_migration is = QEMU_MIGRATION_RUNNING;
    for (size_t i = 0; status && i < sizeof(known) / sizeof(known[0]); i++) {
        is = strcmp(status, known[i].status) == 0 ? known[i].is : is;
    }
    atomic_store(&q->migration, (int)is);
    qemu_cancel_if_safe(q);
    qemu_settle(q);
    client_wake(q->client);
}

/* News become events to every client, or keep the main thread: a VMM must not drown them.  What is
 * past the limit is not heard any more; read_monitor ends the connection for it. */
static void on_event(void *opaque, const char *name, const json_t *data)
{
    static const struct {
        const char *name;
        void (*handle)(struct qemu *q, const json_t *data);
    } events[] = {
        {"STOP", on_stop},
        {"RESUME", on_resume},
        {"SHUTDOWN", on_shutdown},
        {"MIGRATION", on_migration},
    };
    struct qemu *q = opaque;
    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
        if (strcmp(name, events[i].name) == 0 && ++q->told <= NEWS_MAX) {
            events[i].handle(q, data);
        }
    }
}

static bool check_news(const struct qemu *q, struct error **errp)
{
    if (q->told > NEWS_MAX) {
        error_set(errp, "guest-protocol", "The VMM of guest '%s' changes its state too often",
                  q->guest.name);
        return false;
    }
    return true;
}

/* ---- the main thread's part of guest_ops ---- */

/* The worker's end, and what it found. */
static struct error *end_worker(struct qemu *q)
{
    struct error *err = q->error;
    pthread_join(q->worker, NULL);
    q->has_worker = false;
    q->error = NULL;
    return err;
}

/* The connection is about to end, and with it go commands that QEMU has not taken yet. */
static void entrust_settings(struct qemu *q)
{
    if (guardian_is_on(&q->guardian) ||
        guardian_post(&q->guardian, client_socket(q->client), NULL)) {
        qemu_entrust(q, qemu_only_settings, NULL);
    }
}

static bool attached(struct qemu *q, struct error **errp)
{
    q->attached = true;
    if (!q->events.attached(q->events.opaque, &q->guest, errp)) {
        entrust_settings(q);
        return false;
    }
    if (q->events.welcomed) {
        q->events.welcomed(q->events.opaque, &q->guest);
    }
    return true;
}

static bool read_monitor(struct guest *g, struct error **errp)
{
    struct qemu *q = qemu_of(g);
    struct error *err = NULL;
    bool ok = client_read(q->client, &err) && check_news(q, &err);
    if (q->has_worker && atomic_load(&q->worker_done)) {
        struct error *refused = end_worker(q);
        if (refused) { /* it has closed the connection, and knows why */
            error_free(err);
            err = refused;
        }
        ok = !err && attached(q, &err);
    }
    if (!ok) {
        error_move(errp, err);
    }
    return ok;
}

static void lost(struct guest *g)
{
    struct qemu *q = qemu_of(g);
    client_lost(q->client);
    if (q->has_worker) {
        pthread_join(q->worker, NULL); /* it waits for the monitor alone, and that is over */
        q->has_worker = false;
        if (q->settings) { /* what it has not come to use is not undone yet */
            entrust_settings(q);
        }
    }
    if (!guardian_is_on(&q->guardian)) {
        client_hang_up(q->client); /* QEMU serves the next client only then */
    }
    if (!atomic_load(&q->busy)) {
        qemu_unlock_ram(q); /* else when the job has ended */
    }
}

static void expire(struct guest *g)
{
    struct qemu *q = qemu_of(g);
    q->told = 0;
    client_expire(q->client);
    qemu_settle(q);
}

/* A guest_done as a client_done. */
struct asked {
    struct qemu *qemu;
    int timeout_ms;
    bool again; /* stop: sent for the second time */
    guest_done *done;
    void *opaque;
};

static void answered(void *opaque, json_t *reply, struct error *err)
{
    struct asked asked = *(struct asked *)opaque;
    (void)reply;
    free(opaque);
    asked.done(asked.opaque, err);
}

static void stop_answered(void *opaque, json_t *reply, struct error *err);

static void stop_again(struct asked *asked)
{
    const struct client_command command = {.name = "stop"};
    asked->again = true;
    client_ask(asked->qemu->client, &command, asked->timeout_ms, stop_answered, asked);
}

/*
 * QEMU before 9.0 accepts `stop` for a guest that sleeps, and leaves it as it is: it would run
 * again at any moment, and may have done so by now.
 */
static void stop_checked(void *opaque, json_t *reply, struct error *err)
{
    struct asked *asked = opaque;
    struct qemu *q = asked->qemu;
    const char *status = json_string_value(json_object_get(reply, "status"));
    bool running = json_is_true(json_object_get(reply, "running"));
    if (!err && running && !asked->again) {
        stop_again(asked);
        return;
    }
    if (!err && (running || (status && strcmp(status, "suspended") == 0))) {
        atomic_store(&q->stop_wanted, false);
        error_set(&err, "guest-state",
                  "Guest '%s' sleeps (ACPI S3) or has just woken, and this QEMU does not stop it: "
                  "wake it (system_wakeup in QEMU), then stop it",
                  q->guest.name);
    }
    answered(opaque, NULL, err);
}

static void stop_answered(void *opaque, json_t *reply, struct error *err)
{
    const struct client_command command = {.name = "query-status"};
    const struct asked *asked = opaque;
    (void)reply;
    if (err) {
        answered(opaque, NULL, err);
    } else {
        client_ask(asked->qemu->client, &command, asked->timeout_ms, stop_checked, opaque);
    }
}

static void ask_monitor(struct guest *g, const struct client_command *command, int timeout_ms,
                        client_done *then, guest_done *done, void *opaque)
{
    struct asked *asked = malloc(sizeof(*asked));
    if (!asked) {
        abort();
    }
    *asked = (struct asked){
        .qemu = qemu_of(g), .timeout_ms = timeout_ms, .done = done, .opaque = opaque};
    client_ask(qemu_of(g)->client, command, timeout_ms, then, asked);
}

static void want_stop(struct qemu *q)
{
    atomic_store(&q->stop_wanted, true);
}

static void want_run(struct qemu *q)
{
    atomic_store(&q->stop_wanted, false);
    atomic_store(&q->stand_due, false);
}

/* Those of a QEMU that still migrates are the guardian's to put back. */
static void leave_settings_back(struct qemu *q)
{
    if (!guardian_is_on(&q->guardian) || is_guarded_here(q)) {
        qemu_settings_restore(q);
    }
}

/* What was put back has been answered before. */
static void settings_left(void *opaque, json_t *reply)
{
    struct qemu *q = opaque;
    (void)reply;
    if (is_guarded_here(q)) {
        guardian_entrust(&q->guardian, NULL, NULL);
    }
}

static void ask(struct guest *g, enum guest_request request, int timeout_ms, guest_done *done,
                void *opaque)
{
    /* A guest that was given away stands in postmigrate; nothing else has to be undone there. */
    static const char *const commands[] = {
        [GUEST_ASK_PAUSE] = "stop",
        [GUEST_ASK_CONTINUE] = "cont",
        [GUEST_ASK_TAKE_BACK] = NULL,
        [GUEST_ASK_RESUME] = "cont",
        [GUEST_ASK_RELEASE] = NULL,
        [GUEST_ASK_LEAVE] = "query-status", /* answered behind what was put back */
    };
    static void (*const before[])(struct qemu * q) = {
        [GUEST_ASK_PAUSE] = want_stop,           [GUEST_ASK_CONTINUE] = want_run,
        [GUEST_ASK_RESUME] = want_run,           [GUEST_ASK_RELEASE] = qemu_resume_is_off,
        [GUEST_ASK_LEAVE] = leave_settings_back,
    };
    static void (*const seen[])(void *opaque, json_t *reply) = {
        [GUEST_ASK_LEAVE] = settings_left,
    };
    static client_done *const then[] = {
        [GUEST_ASK_PAUSE] = stop_answered,
        [GUEST_ASK_CONTINUE] = answered,
        [GUEST_ASK_RESUME] = answered,
        [GUEST_ASK_LEAVE] = answered,
    };
    struct qemu *q = qemu_of(g);
    struct client_command command = {.name = commands[request], .seen = seen[request], .opaque = q};
    if (before[request]) {
        before[request](q);
    }
    if (command.name) {
        ask_monitor(g, &command, timeout_ms, then[request], done, opaque);
    } else {
        done(opaque, NULL);
    }
}

static void announce(struct guest *g, const struct guest_announce *how, int timeout_ms,
                     guest_done *done, void *opaque)
{
    struct client_command command = {.name = qemu_announce_self,
                                     .arguments = announce_arguments(how)};
    ask_monitor(g, &command, timeout_ms, answered, done, opaque);
}

/* ---- life ---- */

static void qemu_free(struct guest *g)
{
    struct qemu *q = qemu_of(g);
    qemu_settings_drop(q);
    guardian_leave(&q->guardian);
    vmstate_close(&q->state);
    qemu_unlock_ram(q); /* closing takes its time */
    guest_close_files(g);
    client_free(q->client);
    error_free(q->error);
    json_decref(q->memory);
    qemu_forget_devices(q);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

struct guest *qemu_new(int sock, const char *name, const struct guest_events *events,
                       struct error **errp)
{
    struct qemu *q = calloc(1, sizeof(*q));
    char who[GUEST_NAME_SIZE + 16];
    socklen_t length = sizeof(q->peer);
    if (!q) {
        abort();
    }
    strcpy(q->guest.name, name);
    snprintf(who, sizeof(who), "guest '%s'", name);
    getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &q->peer, &length);
    q->client = client_new(sock, who, on_event, q);
    if (!q->client) {
        error_set(errp, "system-error", "No descriptors left for another guest");
        free(q);
        return NULL;
    }
    q->guest.ops = &qemu_ops;
    q->guest.refs = 1;
    q->events = *events;
    q->state = VMSTATE_NONE;
    q->announce = GUEST_ANNOUNCE_DEFAULT;
    for (unsigned i = 0; i < GUEST_STATES; i++) {
        q->marks[i] = (struct qemu_mark){.qemu = q, .state = i};
    }
    pthread_mutex_init(&q->lock, NULL);
    if (!qemu_attach_begin(q, errp)) {
        guest_unref(&q->guest);
        return NULL;
    }
    return &q->guest;
}

const struct guest_ops qemu_ops = {
    .driver = "qemu",
    .read = read_monitor,
    .lost = lost,
    .expire = expire,
    .ask = ask,
    .announce = announce,
    .log_start = qemu_log_start,
    .log_stop = qemu_log_stop,
    .log_sync = qemu_log_sync,
    .log_settle = qemu_log_settle,
    .log_clear = qemu_log_clear,
    .disk_sync = qemu_disk_sync,
    .throttle = qemu_throttle,
    .prepare = qemu_prepare,
    .begin_stop = qemu_begin_stop,
    .stop = qemu_stop,
    .resume = qemu_resume,
    .begin_save = qemu_begin_save,
    .save_state = qemu_save_state,
    .load_state = qemu_load_state,
    .start = qemu_start,
    .settle = qemu_settle_incoming,
    .give_away = qemu_give_away,
    .take_back = qemu_take_back,
    .release = qemu_release,
    .notify = qemu_notify,
    .free = qemu_free,
};
