/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bytes as a client might send them, through framing, parser and schema, up to where a handler
 * would be called.  The first byte chooses how the rest is cut into pieces.
 */
#include "protocol/builtin.h"
#include "protocol/encode.h"
#include "protocol/request.h"
#include "tests/unit/qmp_stub.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct surface {
    struct schema schema;
    struct dispatch dispatch;
};

static void never_run(struct qmp_request *req, json_t *args, void *opaque)
{
    (void)req;
    (void)args;
    (void)opaque;
    abort();
}

/* Made once for all inputs. */
static const struct surface *get_surface(void)
{
    static struct surface surface;
    static bool made;
    if (!made) {
        made = schema_init(&surface.schema, NULL) &&
               dispatch_init(&surface.dispatch, &surface.schema, NULL);
        struct qmp_command *commands = stub_commands(&surface.schema, never_run);
        if (!made || !commands ||
            !dispatch_add(&surface.dispatch, &surface.schema, builtin_commands, NULL, NULL) ||
            !dispatch_add(&surface.dispatch, &surface.schema, commands, NULL, NULL)) {
            abort();
        }
        free(commands);
    }
    return &surface;
}

/* What any request must be: a command to run or an error that can be told, never both. */
static void check(struct qmp_request *req)
{
    if (!req || (req->command != NULL) == (req->err != NULL)) {
        abort();
    }
    if (req->err) {
        json_t *reply = encode_error(req->err);
        struct evbuffer *line = evbuffer_new();
        json_object_set(reply, "id", req->id);
        if (!line || !encode_line(line, reply)) {
            abort();
        }
        evbuffer_free(line);
        json_decref(reply);
    }
    request_free(req);
}

/* Scans bytes[done..end), where the unfinished request begins at *start; advances *start. */
static void feed(struct framing *framing, const struct request_context *context, const char *bytes,
                 size_t done, size_t end, size_t *start)
{
    while (done < end) {
        size_t used = 0;
        enum framing_result result = framing_scan(framing, bytes + done, end - done, &used);
        if (used == 0 || used > end - done) {
            abort();
        }
        done += used;
        if (result == FRAMING_PARTIAL) {
            continue;
        }
        if (result == FRAMING_COMPLETE) {
            check(request_parse(context, bytes + *start, done - *start));
        } else if (result != FRAMING_SKIPPED) {
            check(request_unframed(result));
        }
        *start = done;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    const struct surface *surface = get_surface();
    struct request_context context = {
        .schema = &surface->schema,
        .dispatch = &surface->dispatch,
        .negotiated = (data[0] & 1) == 0,
        .oob = (data[0] & 2) != 0,
    };
    size_t piece = 1 + (data[0] >> 2);
    const char *bytes = (const char *)data + 1;
    size_t len = size - 1;
    struct framing framing = {0};
    size_t start = 0;
    for (size_t done = 0; done < len; done += piece) {
        size_t end = len - done < piece ? len : done + piece;
        feed(&framing, &context, bytes, done, end, &start);
    }
    return 0;
}
