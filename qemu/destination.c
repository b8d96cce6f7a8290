/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A QEMU that waits for a guest: loading the state, and the start.
 *
 * Its RAM is complete when it is given the state: loading devices reads it.  A QEMU that has begun
 * to load can't go back to waiting; a guest that is given up after that is GUEST_SPENT.
 */
#include "qemu/internal.h"

#include "common/cleanup.h"
#include "common/clock.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* From this version on QEMU can be told to live on when it can't load. */
#define VERSION_EXIT_ON_ERROR CLIENT_VERSION(9, 1)

/* The return path has some dozen bytes. */
#define ANSWER_MAX 65536u

/* The state's file, mapped; nobody writes to it any more. */
struct source {
    const uint8_t *bytes;
    size_t length, sent;
};

static bool map_state(int fd, struct source *s, struct error **errp)
{
    struct stat st;
    *s = (struct source){0};
    if (fstat(fd, &st) < 0 || st.st_size <= 0) {
        error_set(errp, "stream-corrupt", "The source sent no device state");
        return false;
    }
    void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) {
        error_set(errp, "no-memory", "No memory for the device state: %s", strerror(errno));
        return false;
    }
    s->bytes = bytes;
    s->length = (size_t)st.st_size;
    return true;
}

/* Sends what fits.  A QEMU that does not take all of it says why on the return path. */
static void push(struct vmstate *state, struct source *s)
{
    while (s->sent < s->length) {
        ssize_t n = send(state->fd, s->bytes + s->sent, s->length - s->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            s->sent = errno == EAGAIN ? s->sent : s->length;
            return;
        }
        s->sent += n > 0 ? (size_t)n : 0;
    }
}

/* Sends the state and waits for QEMU's word on it. */
static bool feed(struct qemu *q, struct source *s, const struct wait *w, struct error **errp)
{
    uint64_t deadline = clock_ns() + (uint64_t)w->timeout_ms * NS_PER_MS;
    for (;;) {
        push(&q->state, s);
        if (!vmstate_collect(&q->state, errp)) {
            return false;
        }
        enum vmstate_word word = vmstate_word(q->state.bytes, q->state.length);
        if (word != VMSTATE_SILENT) {
            return word == VMSTATE_LOADED;
        }
        if (q->state.ended) {
            return false;
        }
        short events = (short)(POLLIN | (s->sent < s->length ? POLLOUT : 0));
        struct pollfd fd = {.fd = q->state.fd, .events = events};
        int n = wait_any_until(&fd, 1, deadline, w, errp);
        if (n == 0) {
            error_set(errp, "guest-timeout",
                      "The VMM of guest '%s' did not load the device state within %d ms",
                      q->guest.name, w->timeout_ms);
        }
        if (n <= 0) {
            return false;
        }
    }
}

static json_t *incoming_arguments(const struct qemu *q)
{
    json_t *arguments = json_pack("{s:s}", "uri", QEMU_STREAM_URI);
    if (q->version >= VERSION_EXIT_ON_ERROR) {
        json_object_set_new(arguments, "exit-on-error", json_false());
    }
    return arguments;
}

static bool begin_loading(struct qemu *q, const struct wait *w, struct error **errp)
{
    atomic_store(&q->migration, QEMU_MIGRATION_NONE);
    /* Whoever has said `cont` since it was attached would have it run too early. */
    qemu_tell(q, "stop");
    if (!qemu_open_stream(q, ANSWER_MAX, w, errp)) {
        return false;
    }
    q->loaded = true;
    return qemu_do(q, "migrate-incoming", incoming_arguments(q), w, errp);
}

static void set_must_stand(struct qemu *q, bool must_stand)
{
    LOCK_SCOPE(&q->lock);
    q->must_stand = must_stand;
}

/* Loaded, it must stand still: it has not been given to us yet.  QEMU tells of a guest that it
 * starts before it tells that the migration is completed. */
static bool check_standing(struct qemu *q, const struct wait *w, struct error **errp)
{
    set_must_stand(q, true);
    if (guest_get_state(&q->guest) == GUEST_INCOMING) {
        return true;
    }
    qemu_do(q, "stop", NULL, w, NULL);
    error_set(errp, "guest-state",
              "Guest '%s' runs before it was told to: something else has told QEMU 'cont'",
              q->guest.name);
    return false;
}

/* A QEMU that can't load may end at any moment: before it has answered that it begins to, and the
 * job may have been told that it has gone before it is seen here. */
static bool load(struct qemu *q, struct source *s, const struct wait *w, struct error **errp)
{
    struct error *err = NULL;
    bool ok = begin_loading(q, w, &err) && feed(q, s, w, &err) && qemu_await_end(q, w, &err) &&
              atomic_load(&q->migration) == QEMU_MIGRATION_COMPLETED;
    if (err && !client_is_lost(q->client)) {
        error_move(errp, err);
    } else if (!ok) {
        error_free(err);
        qemu_set_failed(q, "did not load the device state", errp);
    }
    return ok;
}

bool qemu_load_state(struct guest *g, int fd, const struct wait *w, struct error **errp)
{
    struct qemu *q = qemu_of(g);
    struct source s;
    if (q->loaded) {
        error_set(errp, "guest-state",
                  "Guest '%s' has loaded a state before: end QEMU and start it anew", g->name);
        return false;
    }
    if (!map_state(fd, &s, errp)) {
        return false;
    }
    bool ok = load(q, &s, w, errp) && check_standing(q, w, errp);
    munmap((void *)s.bytes, s.length);
    qemu_close_stream(q);
    return ok;
}

/* An answer that did not come leaves open whether the guest runs. */
static bool run(struct qemu *q, const struct wait *w, struct error **errp)
{
    struct error *err = NULL;
    bool ok = qemu_do_state(q, "cont", GUEST_RUNNING, w, &err);
    if (err) {
        err->code = strcmp(err->code, "guest-refused") == 0 ? err->code : "guest-in-doubt";
        error_move(errp, err);
    }
    return ok;
}

bool qemu_start(struct guest *g, bool paused, const struct guest_announce *announce,
                const struct wait *w, struct error **errp)
{
    struct qemu *q = qemu_of(g);
    qemu_set_announce(q, announce);
    atomic_store(&q->announce_due, true);
    atomic_store(&q->images_inactive, paused);
    set_must_stand(q, false);
    bool ok = paused ? qemu_do_state(q, "query-status", GUEST_PAUSED, w, errp) : run(q, w, errp);
    q->loaded = !ok;
    return ok;
}

void qemu_give_up(struct qemu *q)
{
    qemu_tell(q, "stop");
    set_must_stand(q, false);
}

void qemu_notify(struct guest *g, enum guest_migration status, bool outgoing)
{
    struct qemu *q = qemu_of(g);
    bool given_up = status == GUEST_MIGRATION_FAILED || status == GUEST_MIGRATION_CANCELLED;
    bool completed = status == GUEST_MIGRATION_COMPLETED;
    atomic_store(&q->busy, !given_up && !completed);
    if ((given_up || completed) && client_is_lost(q->client)) {
        qemu_unlock_ram(q);
    }
    if (!outgoing && given_up && q->loaded) {
        /* All that is left for it is to be ended: it keeps our settings. */
        qemu_tell_state(q, GUEST_SPENT);
    }
}
