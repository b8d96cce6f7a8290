/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Why a guest may not leave, as its VMM tells it: a list for `migrate` to look at and query-migrate
 * to show.  What decides is the VMM itself, which refuses LOG_START.
 */
#include "guest/agent_internal.h"

#include <inttypes.h>
#include <string.h>

static unsigned find(const struct guest *g, uint64_t id)
{
    unsigned i = 0;
    while (i < g->nblockers && g->blockers[i].id != id) {
        i++;
    }
    return i;
}

static bool add(struct guest *g, const struct wire_blocker *told)
{
    if (!told->id || !told->text[0] || g->nblockers == GUEST_BLOCKERS_MAX ||
        find(g, told->id) < g->nblockers) {
        return false;
    }
    struct guest_blocker *b = &g->blockers[g->nblockers++];
    b->id = told->id;
    memcpy(b->reason, told->text, sizeof(b->reason));
    agent_make_printable(b->reason);
    return true;
}

/* The others keep their order. */
static bool drop(struct guest *g, uint64_t id)
{
    unsigned at = find(g, id);
    if (at == g->nblockers) {
        return false;
    }
    g->nblockers--;
    memmove(&g->blockers[at], &g->blockers[at + 1], (g->nblockers - at) * sizeof(g->blockers[0]));
    return true;
}

bool agent_take_blocker(struct agent *a, const struct wire_blocker *told, struct error **errp)
{
    struct guest *g = &a->guest;
    if (told->added ? add(g, told) : drop(g, told->id)) {
        return true;
    }
    error_set(errp, "guest-protocol",
              "The VMM of guest '%s' %s blocker %" PRIu64 " out of place (it has %u of at most %u)",
              g->name, told->added ? "adds" : "removes", told->id, g->nblockers,
              GUEST_BLOCKERS_MAX);
    return false;
}
