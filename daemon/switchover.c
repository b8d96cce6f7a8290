/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/switchover.h"

#include "common/clock.h"

/* What is left adds this little to the downtime: no round is worth it any more. */
#define ENOUGH_MS 1.0

/* Rounds in a row that may leave no less than the best one, before any has and after... */
#define IN_VAIN_FIRST 4u
#define IN_VAIN_LATER 2u
/* ... and how many more wait for a moment that is about as good. */
#define WAITS_MAX 2u
/* Rounds go on for that long in all: a guest that may stand still for long is stopped soon. */
#define ROUNDS_MS 2000.0

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

/* Whether another round is worth it, by what those before have left. */
static bool is_in_vain(struct switchover *s, uint64_t left)
{
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

/* Whether another round would end too late. */
static bool is_late(struct switchover *s, double sending_ms, uint64_t now_ns)
{
    s->begun_ns = s->begun_ns ? s->begun_ns : now_ns;
    return ns_to_ms(now_ns - s->begun_ns) + sending_ms > ROUNDS_MS;
}

bool switchover_is_due(struct switchover *s, uint64_t left, double sending_ms, uint64_t now_ns)
{
    return sending_ms < ENOUGH_MS || is_late(s, sending_ms, now_ns) || is_in_vain(s, left);
}
