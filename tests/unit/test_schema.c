/* SPDX-License-Identifier: BSD-3-Clause */
/* Loops over the schema itself: no command or argument is left out when one is added. */
#include "protocol/dispatch.h"
#include "protocol/introspect.h"
#include "protocol/request.h"
#include "protocol/schema.h"
#include "tests/unit/qmp_stub.h"
#include "tests/unit/unit.h"

#include <string.h>

static struct schema schema;

static void setup(void)
{
    ck_assert(schema_init(&schema, NULL));
}

static void teardown(void)
{
    schema_destroy(&schema);
}

/* A place in the arguments that a value can be put into: a member, or an array's only element. */
struct spot {
    json_t *container;
    const char *name;
};

static void put(const struct spot *spot, json_t *value)
{
    if (spot->name) {
        json_object_set_new(spot->container, spot->name, value);
    } else {
        json_array_set_new(spot->container, 0, value);
    }
}

static json_t *sample_members(json_t *members);

/* A value of the type, with all optional members. */
static json_t *sample(json_t *type)
{
    if (json_is_array(type)) {
        return json_pack("[o]", sample(json_array_get(type, 0)));
    }
    static const char *const builtins[][2] = {
        {"str", "[\"text\"]"}, {"int", "[42]"}, {"number", "[0.5]"}, {"bool", "[true]"}};
    for (size_t i = 0; i < sizeof(builtins) / sizeof(builtins[0]); i++) {
        if (strcmp(json_string_value(type), builtins[i][0]) == 0) {
            json_t *list = json_loads(builtins[i][1], 0, NULL);
            json_t *value = json_incref(json_array_get(list, 0));
            json_decref(list);
            return value;
        }
    }
    json_t *spec = json_object_get(schema.types, json_string_value(type));
    json_t *values = json_object_get(spec, "values");
    return values ? json_string(json_object_iter_key(json_object_iter(values)))
                  : sample_members(json_object_get(spec, "members"));
}

static json_t *sample_members(json_t *members)
{
    json_t *object = json_object();
    const char *name;
    json_t *member;
    json_object_foreach(members, name, member)
    {
        json_object_set_new(object, name, sample(json_object_get(member, "type")));
    }
    return object;
}

static void expect_ok(json_t *members, json_t *args)
{
    struct error *err = NULL;
    ck_assert_msg(schema_check(&schema, members, args, &err), "%s", err ? err->text : "");
}

static void expect_code(json_t *members, json_t *args, const char *code, const char *text)
{
    struct error *err = NULL;
    bool passed = schema_check(&schema, members, args, &err);
    char *shown = json_dumps(args, 0);
    ck_assert_msg(!passed, "%s was accepted", shown);
    ck_assert_msg(strcmp(err->code, code) == 0, "%s gave %s", shown, err->text);
    ck_assert_msg(strstr(err->text, text) != NULL, "\"%s\" lacks \"%s\"", err->text, text);
    free(shown);
    error_free(err);
}

/* Whether a JSON value may stand where the type is; says so in its own words, not schema.c's. */
static bool is_right(json_t *type, const json_t *value)
{
    if (json_is_array(type)) {
        return json_is_array(value);
    }
    const char *name = json_string_value(type);
    switch (json_typeof(value)) {
    case JSON_STRING:
        return strcmp(name, "str") == 0;
    case JSON_INTEGER:
        return strcmp(name, "int") == 0 || strcmp(name, "number") == 0;
    case JSON_REAL:
        return strcmp(name, "number") == 0;
    case JSON_TRUE:
        return strcmp(name, "bool") == 0;
    default:
        return false;
    }
}

static const char *wrong_code(json_t *type, const json_t *value)
{
    json_t *spec = json_object_get(schema.types, json_string_value(type));
    if (json_is_object(value) && json_object_get(spec, "members")) {
        return "parameter-missing";
    }
    if (json_is_string(value) && json_object_get(spec, "values")) {
        return "parameter-value";
    }
    return "parameter-type";
}

static void try_inside(json_t *members, json_t *args, json_t *type, json_t *value);

/* Puts every kind of wrong value into the spot, whose type is given, and a right one after. */
static void try_spot(json_t *members, json_t *args, const struct spot *spot, json_t *type)
{
    json_t *wrong = json_loads("[null, true, 1, 1.5, \"no such value\", [], {}]", 0, NULL);
    size_t i;
    json_t *value;
    json_array_foreach(wrong, i, value)
    {
        put(spot, json_incref(value));
        if (is_right(type, value)) {
            expect_ok(members, args);
        } else {
            expect_code(members, args, wrong_code(type, value), spot->name ? spot->name : "[0]");
        }
    }
    json_decref(wrong);
    json_t *right = sample(type);
    put(spot, json_incref(right));
    expect_ok(members, args);
    try_inside(members, args, type, right);
    json_decref(right);
}

static void try_members(json_t *members, json_t *args, json_t *inner, json_t *object)
{
    const char *name;
    json_t *member;
    json_object_foreach(inner, name, member)
    {
        struct spot spot = {.container = object, .name = name};
        try_spot(members, args, &spot, json_object_get(member, "type"));
        json_t *taken = json_incref(json_object_get(object, name));
        json_object_del(object, name);
        if (json_object_get(member, "optional")) {
            expect_ok(members, args);
        } else {
            expect_code(members, args, "parameter-missing", name);
        }
        json_object_set_new(object, name, taken);
    }
    json_object_set_new(object, "surplus", json_true());
    expect_code(members, args, "parameter-unexpected", "surplus");
    json_object_del(object, "surplus");
    expect_ok(members, args);
}

static void try_inside(json_t *members, json_t *args, json_t *type, json_t *value)
{
    if (json_is_array(type)) {
        struct spot spot = {.container = value};
        try_spot(members, args, &spot, json_array_get(type, 0));
        return;
    }
    json_t *spec = json_object_get(schema.types, json_string_value(type));
    if (json_object_get(spec, "members")) {
        try_members(members, args, json_object_get(spec, "members"), value);
    }
}

START_TEST(every_argument)
{
    setup();
    const char *name;
    json_t *command;
    json_object_foreach(schema.commands, name, command)
    {
        json_t *members = json_object_get(command, "arguments");
        json_t *args = sample_members(members);
        expect_ok(members, args);
        try_members(members, args, members, args);
        json_decref(args);
    }
    teardown();
}
END_TEST

static void expect_text(const char *command, const char *args_text, const char *text)
{
    json_t *spec = json_object_get(schema.commands, command);
    json_t *args = json_loads(args_text, 0, NULL);
    ck_assert_ptr_nonnull(args);
    struct error *err = NULL;
    ck_assert(!schema_check(&schema, json_object_get(spec, "arguments"), args, &err));
    ck_assert_str_eq(err->text, text);
    error_free(err);
    json_decref(args);
}

START_TEST(error_texts)
{
    setup();
    expect_text("migrate", "{}", "Parameter 'uri' is missing");
    expect_text("migrate", "{\"uri\": 1}", "Invalid parameter type for 'uri', expected: string");
    expect_text("stop", "{\"x\": 1}", "Parameter 'x' is unexpected");
    expect_text("query-version", "{\"x\": 1}", "Parameter 'x' is unexpected");
    expect_text("migrate_set_speed", "{\"value\": 1.0}",
                "Invalid parameter type for 'value', expected: integer");
    expect_text("migrate-set-capabilities", "{\"capabilities\": {}}",
                "Invalid parameter type for 'capabilities', expected: array");
    expect_text("migrate-set-capabilities",
                "{\"capabilities\": [{\"capability\": \"verify\", \"state\": 1}]}",
                "Invalid parameter type for 'capabilities[0].state', expected: boolean");
    expect_text("migrate-set-capabilities", "{\"capabilities\": [1]}",
                "Invalid parameter type for 'capabilities[0]', expected: object");
    expect_text("migrate-set-capabilities",
                "{\"capabilities\": [{\"capability\": \"foo\", \"state\": true}]}",
                "Parameter 'capabilities[0].capability' does not accept value 'foo'");
    teardown();
}
END_TEST

START_TEST(long_names_are_cut)
{
    setup();
    char name[4096];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    json_t *args = json_pack("{s:i}", name, 1);
    struct error *err = NULL;
    ck_assert(!schema_check(&schema, NULL, args, &err));
    ck_assert_uint_lt(strlen(err->text), 256);
    error_free(err);
    json_decref(args);
    teardown();
}
END_TEST

static bool lists_name(json_t *list, const char *name)
{
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
    {
        if (strcmp(json_string_value(json_object_get(entry, "name")), name) == 0) {
            return true;
        }
    }
    return false;
}

/* Checks that a name used in one entry of the introspection has an entry of its own. */
static void expect_resolved(json_t *list, json_t *entry, const char *key)
{
    json_t *name = json_object_get(entry, key);
    if (name) {
        ck_assert_msg(lists_name(list, json_string_value(name)), "%s is not described",
                      json_string_value(name));
    }
}

START_TEST(introspection_is_closed)
{
    setup();
    json_t *list = introspect_schema(&schema);
    json_t *names = json_object();
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        ck_assert_msg(!json_object_get(names, name), "%s is described twice", name);
        json_object_set_new(names, name, json_true());
        expect_resolved(list, entry, "arg-type");
        expect_resolved(list, entry, "ret-type");
        expect_resolved(list, entry, "element-type");
        size_t j;
        json_t *member;
        json_array_foreach(json_object_get(entry, "members"), j, member)
        {
            expect_resolved(list, member, "type");
        }
    }
    json_t *info = json_pack("{s:{s:[s]}}", "list", "type", "SchemaInfo");
    json_t *args = json_pack("{s:O}", "list", list);
    expect_ok(info, args);
    json_decref(args);
    json_decref(info);
    json_decref(names);
    json_decref(list);
    teardown();
}
END_TEST

START_TEST(lists_have_aliases_and_events)
{
    setup();
    json_t *commands = introspect_commands(&schema);
    static const char *const names[] = {"query-migrate", "set_speed", "set_downtime",
                                        "set_capabilities"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        ck_assert(lists_name(commands, names[i]));
    }
    json_decref(commands);
    json_t *events = introspect_events(&schema);
    ck_assert(lists_name(events, "MIGRATION"));
    ck_assert_uint_eq(json_array_size(events), json_object_size(schema.events));
    json_decref(events);
    teardown();
}
END_TEST

static void no_run(struct qmp_request *req, json_t *args, void *opaque)
{
    (void)args;
    (void)opaque;
    qmp_return(req, NULL);
}

START_TEST(handlers_must_match)
{
    setup();
    struct qmp_command *commands = stub_commands(&schema, no_run);
    static const struct qmp_command stranger[] = {{"no-such-command", no_run}, {NULL, NULL}};
    struct dispatch dispatch;
    ck_assert(dispatch_init(&dispatch, &schema, NULL));
    ck_assert(dispatch_add(&dispatch, &schema, builtin_commands, NULL, NULL));
    ck_assert(!dispatch_check(&dispatch, &schema, NULL));
    ck_assert(!dispatch_add(&dispatch, &schema, stranger, NULL, NULL));
    ck_assert(dispatch_add(&dispatch, &schema, commands, NULL, NULL));
    ck_assert(dispatch_check(&dispatch, &schema, NULL));
    ck_assert(!dispatch_add(&dispatch, &schema, commands, NULL, NULL));
    ck_assert_ptr_nonnull(dispatch_find(&dispatch, "set_speed"));
    ck_assert_ptr_null(dispatch_find(&dispatch, "Set_speed"));
    dispatch_destroy(&dispatch);
    free(commands);
    teardown();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("protocol/schema");
    unit_add(suite, "protocol/schema/every-argument", every_argument);
    unit_add(suite, "protocol/schema/error-texts", error_texts);
    unit_add(suite, "protocol/schema/long-names-are-cut", long_names_are_cut);
    unit_add(suite, "protocol/schema/introspection-is-closed", introspection_is_closed);
    unit_add(suite, "protocol/schema/lists-have-aliases-and-events", lists_have_aliases_and_events);
    unit_add(suite, "protocol/schema/handlers-must-match", handlers_must_match);
    return unit_run(suite);
}
