/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/job.h"

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "daemon/messages.h"
#include "daemon/probes.h"

#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>

static const char *const status_names[] = {
    [JOB_NONE] = "none",           [JOB_SETUP] = "setup",
    [JOB_ACTIVE] = "active",       [JOB_PRE_SWITCHOVER] = "pre-switchover",
    [JOB_DEVICE] = "device",       [JOB_COMPLETED] = "completed",
    [JOB_FAILED] = "failed",       [JOB_CANCELLING] = "cancelling",
    [JOB_CANCELLED] = "cancelled",
};
_Static_assert(sizeof(status_names) / sizeof(status_names[0]) == JOB_STATUS_COUNT,
               "each status has a name");

static const char *const direction_names[] = {
    [JOB_OUTGOING] = "outgoing",
    [JOB_INCOMING] = "incoming",
};

/* Longer texts are cut. */
#define JOB_LOG_MAX 960

#define TO(status)  (1u << (status))

/* From each status, those that may follow it. */
static const unsigned transitions[JOB_STATUS_COUNT] = {
    [JOB_NONE] = TO(JOB_SETUP),
    [JOB_SETUP] = TO(JOB_ACTIVE) | TO(JOB_CANCELLING) | TO(JOB_FAILED),
    [JOB_ACTIVE] = TO(JOB_PRE_SWITCHOVER) | TO(JOB_DEVICE) | TO(JOB_CANCELLING) | TO(JOB_FAILED),
    [JOB_PRE_SWITCHOVER] = TO(JOB_DEVICE) | TO(JOB_CANCELLING) | TO(JOB_FAILED),
    [JOB_DEVICE] = TO(JOB_COMPLETED) | TO(JOB_CANCELLING) | TO(JOB_FAILED),
    [JOB_CANCELLING] = TO(JOB_CANCELLED),
};

bool job_status_is_terminal(enum job_status status)
{
    return status != JOB_NONE && !transitions[status];
}

const char *job_status_name(enum job_status status)
{
    return status_names[status];
}

const char *job_direction_name(enum job_direction direction)
{
    return direction_names[direction];
}

/* ---- life ---- */

static bool open_mailbox(struct job *job, struct error **errp)
{
    int *const fds[] = {&job->cancel_fd, &job->continue_fd, &job->resolve_fd, &job->quit_fd};
    bool ok = true;
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        *fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        ok = ok && *fds[i] >= 0;
    }
    if (!ok) {
        error_set(errp, "system-error", "No descriptors left for a migration of guest '%s'",
                  job->guest_name);
    }
    return ok;
}

struct job *job_new(enum job_direction direction, struct guest *guest, struct params *params,
                    const bool capabilities[CAPABILITY_COUNT], struct endpoint *endpoint,
                    const struct job_hooks *hooks, struct error **errp)
{
    struct job *job = calloc(1, sizeof(*job));
    if (!job || getrandom(job->uuid, sizeof(job->uuid), 0) != sizeof(job->uuid)) {
        abort();
    }
    job->refs = 1;
    job->direction = direction;
    job->guest = guest_ref(guest);
    strcpy(job->guest_name, guest->name);
    job->params = params_ref(params);
    memcpy(job->capabilities, capabilities, sizeof(job->capabilities));
    job->endpoint = endpoint;
    job->hooks = *hooks;
    pthread_mutex_init(&job->lock, NULL);
    history_init(&job->history);
    atomic_store(&job->counters.total, guest->ram);
    if (!open_mailbox(job, errp)) {
        job_unref(job);
        return NULL;
    }
    return job;
}

struct job *job_ref(struct job *job)
{
    atomic_fetch_add(&job->refs, 1);
    return job;
}

void job_unref(struct job *job)
{
    if (!job || atomic_fetch_sub(&job->refs, 1) > 1) {
        return;
    }
    guest_unref(job->guest);
    params_unref(job->params);
    endpoint_free(job->endpoint);
    error_free(job->error);
    error_free(job->abort_error);
    free(job->address);
    fd_close(&job->cancel_fd);
    fd_close(&job->continue_fd);
    fd_close(&job->resolve_fd);
    fd_close(&job->quit_fd);
    history_destroy(&job->history);
    pthread_mutex_destroy(&job->lock);
    free(job);
}

struct start {
    struct job *job;
    void (*run)(struct job *job);
};

static void *run_thread(void *arg)
{
    struct start start = *(struct start *)arg;
    free(arg);
    start.run(start.job);
    guest_unref(start.job->guest);
    start.job->guest = NULL;
    start.job->hooks.finished(start.job->hooks.opaque, start.job);
    job_unref(start.job);
    return NULL;
}

bool job_start(struct job *job, void (*run)(struct job *job), struct error **errp)
{
    struct start *start = malloc(sizeof(*start));
    if (!start) {
        abort();
    }
    *start = (struct start){.job = job_ref(job), .run = run};
    atomic_store(&job->times.start, clock_ns());
    job_set_status(job, JOB_SETUP);
    if (pthread_create(&job->thread, NULL, run_thread, start) != 0) {
        error_set(errp, "system-error", "No thread for the migration of guest '%s'",
                  job->guest_name);
        job_unref(job);
        free(start);
        return false;
    }
    return true;
}

/* ---- the mailbox ---- */

static void ring(int fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(fd, &one, sizeof(one));
    (void)ignored;
}

void job_cancel(struct job *job)
{
    ring(job->cancel_fd);
}

void job_abort(struct job *job, struct error *err)
{
    pthread_mutex_lock(&job->lock);
    error_move(&job->abort_error, err);
    pthread_mutex_unlock(&job->lock);
    ring(job->cancel_fd);
}

void job_continue(struct job *job)
{
    ring(job->continue_fd);
}

void job_resolve(struct job *job, enum job_resolution resolution)
{
    int none = RESOLVE_NONE;
    atomic_compare_exchange_strong(&job->resolution, &none, (int)resolution);
    ring(job->resolve_fd);
    if (job->direction == JOB_INCOMING) {
        ring(job->cancel_fd); /* what it waits for while undecided can be cancelled, too */
    }
}

void job_quit(struct job *job)
{
    ring(job->quit_fd);
}

/* ---- what others read ---- */

struct error *job_get_error(struct job *job)
{
    LOCK_SCOPE(&job->lock);
    return job->error ? error_copy(job->error) : NULL;
}

void job_get_uuid(struct job *job, uint8_t uuid[GUEST_UUID_SIZE])
{
    LOCK_SCOPE(&job->lock);
    memcpy(uuid, job->uuid, GUEST_UUID_SIZE);
}

void job_uuid_text(const uint8_t uuid[GUEST_UUID_SIZE], char text[JOB_UUID_TEXT])
{
    char *at = text;
    for (int i = 0; i < GUEST_UUID_SIZE; i++) {
        at += sprintf(at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
    }
}

void job_format_uuid(struct job *job, char text[JOB_UUID_TEXT])
{
    uint8_t uuid[GUEST_UUID_SIZE];
    job_get_uuid(job, uuid);
    job_uuid_text(uuid, text);
}

char *job_get_address(struct job *job)
{
    LOCK_SCOPE(&job->lock);
    return job->address ? strdup(job->address) : NULL;
}

/* ---- the job's thread ---- */

static void notify_guest(struct job *job, enum job_status status)
{
    static const enum guest_migration told[JOB_STATUS_COUNT] = {
        [JOB_SETUP] = GUEST_MIGRATION_SETUP,
        [JOB_ACTIVE] = GUEST_MIGRATION_ACTIVE,
        [JOB_PRE_SWITCHOVER] = GUEST_MIGRATION_PRE_SWITCHOVER,
        [JOB_DEVICE] = GUEST_MIGRATION_DEVICE,
        [JOB_COMPLETED] = GUEST_MIGRATION_COMPLETED,
        [JOB_FAILED] = GUEST_MIGRATION_FAILED,
        [JOB_CANCELLING] = GUEST_MIGRATION_CANCELLING,
        [JOB_CANCELLED] = GUEST_MIGRATION_CANCELLED,
    };
    job->guest->ops->notify(job->guest, told[status], job->direction == JOB_OUTGOING);
}

void job_log(struct job *job, enum log_level level, const char *message_id, const char *code,
             const char *format, ...)
{
    char uuid[JOB_UUID_TEXT], text[JOB_LOG_MAX];
    job_format_uuid(job, uuid);
    struct log_fields fields = {.guest = job->guest_name,
                                .job = uuid,
                                .state = status_names[job_get_status(job)],
                                .code = code,
                                .message_id = message_id};
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    log_with(level, &fields, "guest %s: %s", job->guest_name, text);
}

void job_set_status(struct job *job, enum job_status status)
{
    enum job_status from = job_get_status(job);
    if (!(transitions[from] & TO(status))) {
        log_error("guest %s: a migration can't go from %s to %s: this is a bug in ferryd",
                  job->guest_name, status_names[from], status_names[status]);
        return;
    }
    uint64_t elapsed = job_elapsed(job);
    if (from == JOB_SETUP && status == JOB_ACTIVE) {
        atomic_store(&job->times.setup, elapsed);
    }
    if (job_status_is_terminal(status)) {
        atomic_store(&job->times.end, elapsed);
    }
    atomic_store(&job->status, (int)status);
    job_log(job, LOG_LEVEL_INFO, MESSAGE_STATE, NULL, "%s migration %s",
            direction_names[job->direction], status_names[status]);
    probe_state(job->guest_name, direction_names[job->direction], status_names[status]);
    notify_guest(job, status);
    job->hooks.status(job->hooks.opaque, job, status);
}

static bool is_cancel(const struct error *err)
{
    return strcmp(err->code, "cancelled") == 0;
}

struct error *job_begin_end(struct job *job, struct error *err)
{
    pthread_mutex_lock(&job->lock);
    if (is_cancel(err) && job->abort_error) {
        error_free(err);
        err = job->abort_error;
        job->abort_error = NULL;
    }
    pthread_mutex_unlock(&job->lock);
    if (is_cancel(err)) {
        job_set_status(job, JOB_CANCELLING);
    }
    return err;
}

void job_end(struct job *job, struct error *err)
{
    if (!err) {
        job_set_status(job, JOB_COMPLETED);
        return;
    }
    pthread_mutex_lock(&job->lock);
    job->error = err;
    pthread_mutex_unlock(&job->lock);
    if (is_cancel(err)) {
        job_set_status(job, JOB_CANCELLED);
        return;
    }
    job_log(job, LOG_LEVEL_WARNING, MESSAGE_FAILED, err->code, "%s", err->text);
    job_set_status(job, JOB_FAILED);
}

void job_set_uuid(struct job *job, const uint8_t uuid[GUEST_UUID_SIZE])
{
    LOCK_SCOPE(&job->lock);
    memcpy(job->uuid, uuid, GUEST_UUID_SIZE);
}

void job_set_address(struct job *job, const char *address)
{
    LOCK_SCOPE(&job->lock);
    free(job->address);
    job->address = strdup(address);
}

void job_set_handover(struct job *job, enum job_handover handover)
{
    atomic_store(&job->handover, (int)handover);
}

bool job_map_ram(struct job *job, struct ram *ram, struct error **errp)
{
    const struct guest *g = job->guest;
    for (unsigned i = 0; i < g->nblocks; i++) {
        const struct guest_block *b = &g->blocks[i];
        if (!ram_add(ram, b->name, b->fd, b->offset, b->length, b->gpa, errp)) {
            return false;
        }
    }
    return true;
}

uint64_t job_pages_sent(struct job *job)
{
    struct ram_counters *c = &job->counters.ram;
    return atomic_load_explicit(&c->normal, memory_order_relaxed) +
           atomic_load_explicit(&c->delta, memory_order_relaxed) +
           atomic_load_explicit(&c->duplicate, memory_order_relaxed);
}

uint64_t job_pages_done(struct job *job)
{
    return job_pages_sent(job) +
           atomic_load_explicit(&job->counters.ram.skipped, memory_order_relaxed);
}

uint64_t job_elapsed(struct job *job)
{
    return clock_ns() - atomic_load(&job->times.start);
}

static const char *peer_name(const struct job *job)
{
    return job->direction == JOB_OUTGOING ? "the destination" : "the source";
}

struct wait job_guest_wait(struct job *job)
{
    return (struct wait){.cancel_fd = job->cancel_fd,
                         .timeout_ms = (int)param_get(job->params, PARAM_GUEST_TIMEOUT),
                         .what = "the VMM"};
}

struct wait job_peer_wait(struct job *job)
{
    return (struct wait){.cancel_fd = job->cancel_fd,
                         .timeout_ms = (int)param_get(job->params, PARAM_PEER_TIMEOUT),
                         .what = peer_name(job)};
}

struct wait job_patient_wait(struct job *job)
{
    struct wait w = job_peer_wait(job);
    w.timeout_ms += (int)param_get(job->params, PARAM_GUEST_TIMEOUT);
    return w;
}
