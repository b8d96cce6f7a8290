/* SPDX-License-Identifier: BSD-3-Clause */
/* What query-migrate, query-migrate-history, query-status and query-guests answer. */
#ifndef FERRY_DAEMON_QUERY_H
#define FERRY_DAEMON_QUERY_H

#include "daemon/ferryd.h"

#include <jansson.h>

json_t *query_migration(struct entry *e);
json_t *query_history(struct entry *e);
json_t *query_guest_status(struct entry *e);
json_t *query_all_guests(struct ferryd *d);

/* A part of these. */
json_t *query_downtime_parts(struct job *job);

#endif
