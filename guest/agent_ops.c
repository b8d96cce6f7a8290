/* SPDX-License-Identifier: BSD-3-Clause */
/* What a job asks of a VMM that links libferry: one request each, and the dirty map. */
#include "guest/agent_internal.h"

#include "common/bits.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static bool simple_call(struct guest *g, uint32_t type, const void *body, const struct wait *w,
                        struct error **errp)
{
    struct agent_call call = {.type = type};
    return agent_call(agent_of(g), &call, body, -1, w, errp);
}

static bool log_start(struct guest *g, const struct wait *w, struct error **errp)
{
    struct agent *a = agent_of(g);
    struct agent_call call = {.type = WIRE_LOG_START};
    CLEANUP_CLOSE int fd = dirtymap_create(a->pages, agent_mapped(a));
    int err = fd < 0 ? fd : dirtymap_map(&a->map, fd, a->pages, agent_mapped(a));
    if (err) {
        error_set(errp, "no-memory", "No dirty map for guest '%s': %s", g->name, strerror(-err));
        return false;
    }
    return agent_call(a, &call, NULL, fd, w, errp);
}

/*
 * Sent without waiting for the answer: it runs on every way out of a job, and whoever starts
 * logging again is queued behind it.
 */
static void log_stop(struct guest *g, const struct wait *w)
{
    (void)w;
    struct agent *a = agent_of(g);
    dirtymap_unmap(&a->map);
    wire_send(a->sock, WIRE_LOG_STOP, 0, NULL, -1);
}

/* The marks are taken (and so cleared) word by word; the VMM may set more at any moment. */
void agent_take_marks(const struct agent *a, unsigned index, uint64_t *dirty)
{
    uint64_t pages = a->pages[index];
    _Atomic uint64_t *marks = dirtymap_marks(&a->map, a->pages, index);
    for (size_t w = 0; w < bits_words(pages); w++) {
        if (atomic_load_explicit(&marks[w], memory_order_relaxed)) {
            dirty[w] |= atomic_exchange(&marks[w], 0) & bits_mask_in_word(w, 0, pages);
        }
    }
}

static void take_log(const struct agent *a, unsigned index, uint64_t *dirty)
{
    uint64_t pages = a->pages[index];
    const uint64_t *log = dirtymap_log(&a->map, a->pages, index);
    for (size_t w = 0; w < bits_words(pages); w++) {
        dirty[w] |= log[w] & bits_mask_in_word(w, 0, pages);
    }
}

static bool log_sync(struct guest *g, uint64_t *const dirty[], const struct wait *w,
                     struct error **errp)
{
    struct agent *a = agent_of(g);
    if (!simple_call(g, WIRE_LOG_SYNC, NULL, w, errp)) {
        return false;
    }
    for (unsigned i = 0; i < g->nblocks; i++) {
        take_log(a, i, dirty[i]);
        agent_take_marks(a, i, dirty[i]);
    }
    return true;
}

static bool log_clear(struct guest *g, unsigned block, uint64_t first, uint64_t count,
                      const struct wait *w, struct error **errp)
{
    if (!(agent_of(g)->features & WIRE_FEATURE_MANUAL_PROTECT)) {
        return true;
    }
    struct wire_log_clear body = {.block = block, .first = first, .count = count};
    uint64_t start = clock_ns();
    bool ok = simple_call(g, WIRE_LOG_CLEAR, &body, w, errp);
    guest_note_request(g, clock_ns() - start);
    return ok;
}

/* What libferry's VMMs say is written has been written. */
static bool log_settle(struct guest *g, const struct wait *w, struct error **errp)
{
    (void)g;
    (void)w;
    (void)errp;
    return true;
}

/* Their stop needs nothing before it, and none of them announces a guest before its start. */
static bool prepare(struct guest *g, const struct guest_announce *announce, const struct wait *w,
                    struct error **errp)
{
    (void)g;
    (void)announce;
    (void)w;
    (void)errp;
    return true;
}

static bool throttle(struct guest *g, unsigned percent, const struct wait *w, struct error **errp)
{
    struct wire_throttle body = {.percent = percent};
    return simple_call(g, WIRE_THROTTLE, &body, w, errp);
}

static bool stop(struct guest *g, bool *was_paused, uint64_t *stopped_ns, const struct wait *w,
                 struct error **errp)
{
    (void)stopped_ns;
    struct wire_stop body = {.migration = 1};
    struct agent_call call = {.type = WIRE_STOP};
    bool ok = agent_call(agent_of(g), &call, &body, -1, w, errp);
    *was_paused = call.reply.was_paused;
    return ok;
}

static bool resume(struct guest *g, const struct wait *w, struct error **errp)
{
    struct wire_resume body = {.migration = 1};
    return simple_call(g, WIRE_RESUME, &body, w, errp);
}

static int save_state(struct guest *g, const struct wait *w, struct error **errp)
{
    struct agent_call call = {.type = WIRE_SAVE};
    struct stat st;
    CLEANUP_CLOSE int fd = memfd_create("ferry-state", MFD_CLOEXEC);
    if (fd < 0) {
        error_set(errp, "no-memory", "No file for the device state: %s", strerror(errno));
        return -1;
    }
    if (!agent_call(agent_of(g), &call, NULL, fd, w, errp)) {
        return -1;
    }
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size > WIRE_STATE_MAX) {
        error_set(errp, "state-too-large",
                  "Guest '%s' saved %jd bytes of device state; at most %llu are taken", g->name,
                  (intmax_t)st.st_size, WIRE_STATE_MAX);
        return -1;
    }
    return fd_steal(&fd);
}

static bool load_state(struct guest *g, int fd, const struct wait *w, struct error **errp)
{
    struct agent_call call = {.type = WIRE_LOAD};
    return agent_call(agent_of(g), &call, NULL, fd, w, errp);
}

static bool start(struct guest *g, bool paused, const struct guest_announce *announce,
                  const struct wait *w, struct error **errp)
{
    struct wire_start body = {.paused = paused, .announce = agent_wire_announce(announce)};
    struct agent_call call = {.type = WIRE_START};
    struct error *err = NULL;
    bool ok = agent_call(agent_of(g), &call, &body, -1, w, &err);
    if (!ok && call.sent && !call.done) {
        err->code = "guest-in-doubt";
    }
    if (err) {
        error_move(errp, err);
    }
    return ok;
}

static bool give_away(struct guest *g, const uint8_t job[GUEST_UUID_SIZE], const struct wait *w,
                      struct error **errp)
{
    struct wire_give_away body;
    memcpy(body.job, job, sizeof(body.job));
    return simple_call(g, WIRE_GIVE_AWAY, &body, w, errp);
}

static bool take_back(struct guest *g, const struct wait *w, struct error **errp)
{
    return simple_call(g, WIRE_TAKE_BACK, NULL, w, errp);
}

static bool release(struct guest *g, const struct wait *w, struct error **errp)
{
    return simple_call(g, WIRE_RELEASE, NULL, w, errp);
}

/* A VMM that is gone needs no news; of one that does not read somebody should know. */
static void notify(struct guest *g, enum guest_migration status, bool outgoing)
{
    struct wire_notify body = {.status = status, .outgoing = outgoing};
    if (wire_send(agent_of(g)->sock, WIRE_NOTIFY, 0, &body, -1) == -EAGAIN) {
        log_warning("guest %s: its VMM takes no news of the migration", g->name);
    }
}

const struct guest_ops agent_ops = {
    .driver = "agent",
    .comes_back = true,
    .read = agent_read,
    .lost = agent_lost,
    .expire = agent_expire,
    .ask = agent_ask,
    .announce = agent_announce,
    .log_start = log_start,
    .log_stop = log_stop,
    .log_sync = log_sync,
    .log_settle = log_settle,
    .log_clear = log_clear,
    .throttle = throttle,
    .disk_sync = agent_disk_sync,
    .prepare = prepare,
    .stop = stop,
    .resume = resume,
    .save_state = save_state,
    .load_state = load_state,
    .start = start,
    .give_away = give_away,
    .take_back = take_back,
    .release = release,
    .notify = notify,
    .free = agent_free,
};
