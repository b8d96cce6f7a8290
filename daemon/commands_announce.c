/* SPDX-License-Identifier: BSD-3-Clause */
/* announce-self: a running guest is announced to its networks once more. */
#include "daemon/commands.h"

#include <stddef.h>

/* The guest's parameters, and in their place what the command says. */
static bool take_arguments(const struct entry *e, json_t *args, struct guest_announce *how,
                           struct error **errp)
{
    const struct {
        const char *name;
        enum param param;
        uint32_t *value;
    } members[] = {
        {"initial", PARAM_ANNOUNCE_INITIAL, &how->initial},
        {"max", PARAM_ANNOUNCE_MAX, &how->max},
        {"rounds", PARAM_ANNOUNCE_ROUNDS, &how->rounds},
        {"step", PARAM_ANNOUNCE_STEP, &how->step},
    };
    *how = params_announce(e->params);
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        const json_t *given = json_object_get(args, members[i].name);
        json_int_t value = json_integer_value(given);
        if (given && !command_check_range(members[i].name, members[i].param, value, errp)) {
            return false;
        }
        *members[i].value = given ? (uint32_t)value : *members[i].value;
    }
    return true;
}

static bool check_guest(const struct entry *e, struct error **errp)
{
    if (!e->guest->can_announce) {
        error_set(errp, "announce-unsupported", "The VMM of guest '%s' can't announce it", e->name);
        return false;
    }
    if (guest_get_state(e->guest) != GUEST_RUNNING) {
        error_set(errp, "guest-state", "Guest '%s' does not run here", e->name);
        return false;
    }
    return true;
}

static void cmd_announce_self(struct qmp_request *req, json_t *args, void *opaque)
{
    struct ferryd *d = opaque;
    struct entry *e = command_entry(d, req, args);
    struct guest_announce how;
    struct error *err = NULL;
    if (!e) {
        return;
    }
    if (!take_arguments(e, args, &how, &err) || !check_guest(e, &err)) {
        qmp_fail(req, err);
        return;
    }
    e->guest->ops->announce(e->guest, &how, (int)param_get(e->params, PARAM_GUEST_TIMEOUT),
                            command_done, req);
}

const struct qmp_command commands_announce[] = {
    {"announce-self", cmd_announce_self},
    {0},
};
