/* SPDX-License-Identifier: BSD-3-Clause */
#include "protocol/request.h"

#include <stdlib.h>
#include <string.h>

/* Names that a client made up are quoted up to this many bytes. */
#define QUOTE_MAX 128

struct field {
    const char *name;
    json_type type;
    const char *expected; /* NULL: any value */
};

static const struct field fields[] = {
    {"execute", JSON_STRING, "a string"},
    {"exec-oob", JSON_STRING, "a string"},
    {"arguments", JSON_OBJECT, "an object"},
    {"id", JSON_NULL, NULL},
};

static const struct field *find_field(const char *name)
{
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (strcmp(fields[i].name, name) == 0) {
            return &fields[i];
        }
    }
    return NULL;
}

/* Without the parser's quotation of the input, which may have been cut inside a character. */
static void set_parse_error(struct error **errp, const json_error_t *fault)
{
    const char *quotation = strstr(fault->text, " near '");
    int len = quotation ? (int)(quotation - fault->text) : (int)strlen(fault->text);
    error_set(errp, "json-invalid", "JSON parse error at byte %d: %.*s", fault->position, len,
              fault->text);
}

static bool check_fields(json_t *root, bool oob, struct error **errp)
{
    const char *name;
    json_t *value;
    json_object_foreach(root, name, value)
    {
        const struct field *field = find_field(name);
        if (!field || (!oob && strcmp(name, "exec-oob") == 0)) {
            error_set(errp, "request-invalid", "QMP input member '%.*s' is unexpected", QUOTE_MAX,
                      name);
            return false;
        }
        if (field->expected && json_typeof(value) != field->type) {
            error_set(errp, "request-invalid", "QMP input member '%s' must be %s", name,
                      field->expected);
            return false;
        }
    }
    return true;
}

/* The command's name; sets req->oob. */
static const char *command_name(struct qmp_request *req, json_t *root)
{
    json_t *in_band = json_object_get(root, "execute");
    json_t *oob = json_object_get(root, "exec-oob");
    if (in_band && oob) {
        error_set(&req->err, "request-invalid",
                  "QMP input member 'exec-oob' clashes with 'execute'");
        return NULL;
    }
    if (!in_band && !oob) {
        error_set(&req->err, "request-invalid", "QMP input lacks member 'execute'");
        return NULL;
    }
    req->oob = oob != NULL;
    return json_string_value(oob ? oob : in_band);
}

static bool check_negotiated(bool negotiated, const char *name, struct error **errp)
{
    bool negotiates = strcmp(name, "qmp_capabilities") == 0;
    if (!negotiated && !negotiates) {
        error_set_class(errp, ERROR_COMMAND_NOT_FOUND, "negotiation-expected",
                        "Expecting capabilities negotiation with 'qmp_capabilities'");
        return false;
    }
    if (negotiated && negotiates) {
        error_set_class(errp, ERROR_COMMAND_NOT_FOUND, "negotiation-done",
                        "The capabilities have been negotiated already");
        return false;
    }
    return true;
}

static const struct command *find_command(const struct request_context *context, const char *name,
                                          bool oob, struct error **errp)
{
    if (!check_negotiated(context->negotiated, name, errp)) {
        return NULL;
    }
    const struct command *command = dispatch_find(context->dispatch, name);
    if (!command) {
        error_set_class(errp, ERROR_COMMAND_NOT_FOUND, "command-unknown",
                        "The command %.*s has not been found", QUOTE_MAX, name);
        return NULL;
    }
    if (context->read_only && !command->reads) {
        error_set(errp, "read-only", "The command %s is not answered on the read-only socket",
                  name);
        return NULL;
    }
    if (oob && !command->oob) {
        error_set(errp, "oob-unsupported", "The command %s does not support OOB", name);
        return NULL;
    }
    return command;
}

static void take_apart(struct qmp_request *req, const struct request_context *context, json_t *root)
{
    if (!json_is_object(root)) {
        error_set(&req->err, "request-invalid", "QMP input must be a JSON object");
        return;
    }
    req->id = json_incref(json_object_get(root, "id"));
    if (!check_fields(root, context->oob, &req->err)) {
        return;
    }
    const char *name = command_name(req, root);
    if (!name) {
        return;
    }
    const struct command *command = find_command(context, name, req->oob, &req->err);
    if (!command) {
        return;
    }
    json_t *args = json_object_get(root, "arguments");
    req->args = args ? json_incref(args) : json_object();
    if (schema_check(context->schema, command->arguments, req->args, &req->err)) {
        req->command = command;
    }
}

struct qmp_request *request_parse(const struct request_context *context, const char *bytes,
                                  size_t len)
{
    struct qmp_request *req = calloc(1, sizeof(*req));
    if (!req) {
        return NULL;
    }
    json_error_t fault;
    json_t *root = json_loadb(bytes, len, JSON_REJECT_DUPLICATES, &fault);
    if (root) {
        take_apart(req, context, root);
        json_decref(root);
    } else {
        set_parse_error(&req->err, &fault);
    }
    return req;
}

struct qmp_request *request_unframed(enum framing_result result)
{
    struct qmp_request *req = calloc(1, sizeof(*req));
    if (!req) {
        return NULL;
    }
    if (result == FRAMING_TOO_LARGE) {
        error_set(&req->err, "request-too-large", "JSON parse error: more than %zu bytes",
                  FRAMING_MAX_REQUEST);
    } else if (result == FRAMING_TOO_DEEP) {
        error_set(&req->err, "request-too-deep", "JSON parse error: nested more than %d deep",
                  FRAMING_MAX_DEPTH);
    } else {
        error_set(&req->err, "json-invalid",
                  "JSON parse error: invalid input, ignored up to the end of its line");
    }
    return req;
}

void request_free(struct qmp_request *req)
{
    json_decref(req->id);
    json_decref(req->args);
    error_free(req->err);
    free(req);
}
