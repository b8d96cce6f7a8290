/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A request, from its bytes to the moment that its handler is called.
 *
 * All that can be wrong with a request is found when it is taken apart, but told only when it is
 * the request's turn, so that replies come in the order of the requests.  A faulty request is
 * therefore an object like any other, which holds its error.
 */
#ifndef FERRY_PROTOCOL_REQUEST_H
#define FERRY_PROTOCOL_REQUEST_H

#include "protocol/dispatch.h"
#include "protocol/framing.h"

#include <sys/queue.h>

struct session;

struct qmp_request {
    struct session *session; /* set, and counted, by the session */
    TAILQ_ENTRY(qmp_request) link;
    const struct command *command; /* NULL when there is an error */
    json_t *id;                    /* NULL: none given */
    json_t *args;
    struct error *err; /* what is wrong with it */
    bool oob;          /* sent with exec-oob: does not wait for its turn */
};

/* What decides how a session's next request is understood. */
struct request_context {
    const struct schema *schema;
    const struct dispatch *dispatch;
    bool negotiated;
    bool oob;
    bool read_only;
};

/* Takes a request apart; NULL when there is no memory. */
struct qmp_request *request_parse(const struct request_context *context, const char *bytes,
                                  size_t len);

/* A request in the place of bytes that were none; NULL when there is no memory. */
struct qmp_request *request_unframed(enum framing_result result);

void request_free(struct qmp_request *req);

#endif
