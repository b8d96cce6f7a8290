/* SPDX-License-Identifier: BSD-3-Clause */
/* Which function answers which command: the schema's names joined with the handlers. */
#ifndef FERRY_PROTOCOL_DISPATCH_H
#define FERRY_PROTOCOL_DISPATCH_H

#include "protocol/qmp.h"
#include "protocol/schema.h"

/* A command under one of its names. */
struct command {
    json_t *arguments; /* the schema's; NULL: takes none */
    bool oob;
    bool reads; /* changes nothing */
    qmp_handler *run;
    void *opaque;
};

struct dispatch {
    json_t *index; /* name -> position in commands */
    struct command *commands;
    size_t count;
};

/*
 * Starts a table with room for all names of the schema, which must outlive it.  Then
 * dispatch_add the handlers, and dispatch_check that none is missing.
 */
bool dispatch_init(struct dispatch *dispatch, const struct schema *schema, struct error **errp);
bool dispatch_add(struct dispatch *dispatch, const struct schema *schema,
                  const struct qmp_command *handlers, void *opaque, struct error **errp);
bool dispatch_check(const struct dispatch *dispatch, const struct schema *schema,
                    struct error **errp);
void dispatch_destroy(struct dispatch *dispatch);

/* NULL when there is no such command. */
const struct command *dispatch_find(const struct dispatch *dispatch, const char *name);

#endif
