/* SPDX-License-Identifier: BSD-3-Clause */
/* The table of the control surface in the forms that clients ask for it. */
#ifndef FERRY_PROTOCOL_INTROSPECT_H
#define FERRY_PROTOCOL_INTROSPECT_H

#include "protocol/schema.h"

/* [{"name"}] for query-commands; aliases are listed too.  The caller's; NULL: out of memory. */
json_t *introspect_commands(const struct schema *schema);

/* [{"name"}] for query-events.  The caller's; NULL: out of memory. */
json_t *introspect_events(const struct schema *schema);

/* [SchemaInfo] for query-qmp-schema; types go by their own names.  The caller's; NULL: as above. */
json_t *introspect_schema(const struct schema *schema);

#endif
