/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Blockers: reasons why the guest may not leave.  They are settled here, in the VMM, where a reason
 * and the begin of a migration meet under one lock; ferryd is told so that it can refuse at once
 * and show why.
 *
 * A blocker has one of a few places.  Only the difference between what is in a place and what
 * ferryd has of it is told: a VMM that adds and removes while the library's thread is busy piles up
 * nothing.
 */
#include "guest/libferry_internal.h"

#include <errno.h>
#include <string.h>

_Static_assert(FERRY_BLOCKERS_MAX == WIRE_BLOCKERS_MAX, "blockers have one limit");
_Static_assert(FERRY_REASON_MAX + 1 == WIRE_TEXT_SIZE, "a reason fits its message");

/* With the lock held; id 0 is a free place. */
static struct ferry_blocker *find(struct ferry *f, uint64_t id)
{
    for (unsigned i = 0; i < FERRY_BLOCKERS_MAX; i++) {
        if (f->blockers[i].id == id) {
            return &f->blockers[i];
        }
    }
    return NULL;
}

/* With the lock held. */
static bool is_leaving(const struct ferry *f)
{
    return f->leaving || f->state == FERRY_GUEST_STOPPED || f->state == FERRY_GUEST_GIVEN_AWAY;
}

int ferry_add_blocker(struct ferry *f, const char *reason, uint64_t *id)
{
    if (!reason || !reason[0] || strlen(reason) > FERRY_REASON_MAX) {
        return -EINVAL;
    }
    pthread_mutex_lock(&f->lock);
    struct ferry_blocker *b = find(f, 0);
    int err = is_leaving(f) ? -EBUSY : b ? 0 : -E2BIG;
    if (!err) {
        *id = b->id = ++f->last_blocker;
        strcpy(b->reason, reason);
    }
    pthread_mutex_unlock(&f->lock);
    ferry_wake(f);
    return err;
}

int ferry_remove_blocker(struct ferry *f, uint64_t id)
{
    pthread_mutex_lock(&f->lock);
    struct ferry_blocker *b = id ? find(f, id) : NULL;
    if (b) {
        b->id = 0;
    }
    pthread_mutex_unlock(&f->lock);
    ferry_wake(f);
    return b ? 0 : -ENOENT;
}

static int tell_one(struct ferry *f, struct ferry_blocker *b, bool anew)
{
    struct wire_blocker gone = {0}, come = {.added = 1};
    pthread_mutex_lock(&f->lock);
    b->told = anew ? 0 : b->told;
    if (b->told != b->id) {
        gone.id = b->told;
        come.id = b->told = b->id;
        strcpy(come.text, b->reason);
    }
    pthread_mutex_unlock(&f->lock);
    int err = gone.id ? ferry_send(f, WIRE_BLOCKER, 0, &gone, -1) : 0;
    return err || !come.id ? err : ferry_send(f, WIRE_BLOCKER, 0, &come, -1);
}

int ferry_tell_blockers(struct ferry *f, bool anew)
{
    int err = 0;
    for (unsigned i = 0; !err && i < FERRY_BLOCKERS_MAX; i++) {
        err = tell_one(f, &f->blockers[i], anew);
    }
    return err;
}

/* With the lock held: the one that was added first; NULL: none. */
static const struct ferry_blocker *first(const struct ferry *f)
{
    const struct ferry_blocker *oldest = NULL;
    for (unsigned i = 0; i < FERRY_BLOCKERS_MAX; i++) {
        const struct ferry_blocker *b = &f->blockers[i];
        if (b->id && (!oldest || b->id < oldest->id)) {
            oldest = b;
        }
    }
    return oldest;
}

int ferry_begin_leaving(struct ferry *f, char reason[FERRY_REASON_MAX + 1])
{
    pthread_mutex_lock(&f->lock);
    const struct ferry_blocker *b = first(f);
    if (b) {
        strcpy(reason, b->reason);
    }
    f->leaving = f->leaving || !b;
    pthread_mutex_unlock(&f->lock);
    return b ? -EBUSY : 0;
}

void ferry_end_leaving(struct ferry *f)
{
    pthread_mutex_lock(&f->lock);
    f->leaving = false;
    pthread_mutex_unlock(&f->lock);
}
