/* SPDX-License-Identifier: BSD-3-Clause */
/* Parameters and capabilities, also under the names that older clients know them by. */
#include "daemon/commands.h"
#include "ram/block.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- checks: all of a request is checked before any of it is applied ---- */

static bool check_cache_size(const struct entry *e, enum param p, json_int_t value,
                             struct error **errp)
{
    (void)p;
    if (value < (json_int_t)RAM_PAGE_SIZE) {
        error_set(errp, "parameter-range",
                  "Parameter 'cache size' is %" JSON_INTEGER_FORMAT
                  "; it may not be smaller than one page, %u bytes",
                  value, RAM_PAGE_SIZE);
        return false;
    }
    if ((uint64_t)value > e->guest->ram) {
        error_set(errp, "parameter-range",
                  "Parameter 'cache size' is %" JSON_INTEGER_FORMAT
                  "; it may not be larger than the guest's RAM, %" PRIu64 " bytes",
                  value, e->guest->ram);
        return false;
    }
    return true;
}

static uint64_t power_of_two_below(uint64_t value)
{
    return 1ULL << (63 - __builtin_clzll(value));
}

static bool check_chunk_size(const struct entry *e, enum param p, json_int_t value,
                             struct error **errp)
{
    const char *name = param_infos[p].name;
    (void)e;
    if (!command_check_range(name, p, value, errp)) {
        return false;
    }
    if (value & (value - 1)) {
        error_set(errp, "parameter-range",
                  "Parameter '%s' is %" JSON_INTEGER_FORMAT "; it must be a power of two", name,
                  value);
        return false;
    }
    return true;
}

/* Parameters for which a range is not enough. */
static bool (*const checks[PARAM_COUNT])(const struct entry *e, enum param p, json_int_t value,
                                         struct error **errp) = {
    [PARAM_XBZRLE_CACHE_SIZE] = check_cache_size,
    [PARAM_RDMA_CHUNK_SIZE] = check_chunk_size,
};

static bool check_param(const struct entry *e, enum param p, json_int_t value, struct error **errp)
{
    return checks[p] ? checks[p](e, p, value, errp)
                     : command_check_range(param_infos[p].name, p, value, errp);
}

/* What holds between two parameters; `given` are those about to be set, the others stay. */
static bool check_together(const struct entry *e, json_t *const given[PARAM_COUNT],
                           struct error **errp)
{
    uint64_t values[PARAM_COUNT];
    for (int p = 0; p < PARAM_COUNT; p++) {
        values[p] =
            given[p] ? (uint64_t)json_integer_value(given[p]) : param_get(e->params, (enum param)p);
    }
    if (values[PARAM_MAX_CPU_THROTTLE] < values[PARAM_CPU_THROTTLE_INITIAL]) {
        error_set(errp, "parameter-range",
                  "Parameter 'max-cpu-throttle' would be %" PRIu64
                  "; it may not be less than 'cpu-throttle-initial', %" PRIu64,
                  values[PARAM_MAX_CPU_THROTTLE], values[PARAM_CPU_THROTTLE_INITIAL]);
        return false;
    }
    return true;
}

static void apply_param(struct entry *e, enum param p, json_int_t value)
{
    uint64_t v = (uint64_t)value;
    param_set(e->params, p, p == PARAM_XBZRLE_CACHE_SIZE ? power_of_two_below(v) : v);
}

static void set_one(struct qmp_request *req, struct entry *e, enum param p, json_int_t value)
{
    struct error *err = NULL;
    if (!check_param(e, p, value, &err)) {
        qmp_fail(req, err);
        return;
    }
    apply_param(e, p, value);
    qmp_return(req, NULL);
}

/* ---- commands ---- */

static void cmd_set_parameters(struct qmp_request *req, json_t *args, void *opaque)
{
    struct entry *e = command_entry(opaque, req, args);
    struct error *err = NULL;
    json_t *given[PARAM_COUNT];
    if (!e) {
        return;
    }
    for (int p = 0; p < PARAM_COUNT; p++) {
        given[p] = json_object_get(args, param_infos[p].name);
        if (given[p] && !check_param(e, (enum param)p, json_integer_value(given[p]), &err)) {
            qmp_fail(req, err);
            return;
        }
    }
    if (!check_together(e, given, &err)) {
        qmp_fail(req, err);
        return;
    }
    for (int p = 0; p < PARAM_COUNT; p++) {
        if (given[p]) {
            apply_param(e, (enum param)p, json_integer_value(given[p]));
        }
    }
    qmp_return(req, NULL);
}

static void cmd_query_parameters(struct qmp_request *req, json_t *args, void *opaque)
{
    struct entry *e = command_entry(opaque, req, args);
    if (!e) {
        return;
    }
    json_t *all = json_object();
    for (int p = 0; p < PARAM_COUNT; p++) {
        json_object_set_new(all, param_infos[p].name,
                            json_integer((json_int_t)param_get(e->params, (enum param)p)));
    }
    qmp_return(req, all);
}

/* As in the reference: no value is an error, the nearest possible one is taken. */
static void cmd_set_speed(struct qmp_request *req, json_t *args, void *opaque)
{
    struct entry *e = command_entry(opaque, req, args);
    if (e) {
        json_int_t value = json_integer_value(json_object_get(args, "value"));
        set_one(req, e, PARAM_MAX_BANDWIDTH, value < 0 ? 0 : value);
    }
}

#define REAL_TEXT 32

/* The shortest text that stands for this very number: what a client has written, as a rule. */
static const char *real_text(double value, char text[REAL_TEXT])
{
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, REAL_TEXT, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    return text;
}

/* Seconds, unlike everywhere else. */
static void cmd_set_downtime(struct qmp_request *req, json_t *args, void *opaque)
{
    const struct param_info *info = &param_infos[PARAM_DOWNTIME_LIMIT];
    double seconds = json_number_value(json_object_get(args, "value"));
    struct entry *e = command_entry(opaque, req, args); /* without one, args are gone */
    if (!e) {
        return;
    }
    if (!(seconds >= 0 && seconds * 1000 <= (double)info->max)) {
        char text[REAL_TEXT];
        qmp_fail(req,
                 error_new("parameter-range", "Parameter 'value' is %s seconds; it may be 0 to %g",
                           real_text(seconds, text), (double)info->max / 1000));
        return;
    }
    set_one(req, e, PARAM_DOWNTIME_LIMIT, (json_int_t)llround(seconds * 1000));
}

static void cmd_set_cache_size(struct qmp_request *req, json_t *args, void *opaque)
{
    struct entry *e = command_entry(opaque, req, args);
    if (e) {
        set_one(req, e, PARAM_XBZRLE_CACHE_SIZE,
                json_integer_value(json_object_get(args, "value")));
    }
}

static void cmd_query_cache_size(struct qmp_request *req, json_t *args, void *opaque)
{
    struct entry *e = command_entry(opaque, req, args);
    if (e) {
        uint64_t size = param_get(e->params, PARAM_XBZRLE_CACHE_SIZE);
        qmp_return(req, json_integer((json_int_t)size));
    }
}

/* The schema has checked that the names are capabilities, so that all of them apply. */
static void cmd_set_capabilities(struct qmp_request *req, json_t *args, void *opaque)
{
    struct entry *e = command_entry(opaque, req, args);
    size_t i;
    json_t *item;
    if (!e) {
        return;
    }
    if (entry_is_busy(e)) {
        qmp_fail(req, error_new("migration-active", "There's a migration process in progress"));
        return;
    }
    json_array_foreach(json_object_get(args, "capabilities"), i, item)
    {
        enum capability c =
            capability_from_name(json_string_value(json_object_get(item, "capability")));
        e->capabilities[c] = json_is_true(json_object_get(item, "state"));
    }
    qmp_return(req, NULL);
}

static void cmd_query_capabilities(struct qmp_request *req, json_t *args, void *opaque)
{
    struct entry *e = command_entry(opaque, req, args);
    if (!e) {
        return;
    }
    json_t *all = json_array();
    for (int c = 0; c < CAPABILITY_COUNT; c++) {
        json_array_append_new(all, json_pack("{s:s, s:b}", "capability", capability_infos[c].name,
                                             "state", (int)e->capabilities[c]));
    }
    qmp_return(req, all);
}

const struct qmp_command commands_params[] = {
    {"migrate-set-parameters", cmd_set_parameters},
    {"query-migrate-parameters", cmd_query_parameters},
    {"migrate_set_speed", cmd_set_speed},
    {"migrate_set_downtime", cmd_set_downtime},
    {"migrate-set-cache-size", cmd_set_cache_size},
    {"query-migrate-cache-size", cmd_query_cache_size},
    {"migrate-set-capabilities", cmd_set_capabilities},
    {"query-migrate-capabilities", cmd_query_capabilities},
    {0},
};
