/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/switchover.h"

/* What is left adds this little to the downtime: no round is worth it any more. */
#define ENOUGH_MS 1.0

/* Rounds in a row that may leave no less than the best one, before any has and after... */
#define IN_VAIN_FIRST 4u
#define IN_VAIN_LATER 2u
/* ... and how many more wait for a moment that is about as good. */
#define WAITS_MAX 2u

void switchover_init(struct switchover *s)
{
    *s = (struct switchover){.least = UINT64_MAX, .patience = IN_VAIN_FIRST};
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
        s->patience = s->least == UINT64_MAX ? IN_VAIN_FIRST : IN_VAIN_LATER;
        s->least = left;
        s->in_vain = 0;
        return false;
    }
    s->in_vain++;
    return s->in_vain >= s->patience + WAITS_MAX ||
           (s->in_vain >= s->patience && is_about_least(s, left));
}
