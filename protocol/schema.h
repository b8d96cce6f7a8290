/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of the control surface, and the check of arguments against it.
 *
 * The table is read once, from the JSON text that is compiled in; what it says is interpreted, not
 * translated into code.  schema/generate has checked at build time that it is consistent.
 */
#ifndef FERRY_PROTOCOL_SCHEMA_H
#define FERRY_PROTOCOL_SCHEMA_H

#include "common/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct schema {
    json_t *root;
    json_t *types;    /* name -> {values} or {members}; borrowed from the root, like the others */
    json_t *commands; /* name -> {arguments, returns, oob, aliases} */
    json_t *events;   /* name -> {data} */
};

struct schema_builtin {
    const char *name;      /* in the table: "str" */
    const char *json_type; /* in the introspection: "string" */
    const char *expected;  /* in error texts: "string" */
    bool (*accepts)(const json_t *value);
};

extern const struct schema_builtin schema_builtins[];
extern const size_t schema_builtins_count;

/* Reads the table. */
bool schema_init(struct schema *schema, struct error **errp);
void schema_destroy(struct schema *schema);

/*
 * Checks `args`, an object, against `members`, an object of name -> {type, optional}: the arguments
 * of a command.  NULL members allow none.
 */
bool schema_check(const struct schema *schema, json_t *members, json_t *args, struct error **errp);

#endif
