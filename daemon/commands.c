/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/commands.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#define COMMANDS_MAX 64

const struct qmp_command *commands_all(void)
{
    static struct qmp_command all[COMMANDS_MAX];
    const struct qmp_command *const groups[] = {commands_migration, commands_params,
                                                commands_guests, commands_announce};
    size_t n = 0;
    for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++) {
        for (const struct qmp_command *c = groups[g]; c->name && n < COMMANDS_MAX - 1; c++) {
            all[n++] = *c;
        }
    }
    all[n] = (struct qmp_command){0};
    return all;
}

const char *command_guest(json_t *args)
{
    return json_string_value(json_object_get(args, "guest"));
}

struct entry *command_entry(struct ferryd *d, struct qmp_request *req, json_t *args)
{
    struct error *err = NULL;
    struct entry *e = entry_pick(d, command_guest(args), &err);
    if (!e) {
        qmp_fail(req, err);
    }
    return e;
}

void command_done(void *opaque, struct error *err)
{
    if (err) {
        qmp_fail(opaque, err);
    } else {
        qmp_return(opaque, NULL);
    }
}

bool command_check_range(const char *name, enum param param, json_int_t value, struct error **errp)
{
    const struct param_info *info = &param_infos[param];
    if (value < 0 || (uint64_t)value < info->min || (uint64_t)value > info->max) {
        error_set(errp, "parameter-range",
                  "Parameter '%s' is %" JSON_INTEGER_FORMAT "; it may be %" PRIu64 " to %" PRIu64,
                  name, value, info->min, info->max);
        return false;
    }
    return true;
}

struct error *error_new(const char *code, const char *format, ...)
{
    struct error *err = NULL;
    va_list args;
    va_start(args, format);
    error_set_va(&err, ERROR_GENERIC, code, format, args);
    va_end(args);
    return err;
}
