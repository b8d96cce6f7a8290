/* SPDX-License-Identifier: BSD-3-Clause */
/* A handler for each command of the schema that the protocol does not answer itself. */
#ifndef FERRY_TESTS_UNIT_QMP_STUB_H
#define FERRY_TESTS_UNIT_QMP_STUB_H

#include "protocol/builtin.h"
#include "protocol/schema.h"

#include <stdlib.h>
#include <string.h>

static inline bool stub_is_builtin(const char *name)
{
    for (const struct qmp_command *command = builtin_commands; command->name; command++) {
        if (strcmp(command->name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* The table for qmp_config; the caller frees it, and keeps the schema as long, for the names. */
static inline struct qmp_command *stub_commands(const struct schema *schema, qmp_handler *run)
{
    struct qmp_command *table =
        calloc(json_object_size(schema->commands) + 1, sizeof(struct qmp_command));
    size_t count = 0;
    const char *name;
    json_t *command;
    json_object_foreach(schema->commands, name, command)
    {
        if (table && !stub_is_builtin(name)) {
            table[count++] = (struct qmp_command){.name = name, .run = run};
        }
    }
    return table;
}

#endif
