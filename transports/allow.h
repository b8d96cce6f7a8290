/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where an incoming migration may listen, as the configuration's allow-listen says: a list of
 *
 *   ADDRESS or ADDRESS/BITS   IPv4 or IPv6: what is in that network, for tcp: and rdma:
 *   unix:PREFIX               paths (or, as unix:@PREFIX, abstract names) that begin so
 *
 * The wildcard address is in no network but one of 0 bits.  A list is not changed once others know
 * it, and counts its references: a job's thread reads it while the configuration gets another.
 */
#ifndef FERRY_TRANSPORTS_ALLOW_H
#define FERRY_TRANSPORTS_ALLOW_H

#include "common/error.h"

#include <stdbool.h>

struct addrinfo;
struct allow_list;

/* An empty list, which allows nothing. */
struct allow_list *allow_list_new(void);
struct allow_list *allow_list_ref(struct allow_list *list);
void allow_list_unref(struct allow_list *list); /* NULL is allowed */

/* Before anybody else knows the list.  "option-invalid" when it is none of the above. */
bool allow_list_add(struct allow_list *list, const char *text, struct error **errp);

/* A NULL list allows everything. */
bool allow_list_has_address(const struct allow_list *list, const struct addrinfo *ai);
/* `path` as in a URI: @ for an abstract name. */
bool allow_list_has_path(const struct allow_list *list, const char *path);

/* "listen-forbidden" for `uri`. */
void allow_list_refuse(const struct allow_list *list, const char *uri, struct error **errp);

#endif
