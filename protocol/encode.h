/* SPDX-License-Identifier: BSD-3-Clause */
/* What the server sends: JSON values as lines, and the objects around replies. */
#ifndef FERRY_PROTOCOL_ENCODE_H
#define FERRY_PROTOCOL_ENCODE_H

#include "common/error.h"

#include <event2/buffer.h>
#include <jansson.h>
#include <stdbool.h>

/* Appends `json` in ASCII, ended by \r\n; false, with `out` unchanged, when that cannot be done. */
bool encode_line(struct evbuffer *out, const json_t *json);

/* {"return": value}; takes over `value`, NULL stands for an empty object. */
json_t *encode_return(json_t *value);

/* {"error": {"class", "desc", "code"}}; `err` stays the caller's. */
json_t *encode_error(const struct error *err);

/* {"timestamp", "event", "data"}, stamped now; takes over `data`, NULL leaves it out. */
json_t *encode_event(const char *name, json_t *data);

#endif
