/* SPDX-License-Identifier: BSD-3-Clause */
#include "protocol/schema.h"

#include "schema/control_schema.h"

#include <stdio.h>
#include <string.h>

/* A path in an error text is cut here: its last part may be a client's word of any length. */
#define PATH_TEXT_MAX 160

/* Where a value stands in the arguments; a chain on the stack, made into text only for errors. */
struct path {
    const struct path *parent;
    const char *name; /* a member, or NULL: element `index` of the parent */
    size_t index;
};

struct path_text {
    char text[PATH_TEXT_MAX];
};

static bool accepts_string(const json_t *value)
{
    return json_is_string(value);
}

static bool accepts_integer(const json_t *value)
{
    return json_is_integer(value);
}

static bool accepts_number(const json_t *value)
{
    return json_is_number(value);
}

static bool accepts_boolean(const json_t *value)
{
    return json_is_boolean(value);
}

static bool accepts_any(const json_t *value)
{
    return value != NULL;
}

const struct schema_builtin schema_builtins[] = {
    {"str", "string", "string", accepts_string},    {"int", "int", "integer", accepts_integer},
    {"number", "number", "number", accepts_number}, {"bool", "boolean", "boolean", accepts_boolean},
    {"any", "value", "value", accepts_any},
};
const size_t schema_builtins_count = sizeof(schema_builtins) / sizeof(schema_builtins[0]);

static bool check_value(const struct schema *schema, json_t *type, json_t *value,
                        const struct path *path, struct error **errp);

/* Commands whose arguments are "a type's members and some more" get them copied together. */
static bool expand_arguments(const struct schema *schema)
{
    const char *name;
    json_t *command;
    json_object_foreach(schema->commands, name, command)
    {
        json_t *from = json_object_get(command, "arguments-from");
        if (!from) {
            continue;
        }
        json_t *type = json_object_get(schema->types, json_string_value(from));
        json_t *members = json_copy(json_object_get(type, "members"));
        json_object_update(members, json_object_get(command, "arguments"));
        if (json_object_set_new(command, "arguments", members) < 0) {
            return false;
        }
    }
    return true;
}

bool schema_init(struct schema *schema, struct error **errp)
{
    json_error_t fault;
    json_t *root =
        json_loadb(control_schema_json, control_schema_json_len, JSON_REJECT_DUPLICATES, &fault);
    *schema = (struct schema){
        .root = root,
        .types = json_object_get(root, "types"),
        .commands = json_object_get(root, "commands"),
        .events = json_object_get(root, "events"),
    };
    if (!schema->types || !schema->commands || !schema->events || !expand_arguments(schema)) {
        error_set(errp, "control-setup", "The built-in command table can't be read: %s",
                  root ? "a part is missing" : fault.text);
        schema_destroy(schema);
        return false;
    }
    return true;
}

void schema_destroy(struct schema *schema)
{
    json_decref(schema->root);
    *schema = (struct schema){0};
}

static size_t path_write(const struct path *path, char *text, size_t size)
{
    size_t len = path->parent ? path_write(path->parent, text, size) : 0;
    size_t room = len < size ? size - len : 0;
    char *end = text + (len < size ? len : size);
    int added = path->name ? snprintf(end, room, "%s%s", path->parent ? "." : "", path->name)
                           : snprintf(end, room, "[%zu]", path->index);
    return len + (added > 0 ? (size_t)added : 0);
}

static struct path_text path_format(const struct path *path)
{
    struct path_text text = {""};
    path_write(path, text.text, sizeof(text.text));
    return text;
}

static bool fail_type(const struct path *path, const char *expected, struct error **errp)
{
    error_set(errp, "parameter-type", "Invalid parameter type for '%s', expected: %s",
              path_format(path).text, expected);
    return false;
}

static bool check_enum(json_t *values, const json_t *value, const struct path *path,
                       struct error **errp)
{
    if (!json_is_string(value)) {
        return fail_type(path, "string", errp);
    }
    if (!json_object_get(values, json_string_value(value))) {
        error_set(errp, "parameter-value", "Parameter '%s' does not accept value '%.*s'",
                  path_format(path).text, PATH_TEXT_MAX, json_string_value(value));
        return false;
    }
    return true;
}

static bool check_array(const struct schema *schema, json_t *element_type, json_t *value,
                        const struct path *path, struct error **errp)
{
    if (!json_is_array(value)) {
        return fail_type(path, "array", errp);
    }
    size_t i;
    json_t *element;
    json_array_foreach(value, i, element)
    {
        struct path here = {.parent = path, .index = i};
        if (!check_value(schema, element_type, element, &here, errp)) {
            return false;
        }
    }
    return true;
}

/* Checks the members that the table knows; returns how many there were, -1 after an error. */
static ssize_t check_known(const struct schema *schema, json_t *members, json_t *value,
                           const struct path *path, struct error **errp)
{
    ssize_t count = 0;
    const char *name;
    json_t *member;
    json_object_foreach(members, name, member)
    {
        struct path here = {.parent = path, .name = name};
        json_t *given = json_object_get(value, name);
        if (given) {
            count++;
            if (!check_value(schema, json_object_get(member, "type"), given, &here, errp)) {
                return -1;
            }
        } else if (!json_is_true(json_object_get(member, "optional"))) {
            error_set(errp, "parameter-missing", "Parameter '%s' is missing",
                      path_format(&here).text);
            return -1;
        }
    }
    return count;
}

static void fail_unexpected(json_t *members, json_t *value, const struct path *path,
                            struct error **errp)
{
    const char *name;
    json_t *member;
    json_object_foreach(value, name, member)
    {
        if (!json_object_get(members, name)) {
            struct path here = {.parent = path, .name = name};
            error_set(errp, "parameter-unexpected", "Parameter '%s' is unexpected",
                      path_format(&here).text);
            return;
        }
    }
}

static bool check_members(const struct schema *schema, json_t *members, json_t *value,
                          const struct path *path, struct error **errp)
{
    ssize_t known = check_known(schema, members, value, path, errp);
    if (known < 0) {
        return false;
    }
    if ((size_t)known < json_object_size(value)) {
        fail_unexpected(members, value, path, errp);
        return false;
    }
    return true;
}

static const struct schema_builtin *find_builtin(const char *name)
{
    for (size_t i = 0; i < schema_builtins_count; i++) {
        if (strcmp(schema_builtins[i].name, name) == 0) {
            return &schema_builtins[i];
        }
    }
    return NULL;
}

static bool check_value(const struct schema *schema, json_t *type, json_t *value,
                        const struct path *path, struct error **errp)
{
    if (json_is_array(type)) {
        return check_array(schema, json_array_get(type, 0), value, path, errp);
    }
    const struct schema_builtin *builtin = find_builtin(json_string_value(type));
    if (builtin) {
        return builtin->accepts(value) || fail_type(path, builtin->expected, errp);
    }
    json_t *spec = json_object_get(schema->types, json_string_value(type));
    json_t *values = json_object_get(spec, "values");
    if (values) {
        return check_enum(values, value, path, errp);
    }
    if (!json_is_object(value)) {
        return fail_type(path, "object", errp);
    }
    return check_members(schema, json_object_get(spec, "members"), value, path, errp);
}

bool schema_check(const struct schema *schema, json_t *members, json_t *args, struct error **errp)
{
    return check_members(schema, members, args, NULL, errp);
}
