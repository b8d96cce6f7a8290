/* SPDX-License-Identifier: BSD-3-Clause */
/* The control surface as JSON text: schema/control.json, compiled in by schema/generate. */
#ifndef FERRY_SCHEMA_CONTROL_SCHEMA_H
#define FERRY_SCHEMA_CONTROL_SCHEMA_H

#include <stddef.h>

extern const char control_schema_json[];     /* NUL-terminated */
extern const size_t control_schema_json_len; /* bytes, without the NUL */

#endif
