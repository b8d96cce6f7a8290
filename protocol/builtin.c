/* SPDX-License-Identifier: BSD-3-Clause */
#include "protocol/builtin.h"

#include "protocol/request.h"
#include "protocol/server.h"
#include "protocol/session.h"

#include <string.h>

static void run_qmp_capabilities(struct qmp_request *req, json_t *args, void *opaque)
{
    (void)opaque;
    bool oob = false;
    size_t i;
    json_t *capability;
    json_array_foreach(json_object_get(args, "enable"), i, capability)
    {
        oob = oob || strcmp(json_string_value(capability), "oob") == 0;
    }
    session_negotiated(req->session, oob);
    qmp_return(req, NULL);
}

static void run_query_version(struct qmp_request *req, json_t *args, void *opaque)
{
    (void)args;
    const struct qmp_server *server = opaque;
    qmp_return(req, json_incref(server->version));
}

static void run_query_commands(struct qmp_request *req, json_t *args, void *opaque)
{
    (void)args;
    const struct qmp_server *server = opaque;
    qmp_return(req, json_incref(server->command_list));
}

static void run_query_events(struct qmp_request *req, json_t *args, void *opaque)
{
    (void)args;
    const struct qmp_server *server = opaque;
    qmp_return(req, json_incref(server->event_list));
}

static void run_query_qmp_schema(struct qmp_request *req, json_t *args, void *opaque)
{
    (void)args;
    const struct qmp_server *server = opaque;
    qmp_return(req, json_incref(server->schema_info));
}

const struct qmp_command builtin_commands[] = {
    {"qmp_capabilities", run_qmp_capabilities}, {"query-version", run_query_version},
    {"query-commands", run_query_commands},     {"query-events", run_query_events},
    {"query-qmp-schema", run_query_qmp_schema}, {NULL, NULL},
};
