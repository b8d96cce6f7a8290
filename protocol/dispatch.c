/* SPDX-License-Identifier: BSD-3-Clause */
#include "protocol/dispatch.h"

#include <stdlib.h>

static size_t count_names(const struct schema *schema)
{
    size_t count = 0;
    const char *name;
    json_t *command;
    json_object_foreach(schema->commands, name, command)
    {
        count += 1 + json_array_size(json_object_get(command, "aliases"));
    }
    return count;
}

bool dispatch_init(struct dispatch *dispatch, const struct schema *schema, struct error **errp)
{
    *dispatch = (struct dispatch){
        .index = json_object(),
        .commands = calloc(count_names(schema) + 1, sizeof(*dispatch->commands)),
    };
    if (!dispatch->index || !dispatch->commands) {
        error_set(errp, "control-setup", "No memory for the command table");
        dispatch_destroy(dispatch);
        return false;
    }
    return true;
}

void dispatch_destroy(struct dispatch *dispatch)
{
    json_decref(dispatch->index);
    free(dispatch->commands);
    *dispatch = (struct dispatch){0};
}

static bool add_name(struct dispatch *dispatch, const char *name, const struct command *command,
                     struct error **errp)
{
    if (json_object_get(dispatch->index, name)) {
        error_set(errp, "control-setup", "The command %s has two handlers", name);
        return false;
    }
    if (json_object_set_new(dispatch->index, name, json_integer((json_int_t)dispatch->count)) < 0) {
        error_set(errp, "control-setup", "No memory for the command %s", name);
        return false;
    }
    dispatch->commands[dispatch->count++] = *command;
    return true;
}

static bool add_handler(struct dispatch *dispatch, const struct schema *schema,
                        const struct qmp_command *handler, void *opaque, struct error **errp)
{
    json_t *spec = json_object_get(schema->commands, handler->name);
    if (!spec) {
        error_set(errp, "control-setup", "The command %s is not in the schema", handler->name);
        return false;
    }
    struct command command = {
        .arguments = json_object_get(spec, "arguments"),
        .oob = json_is_true(json_object_get(spec, "oob")),
        .reads = json_is_true(json_object_get(spec, "reads")),
        .run = handler->run,
        .opaque = opaque,
    };
    if (!add_name(dispatch, handler->name, &command, errp)) {
        return false;
    }
    size_t i;
    json_t *alias;
    json_array_foreach(json_object_get(spec, "aliases"), i, alias)
    {
        if (!add_name(dispatch, json_string_value(alias), &command, errp)) {
            return false;
        }
    }
    return true;
}

bool dispatch_add(struct dispatch *dispatch, const struct schema *schema,
                  const struct qmp_command *handlers, void *opaque, struct error **errp)
{
    for (const struct qmp_command *handler = handlers; handler->name; handler++) {
        if (!add_handler(dispatch, schema, handler, opaque, errp)) {
            return false;
        }
    }
    return true;
}

bool dispatch_check(const struct dispatch *dispatch, const struct schema *schema,
                    struct error **errp)
{
    const char *name;
    json_t *command;
    json_object_foreach(schema->commands, name, command)
    {
        if (!dispatch_find(dispatch, name)) {
            error_set(errp, "control-setup", "The command %s has no handler", name);
            return false;
        }
    }
    return true;
}

const struct command *dispatch_find(const struct dispatch *dispatch, const char *name)
{
    const json_t *position = json_object_get(dispatch->index, name);
    return position ? &dispatch->commands[json_integer_value(position)] : NULL;
}
