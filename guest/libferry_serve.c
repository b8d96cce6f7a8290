/* SPDX-License-Identifier: BSD-3-Clause */
/* What ferryd may ask of a VMM, one function each, and what happens when ferryd goes away. */
#include "guest/libferry_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int reply_error(struct wire_reply *reply, int err, const char *words)
{
    if (!reply->text[0]) {
        snprintf(reply->text, sizeof(reply->text), "%s", words);
    }
    return err;
}

/* A callback's error, with its own words where it gave some. */
static int callback_result(struct ferry *f, struct wire_reply *reply, const char *name, int err)
{
    if (err < 0) {
        snprintf(reply->text, sizeof(reply->text), "%.40s: %.200s", name,
                 f->error[0] ? f->error : strerror(-err));
    }
    f->error[0] = '\0';
    return err < 0 ? err : 0;
}

static int require_state(struct ferry *f, enum ferry_guest_state state, struct wire_reply *reply,
                         const char *words)
{
    return ferry_guest_state(f) == state ? 0 : reply_error(reply, -EINVAL, words);
}

/* ---- dirty log ---- */

/* All slots, also when one fails; the first error. */
static int set_logging(struct ferry *f, bool on)
{
    int first = 0;
    for (unsigned i = 0; i < f->nblocks; i++) {
        int err = f->blocks[i].has_slot ? kvmlog_set(f->vm_fd, &f->blocks[i].slot, on) : 0;
        first = first ? first : err;
    }
    f->logging = on;
    return first;
}

static void drop_map(struct ferry *f)
{
    pthread_rwlock_wrlock(&f->map_lock);
    dirtymap_unmap(&f->map);
    pthread_rwlock_unlock(&f->map_lock);
}

static void drop_log(struct ferry *f)
{
    if (f->logging) {
        set_logging(f, false);
    }
    drop_map(f);
}

static void log_off(struct ferry *f)
{
    drop_log(f);
    ferry_end_leaving(f);
}

static int do_log_start(struct ferry *f, const union wire_body *body, int fd,
                        struct wire_reply *reply)
{
    char reason[FERRY_REASON_MAX + 1];
    (void)body;
    if (ferry_begin_leaving(f, reason)) {
        snprintf(reply->text, sizeof(reply->text), "migration is blocked: %.220s", reason);
        return -EBUSY;
    }
    drop_log(f);
    pthread_rwlock_wrlock(&f->map_lock);
    int err = fd < 0 ? -EBADF : dirtymap_map(&f->map, fd, f->pages, f->nblocks + f->ndisks);
    pthread_rwlock_unlock(&f->map_lock);
    if (err) {
        ferry_end_leaving(f);
        return reply_error(reply, err, "the dirty map can't be mapped");
    }
    err = set_logging(f, true);
    if (err) {
        log_off(f);
        return reply_error(reply, err, "KVM refused to log dirty pages of a memory slot");
    }
    return 0;
}

static int do_log_sync(struct ferry *f, const union wire_body *body, int fd,
                       struct wire_reply *reply)
{
    (void)body;
    (void)fd;
    if (!f->map.base) {
        return reply_error(reply, -EINVAL, "no dirty log was started");
    }
    for (unsigned i = 0; i < f->nblocks; i++) {
        uint64_t *log = dirtymap_log(&f->map, f->pages, i);
        int err = f->blocks[i].has_slot ? kvmlog_get(f->vm_fd, &f->blocks[i].slot, log) : 0;
        if (err) {
            return reply_error(reply, err, "KVM_GET_DIRTY_LOG failed");
        }
    }
    return 0;
}

static int do_log_clear(struct ferry *f, const union wire_body *body, int fd,
                        struct wire_reply *reply)
{
    const struct wire_log_clear *c = &body->log_clear;
    (void)fd;
    if (!f->map.base || c->block >= f->nblocks || c->first > f->pages[c->block] ||
        c->count > f->pages[c->block] - c->first || c->count > UINT32_MAX) {
        return reply_error(reply, -EINVAL, "a range outside the guest's RAM");
    }
    const struct ferry_block *b = &f->blocks[c->block];
    if (!b->has_slot || !f->manual_protect) {
        return 0;
    }
    uint64_t *log = dirtymap_log(&f->map, f->pages, c->block);
    int err = kvmlog_clear(f->vm_fd, &b->slot, log, c->first, c->count);
    return err ? reply_error(reply, err, "KVM_CLEAR_DIRTY_LOG failed") : 0;
}

static int do_log_stop(struct ferry *f, const union wire_body *body, int fd,
                       struct wire_reply *reply)
{
    (void)body;
    (void)fd;
    (void)reply;
    log_off(f);
    return 0;
}

/* ---- running and stopping ---- */

static void set_busy(struct ferry *f, bool busy)
{
    pthread_mutex_lock(&f->lock);
    f->busy = busy;
    pthread_mutex_unlock(&f->lock);
}

/* A guest that stands still needs no throttle, nor would its next run. */
static void end_throttle(struct ferry *f)
{
    if (f->throttled) {
        f->throttled = false;
        f->ops.throttle(f->opaque, 0);
    }
}

static int wake_up(struct ferry *f, struct wire_reply *reply)
{
    return f->ops.wakeup ? callback_result(f, reply, "wakeup", f->ops.wakeup(f->opaque)) : 0;
}

static int do_stop(struct ferry *f, const union wire_body *body, int fd, struct wire_reply *reply)
{
    (void)fd;
    enum ferry_guest_state state = ferry_guest_state(f);
    enum ferry_guest_state to = body->stop.migration ? FERRY_GUEST_STOPPED : FERRY_GUEST_PAUSED;
    if (state != FERRY_GUEST_RUNNING && state != FERRY_GUEST_PAUSED) {
        return reply_error(reply, -EINVAL, "the guest neither runs nor is paused");
    }
    if (state == FERRY_GUEST_PAUSED && !body->stop.migration) {
        return 0;
    }
    set_busy(f, true);
    bool wakes = body->stop.migration && state == FERRY_GUEST_RUNNING;
    int err = wakes ? wake_up(f, reply) : 0;
    err = err ? err : callback_result(f, reply, "stop", f->ops.stop(f->opaque));
    pthread_mutex_lock(&f->lock);
    f->busy = false;
    if (!err) {
        /* The VMM may have paused it meanwhile. */
        f->was_paused = f->state == FERRY_GUEST_PAUSED;
        f->state = to;
    }
    reply->was_paused = f->was_paused;
    pthread_mutex_unlock(&f->lock);
    if (!err && body->stop.migration) {
        end_throttle(f);
    }
    return err;
}

static int do_resume(struct ferry *f, const union wire_body *body, int fd, struct wire_reply *reply)
{
    (void)fd;
    pthread_mutex_lock(&f->lock);
    enum ferry_guest_state state = f->state;
    bool stay_paused = state == FERRY_GUEST_STOPPED && f->was_paused;
    pthread_mutex_unlock(&f->lock);
    if (state == FERRY_GUEST_RUNNING || (state == FERRY_GUEST_PAUSED && body->resume.migration)) {
        return 0;
    }
    if (state != (body->resume.migration ? FERRY_GUEST_STOPPED : FERRY_GUEST_PAUSED)) {
        return reply_error(reply, -EINVAL, "the guest is in the hands of a migration");
    }
    if (stay_paused) {
        ferry_set_state(f, FERRY_GUEST_PAUSED);
        return 0;
    }
    /* Running first: a pause that the VMM tells of meanwhile comes after it. */
    ferry_set_state(f, FERRY_GUEST_RUNNING);
    int err = callback_result(f, reply, "resume", f->ops.resume(f->opaque));
    if (err) {
        ferry_set_state(f, state);
    }
    return err;
}

static int do_throttle(struct ferry *f, const union wire_body *body, int fd,
                       struct wire_reply *reply)
{
    (void)fd;
    if (!f->ops.throttle || body->throttle.percent > 99) {
        return reply_error(reply, -EINVAL, "this VMM can't throttle its guest like that");
    }
    f->throttled = body->throttle.percent > 0;
    return callback_result(f, reply, "throttle",
                           f->ops.throttle(f->opaque, body->throttle.percent));
}

/* ---- state ---- */

static int do_save(struct ferry *f, const union wire_body *body, int fd, struct wire_reply *reply)
{
    (void)body;
    int err = require_state(f, FERRY_GUEST_STOPPED, reply, "the guest was not stopped");
    if (err || fd < 0) {
        return err ? err : -EBADF;
    }
    return callback_result(f, reply, "save_state", f->ops.save_state(f->opaque, fd));
}

static int do_load(struct ferry *f, const union wire_body *body, int fd, struct wire_reply *reply)
{
    (void)body;
    int err = require_state(f, FERRY_GUEST_INCOMING, reply, "the guest does not wait for a state");
    if (err || fd < 0) {
        return err ? err : -EBADF;
    }
    lseek(fd, 0, SEEK_SET);
    err = callback_result(f, reply, "load_state", f->ops.load_state(f->opaque, fd));
    f->loaded = !err;
    return err;
}

static int do_start(struct ferry *f, const union wire_body *body, int fd, struct wire_reply *reply)
{
    (void)fd;
    int err = require_state(f, FERRY_GUEST_INCOMING, reply, "the guest does not wait to start");
    if (err || !f->loaded) {
        return err ? err : reply_error(reply, -EINVAL, "no state was loaded");
    }
    if (!body->start.paused) {
        err = callback_result(f, reply, "resume", f->ops.resume(f->opaque));
        if (err) {
            return err;
        }
    }
    ferry_set_state(f, body->start.paused ? FERRY_GUEST_PAUSED : FERRY_GUEST_RUNNING);
    ferry_announce(f, &body->start.announce, body->start.paused);
    return 0;
}

static int do_announce(struct ferry *f, const union wire_body *body, int fd,
                       struct wire_reply *reply)
{
    (void)fd;
    int err = require_state(f, FERRY_GUEST_RUNNING, reply, "the guest does not run here");
    if (!err && !f->ops.announce) {
        err = reply_error(reply, -EINVAL, "this VMM can't announce its guest");
    }
    if (!err) {
        ferry_announce(f, &body->announce, false);
    }
    return err;
}

/* ---- handover ---- */

static int do_give_away(struct ferry *f, const union wire_body *body, int fd,
                        struct wire_reply *reply)
{
    (void)fd;
    int err = require_state(f, FERRY_GUEST_STOPPED, reply, "the guest was not stopped");
    if (!err) {
        memcpy(f->job, body->give_away.job, sizeof(f->job));
        ferry_set_state(f, FERRY_GUEST_GIVEN_AWAY);
    }
    return err;
}

static int do_take_back(struct ferry *f, const union wire_body *body, int fd,
                        struct wire_reply *reply)
{
    (void)body;
    (void)fd;
    int err = require_state(f, FERRY_GUEST_GIVEN_AWAY, reply, "the guest was not given away");
    if (!err && f->released) {
        err = reply_error(reply, -EINVAL, "the guest runs at its destination");
    }
    if (!err) {
        ferry_set_state(f, FERRY_GUEST_STOPPED);
    }
    return err;
}

static int do_release(struct ferry *f, const union wire_body *body, int fd,
                      struct wire_reply *reply)
{
    (void)body;
    (void)fd;
    int err = require_state(f, FERRY_GUEST_GIVEN_AWAY, reply, "the guest was not given away");
    if (!err && !f->released) {
        f->released = true;
        if (f->ops.released) {
            f->ops.released(f->opaque);
        }
    }
    return err;
}

typedef int perform_fn(struct ferry *f, const union wire_body *body, int fd,
                       struct wire_reply *reply);

static perform_fn *const performers[] = {
    [WIRE_LOG_START] = do_log_start, [WIRE_LOG_SYNC] = do_log_sync,
    [WIRE_LOG_CLEAR] = do_log_clear, [WIRE_LOG_STOP] = do_log_stop,
    [WIRE_STOP] = do_stop,           [WIRE_RESUME] = do_resume,
    [WIRE_SAVE] = do_save,           [WIRE_LOAD] = do_load,
    [WIRE_THROTTLE] = do_throttle,   [WIRE_GIVE_AWAY] = do_give_away,
    [WIRE_TAKE_BACK] = do_take_back, [WIRE_RELEASE] = do_release,
    [WIRE_START] = do_start,         [WIRE_ANNOUNCE] = do_announce,
};

void ferry_perform(struct ferry *f, const struct wire_message *msg, int fd,
                   struct wire_reply *reply)
{
    uint32_t type = msg->head.type;
    *reply = (struct wire_reply){0};
    if (type < sizeof(performers) / sizeof(performers[0]) && performers[type]) {
        reply->status = performers[type](f, &msg->body, fd, reply);
    } else {
        reply->status = reply_error(reply, -ENOSYS, "this libferry does not know the request");
    }
    reply->state = ferry_guest_state(f);
}

void ferry_notified(struct ferry *f, const struct wire_notify *news)
{
    bool known = news->status >= FERRY_MIGRATION_SETUP && news->status <= FERRY_MIGRATION_CANCELLED;
    if (known && f->ops.migration) {
        f->ops.migration(f->opaque, (enum ferry_migration_status)news->status, news->outgoing);
    }
}

void ferry_forget_giving_away(struct ferry *f)
{
    if (ferry_guest_state(f) == FERRY_GUEST_GIVEN_AWAY && !f->released) {
        ferry_set_state(f, FERRY_GUEST_STOPPED);
    }
}

void ferry_abandon(struct ferry *f)
{
    log_off(f);
    end_throttle(f);
    f->loaded = false;
    if (ferry_guest_state(f) == FERRY_GUEST_STOPPED) {
        struct wire_reply ignored = {0};
        union wire_body body = {.resume = {.migration = 1}};
        do_resume(f, &body, -1, &ignored);
    }
}
