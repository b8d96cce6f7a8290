/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/switchover.h"

/* What is left adds this little to the downtime: no round is worth it any more. */
#define ENOUGH_MS 1.0

/* Rounds in a row that may leave no less than the best one... */
#define IN_VAIN_MAX 4u
/* ... and how many more wait for a moment that is about as good. */
#define WAITS_MAX 3u

void switchover_init(struct switchover *s)
{
    *s = (struct switchover){.least = UINT64_MAX};
}

/* A round that leaves an eighth less was worth its time. */
static bool is_less(const struct switchover *s, uint64_t left)
{
    return left <= s->least - s->least / 8;
}

static bool is_about_least(const struct switchover *s, uint64_t left)
{
    return left <= s->least + s->least / 8;
}

bool switchover_is_due(struct switchover *s, uint64_t left, double sending_ms)
{
    if (sending_ms < ENOUGH_MS) {
        return true;
    }
    if (is_less(s, left)) {
        *s = (struct switchover){.least = left};
        return false;
    }
    s->in_vain++;
    return s->in_vain >= IN_VAIN_MAX + WAITS_MAX ||
           (s->in_vain >= IN_VAIN_MAX && is_about_least(s, left));
}
