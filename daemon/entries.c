/* SPDX-License-Identifier: BSD-3-Clause */
/* The entries by which commands know guests: found, made, kept while there is a job to tell about.
 */
#include "daemon/ferryd.h"

#include <stdlib.h>
#include <string.h>

/* Entries kept of guests that are gone. */
#define GONE_MAX 64u

struct entry *entry_find(struct ferryd *d, const char *name)
{
    struct entry *e;
    TAILQ_FOREACH(e, &d->entries, link)
    {
        if (strcmp(e->name, name) == 0) {
            break;
        }
    }
    return e;
}

static bool is_attached(const struct entry *e)
{
    return e->guest && !e->parked;
}

static struct entry *find_only(struct ferryd *d, struct error **errp)
{
    struct entry *e, *only = NULL;
    TAILQ_FOREACH(e, &d->entries, link)
    {
        if (is_attached(e) && only) {
            error_set(errp, "guest-ambiguous",
                      "Several guests are attached: name one with 'guest'");
            return NULL;
        }
        only = is_attached(e) ? e : only;
    }
    if (!only) {
        error_set(errp, "guest-none", "No guest is attached");
    }
    return only;
}

static void set_unknown(const char *name, struct error **errp)
{
    error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "guest-unknown", "Guest '%s' is not attached",
                    name);
}

struct entry *entry_pick(struct ferryd *d, const char *name, struct error **errp)
{
    if (!name) {
        return find_only(d, errp);
    }
    struct entry *e = entry_find(d, name);
    if (!e || !is_attached(e)) {
        set_unknown(name, errp);
        return NULL;
    }
    return e;
}

struct entry *entry_pick_record(struct ferryd *d, const char *name, struct error **errp)
{
    struct entry *e = NULL;
    if (name) {
        e = entry_find(d, name);
        if (!e) {
            set_unknown(name, errp);
        }
        return e;
    }
    struct error *err = NULL;
    e = find_only(d, &err);
    if (!e && strcmp(err->code, "guest-none") == 0 && !TAILQ_EMPTY(&d->entries)) {
        error_free(err);
        return TAILQ_LAST(&d->entries, entries);
    }
    if (!e) {
        error_move(errp, err);
    }
    return e;
}

bool entry_is_busy(const struct entry *e)
{
    return e->job && !job_status_is_terminal(job_get_status(e->job));
}

bool entry_is_orphan(const struct entry *e)
{
    return e->guest && !entry_is_busy(e) && guest_get_state(e->guest) == GUEST_GIVEN_AWAY &&
           !e->guest->released && !(e->job && job_get_status(e->job) == JOB_COMPLETED);
}

struct entry *entry_new(struct ferryd *d, const char *name)
{
    struct entry *e = calloc(1, sizeof(*e));
    if (!e) {
        abort();
    }
    strcpy(e->name, name);
    e->params = params_new();
    TAILQ_INSERT_TAIL(&d->entries, e, link);
    return e;
}

void entry_free(struct ferryd *d, struct entry *e)
{
    TAILQ_REMOVE(&d->entries, e, link);
    guest_unref(e->guest);
    job_unref(e->job);
    params_unref(e->params);
    free(e);
}

void entry_attach(struct ferryd *d, struct entry *e, struct guest *g)
{
    if (!e->guest && e->job) {
        d->gone--;
    }
    e->guest = guest_ref(g);
    e->parked = false;
    TAILQ_REMOVE(&d->entries, e, link);
    TAILQ_INSERT_TAIL(&d->entries, e, link);
}

/* Makes room among the guests that are gone: the one that left first is forgotten. */
static void forget_oldest(struct ferryd *d)
{
    struct entry *e;
    TAILQ_FOREACH(e, &d->entries, link)
    {
        if (!e->guest && !entry_is_busy(e)) {
            d->gone--;
            entry_free(d, e);
            return;
        }
    }
}

void entry_detach(struct ferryd *d, struct entry *e)
{
    guest_unref(e->guest);
    e->guest = NULL;
    TAILQ_REMOVE(&d->entries, e, link);
    TAILQ_INSERT_TAIL(&d->entries, e, link);
    if (!e->job) {
        entry_free(d, e);
    } else if (++d->gone > GONE_MAX) {
        forget_oldest(d);
    }
}
