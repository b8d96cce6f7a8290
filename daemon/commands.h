/* SPDX-License-Identifier: BSD-3-Clause */
/* The commands of schema/control.json that the daemon answers; the opaque pointer is the ferryd. */
#ifndef FERRY_DAEMON_COMMANDS_H
#define FERRY_DAEMON_COMMANDS_H

#include "daemon/ferryd.h"
#include "protocol/qmp.h"

/* All of them, ended by a NULL name, put together from the groups below. */
const struct qmp_command *commands_all(void);

/* Each group ends with a NULL name. */
extern const struct qmp_command commands_migration[];
extern const struct qmp_command commands_params[];
extern const struct qmp_command commands_guests[];
extern const struct qmp_command commands_announce[];

/* The optional argument `guest`, or NULL. */
const char *command_guest(json_t *args);

/* The entry that the argument `guest` names; answers the request and returns NULL where none is. */
struct entry *command_entry(struct ferryd *d, struct qmp_request *req, json_t *args);

/* Answers the request that is `opaque`, with success or with `err`, which is taken over;
 * guest_done.
 */
void command_done(void *opaque, struct error *err);

/* Whether the argument `name` is in the parameter's range; "parameter-range". */
bool command_check_range(const char *name, enum param param, json_int_t value, struct error **errp);

/* A new error in one expression: for qmp_fail. */
struct error *error_new(const char *code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
