/* SPDX-License-Identifier: BSD-3-Clause */
#include "protocol/introspect.h"

/* The object type of commands and events that have no members, and of replies without a value. */
static const char empty_type[] = "Empty";

static json_t *name_entry(const char *name)
{
    return json_pack("{s:s}", "name", name);
}

/* Calls `visit` for every command under each of its names. */
static void for_each_command(const struct schema *schema, json_t *list,
                             void (*visit)(json_t *list, const char *name, const char *real_name,
                                           json_t *command))
{
    const char *name;
    json_t *command;
    json_object_foreach(schema->commands, name, command)
    {
        visit(list, name, name, command);
        size_t i;
        json_t *alias;
        json_array_foreach(json_object_get(command, "aliases"), i, alias)
        {
            visit(list, json_string_value(alias), name, command);
        }
    }
}

static void add_command_name(json_t *list, const char *name, const char *real_name, json_t *command)
{
    (void)real_name;
    (void)command;
    json_array_append_new(list, name_entry(name));
}

json_t *introspect_commands(const struct schema *schema)
{
    json_t *list = json_array();
    for_each_command(schema, list, add_command_name);
    return list;
}

json_t *introspect_events(const struct schema *schema)
{
    json_t *list = json_array();
    const char *name;
    json_t *event;
    json_object_foreach(schema->events, name, event)
    {
        json_array_append_new(list, name_entry(name));
    }
    return list;
}

/* The introspection's name of a type reference of the table: "T" or "[T]"; none: no value. */
static json_t *type_name(json_t *type)
{
    if (json_is_array(type)) {
        return json_sprintf("[%s]", json_string_value(json_array_get(type, 0)));
    }
    return json_string(type ? json_string_value(type) : empty_type);
}

/* An array type is described once, however often it is used. */
static void note_array(json_t *arrays, json_t *type)
{
    if (json_is_array(type)) {
        json_t *name = type_name(type);
        json_object_set(arrays, json_string_value(name), json_array_get(type, 0));
        json_decref(name);
    }
}

static json_t *members_list(json_t *members)
{
    json_t *list = json_array();
    const char *name;
    json_t *member;
    json_object_foreach(members, name, member)
    {
        json_t *entry = name_entry(name);
        json_object_set_new(entry, "type", type_name(json_object_get(member, "type")));
        if (json_is_true(json_object_get(member, "optional"))) {
            json_object_set_new(entry, "default", json_null());
        }
        json_array_append_new(list, entry);
    }
    return list;
}

static void add_object(json_t *list, const char *name, json_t *members)
{
    json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", name, "meta-type", "object",
                                          "members", members_list(members)));
}

static void add_enum(json_t *list, const char *name, json_t *values)
{
    json_t *names = json_array();
    json_t *members = json_array();
    const char *value;
    json_t *doc;
    json_object_foreach(values, value, doc)
    {
        json_array_append_new(names, json_string(value));
        json_array_append_new(members, name_entry(value));
    }
    json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:o}", "name", name, "meta-type", "enum",
                                          "members", members, "values", names));
}

static void add_builtins(json_t *list)
{
    for (size_t i = 0; i < schema_builtins_count; i++) {
        json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", schema_builtins[i].name,
                                              "meta-type", "builtin", "json-type",
                                              schema_builtins[i].json_type));
    }
}

static void add_types(json_t *list, const struct schema *schema)
{
    const char *name;
    json_t *type;
    json_object_foreach(schema->types, name, type)
    {
        json_t *values = json_object_get(type, "values");
        if (values) {
            add_enum(list, name, values);
        } else {
            add_object(list, name, json_object_get(type, "members"));
        }
    }
}

/* The object type for a command's arguments or an event's data; added to the list on first use. */
static json_t *implicit_object(json_t *list, const char *name, const char *suffix, json_t *members,
                               bool first_use)
{
    if (!members) {
        return json_string(empty_type);
    }
    json_t *type = json_sprintf("%s-%s", name, suffix);
    if (first_use) {
        add_object(list, json_string_value(type), members);
    }
    return type;
}

static void add_command(json_t *list, const char *name, const char *real_name, json_t *command)
{
    json_t *entry = name_entry(name);
    json_object_set_new(entry, "meta-type", json_string("command"));
    json_object_set_new(entry, "arg-type",
                        implicit_object(list, real_name, "arguments",
                                        json_object_get(command, "arguments"), name == real_name));
    json_object_set_new(entry, "ret-type", type_name(json_object_get(command, "returns")));
    if (json_is_true(json_object_get(command, "oob"))) {
        json_object_set_new(entry, "allow-oob", json_true());
    }
    json_array_append_new(list, entry);
}

static void add_events(json_t *list, const struct schema *schema)
{
    const char *name;
    json_t *event;
    json_object_foreach(schema->events, name, event)
    {
        json_t *arg_type =
            implicit_object(list, name, "data", json_object_get(event, "data"), true);
        json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", name, "meta-type", "event",
                                              "arg-type", arg_type));
    }
}

static void note_members(json_t *arrays, json_t *members)
{
    const char *name;
    json_t *member;
    json_object_foreach(members, name, member)
    {
        note_array(arrays, json_object_get(member, "type"));
    }
}

/* Notes the arrays in every entry of a part of the table, below the key `members_key`. */
static void note_part(json_t *arrays, json_t *part, const char *members_key)
{
    const char *name;
    json_t *entry;
    json_object_foreach(part, name, entry)
    {
        note_members(arrays, json_object_get(entry, members_key));
        note_array(arrays, json_object_get(entry, "returns"));
    }
}

static void add_arrays(json_t *list, const struct schema *schema)
{
    json_t *arrays = json_object();
    note_part(arrays, schema->types, "members");
    note_part(arrays, schema->commands, "arguments");
    note_part(arrays, schema->events, "data");
    const char *name;
    json_t *element;
    json_object_foreach(arrays, name, element)
    {
        json_array_append_new(list, json_pack("{s:s, s:s, s:O}", "name", name, "meta-type", "array",
                                              "element-type", element));
    }
    json_decref(arrays);
}

json_t *introspect_schema(const struct schema *schema)
{
    json_t *list = json_array();
    for_each_command(schema, list, add_command);
    add_events(list, schema);
    add_object(list, empty_type, NULL);
    add_types(list, schema);
    add_arrays(list, schema);
    add_builtins(list);
    return list;
}
