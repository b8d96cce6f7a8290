/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/history.h"

#include "common/cleanup.h"

#include <string.h>

void history_init(struct history *h)
{
    pthread_mutex_init(&h->lock, NULL);
    h->count = 0;
}

void history_destroy(struct history *h)
{
    pthread_mutex_destroy(&h->lock);
}

static struct history_round joined(const struct history_round *a, const struct history_round *b)
{
    return (struct history_round){
        .first = a->first,
        .count = a->count + b->count,
        .start_ns = a->start_ns,
        .end_ns = b->end_ns,
        .transferred = a->transferred + b->transferred,
        .pages = a->pages + b->pages,
        .dirtied = a->dirtied + b->dirtied,
        .remaining = b->remaining,
        .throttle = b->throttle,
    };
}

static void thin_out(struct history *h)
{
    for (unsigned i = 0; i < h->count; i += 2) {
        h->rounds[i / 2] = joined(&h->rounds[i], &h->rounds[i + 1]);
    }
    h->count /= 2;
}

void history_add(struct history *h, const struct history_round *round)
{
    LOCK_SCOPE(&h->lock);
    if (h->count == HISTORY_MAX) {
        thin_out(h);
    }
    h->rounds[h->count++] = *round;
}

unsigned history_copy(struct history *h, struct history_round *rounds)
{
    LOCK_SCOPE(&h->lock);
    memcpy(rounds, h->rounds, h->count * sizeof(*rounds));
    return h->count;
}
