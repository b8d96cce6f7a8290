/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The VMM's own migration settings.  A migration of device state alone needs some of them, and
 * others would spoil it: they are set just before it, and put back when it has ended and the guest
 * runs, so that whoever migrates the VMM by other means finds what was set.
 */
#include "qemu/internal.h"

#include "common/cleanup.h"

#include <string.h>

/* No limit, and a threshold that is met: what little there is to send is to be sent at once. */
#define BANDWIDTH      (1LL << 40) /* bytes/s */
#define DOWNTIME_LIMIT 2000000     /* ms, the most that QEMU takes */

/* What is changed, as it was. */
struct settings {
    json_t *capabilities, *parameters;
};

/* Capabilities that are turned on; all others are off. */
static const struct {
    const char *name;
    bool outgoing, incoming;
} wanted[] = {
    {"x-ignore-shared", true, true},
    {"events", true, true},
    {"return-path", true, false},
    {"pause-before-switchover", true, false},
    /* Disk images are not to be touched before the guest is told to run. */
    {"late-block-activate", false, true},
};

static bool is_wanted(const char *name, bool outgoing)
{
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        if (strcmp(wanted[i].name, name) == 0) {
            return outgoing ? wanted[i].outgoing : wanted[i].incoming;
        }
    }
    return false;
}

/* Those that are to be changed, as they are: QEMU takes its time for each that it is told. */
static json_t *pick_capabilities(const json_t *all, bool outgoing)
{
    json_t *picked = json_array();
    size_t i;
    json_t *one;
    json_array_foreach(all, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "capability"));
        bool is = json_is_true(json_object_get(one, "state"));
        if (name && is != is_wanted(name, outgoing)) {
            json_array_append(picked, one);
        }
    }
    return picked;
}

static json_t *inverted(const json_t *capabilities)
{
    json_t *list = json_array();
    size_t i;
    json_t *one;
    json_array_foreach(capabilities, i, one)
    {
        json_array_append_new(list, json_pack("{s:O, s:b}", "capability",
                                              json_object_get(one, "capability"), "state",
                                              !json_is_true(json_object_get(one, "state"))));
    }
    return list;
}

/* Those of the parameters that are changed. */
static json_t *pick_parameters(const json_t *all)
{
    static const char *const names[] = {"max-bandwidth", "downtime-limit", "tls-creds",
                                        "announce-rounds"};
    json_t *picked = json_object();
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        json_t *value = json_object_get(all, names[i]);
        if (value) {
            json_object_set(picked, names[i], value);
        }
    }
    return picked;
}

/*
 * QEMU announces a guest by itself when it has loaded it, although the guest may yet stay at the
 * source; one round is the least.  With no round at all it has no timer, on which its network
 * devices rely: QEMU crashes at the guest's next reset, unload of a driver, or S3
 * (7.2, 10.0, 11.1).
 */
#define ANNOUNCE_ROUNDS 1

static json_t *wanted_parameters(bool outgoing)
{
    json_t *parameters = json_pack("{s:I, s:i, s:s}", "max-bandwidth", (json_int_t)BANDWIDTH,
                                   "downtime-limit", DOWNTIME_LIMIT, "tls-creds", "");
    if (!outgoing) {
        json_object_set_new(parameters, "announce-rounds", json_integer(ANNOUNCE_ROUNDS));
    }
    return parameters;
}

static json_t *capabilities_arguments(json_t *list)
{
    return json_pack("{s:o}", "capabilities", list);
}

static void settings_free(struct settings *s)
{
    if (s) {
        json_decref(s->capabilities);
        json_decref(s->parameters);
        free(s);
    }
}

static struct settings *settings_read(struct qemu *q, bool outgoing, const struct wait *w,
                                      struct error **errp)
{
    json_t *capabilities = qemu_call(q, "query-migrate-capabilities", NULL, w, errp);
    json_t *parameters =
        capabilities ? qemu_call(q, "query-migrate-parameters", NULL, w, errp) : NULL;
    struct settings *s = parameters ? calloc(1, sizeof(*s)) : NULL;
    if (parameters && !s) {
        abort();
    }
    if (s) {
        s->capabilities = pick_capabilities(capabilities, outgoing);
        s->parameters = pick_parameters(parameters);
    }
    json_decref(capabilities);
    json_decref(parameters);
    return s;
}

static struct settings *swap_settings(struct qemu *q, struct settings *s)
{
    LOCK_SCOPE(&q->lock);
    struct settings *old = q->settings;
    q->settings = s;
    return old;
}

bool qemu_settings_read(struct qemu *q, bool outgoing, const struct wait *w, struct error **errp)
{
    qemu_settings_restore(q); /* of a job before, whose end was not heard of */
    struct settings *s = settings_read(q, outgoing, w, errp);
    if (s) {
        swap_settings(q, s);
    }
    return s;
}

static json_t *capabilities_to_set(struct qemu *q)
{
    LOCK_SCOPE(&q->lock);
    return inverted(q->settings ? q->settings->capabilities : NULL);
}

bool qemu_settings_set(struct qemu *q, bool outgoing, const struct wait *w, struct error **errp)
{
    json_t *list = capabilities_to_set(q);
    return qemu_do(q, "migrate-set-capabilities", capabilities_arguments(list), w, errp) &&
           qemu_do(q, "migrate-set-parameters", wanted_parameters(outgoing), w, errp);
}

json_t *qemu_settings_undone_by(struct qemu *q)
{
    LOCK_SCOPE(&q->lock);
    const struct settings *s = q->settings;
    return s ? json_pack("[{s:s, s:{s:O}}, {s:s, s:O}]", "execute", "migrate-set-capabilities",
                         "arguments", "capabilities", s->capabilities, "execute",
                         "migrate-set-parameters", "arguments", s->parameters)
             : json_array();
}

static void tell(struct qemu *q, const struct settings *s)
{
    struct client_command parameters = {.name = "migrate-set-parameters",
                                        .arguments = json_incref(s->parameters)};
    struct client_command capabilities = {.name = "migrate-set-capabilities",
                                          .arguments =
                                              capabilities_arguments(json_incref(s->capabilities))};
    client_tell(q->client, &parameters);
    client_tell(q->client, &capabilities);
}

void qemu_settings_drop(struct qemu *q)
{
    settings_free(swap_settings(q, NULL));
}

static bool undo(struct qemu *q)
{
    LOCK_SCOPE(&q->lock);
    if (q->settings) {
        tell(q, q->settings);
    }
    return q->settings;
}

bool qemu_settings_put_back(struct qemu *q, const struct wait *w)
{
    if (undo(q) && !qemu_do(q, "query-status", NULL, w, NULL)) {
        return false;
    }
    qemu_settings_drop(q); /* that was answered behind them */
    return true;
}

void qemu_settings_restore(struct qemu *q)
{
    struct settings *s = swap_settings(q, NULL);
    if (s) {
        tell(q, s);
    }
    settings_free(s);
}
