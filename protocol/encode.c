/* SPDX-License-Identifier: BSD-3-Clause */
#include "protocol/encode.h"

#include "common/cleanup.h"

#include <string.h>
#include <time.h>

/* Most replies fit, so that they are written into the buffer at the first attempt. */
#define LINE_GUESS 1024

static const char line_end[] = "\r\n";
#define LINE_END_LEN (sizeof(line_end) - 1)

bool encode_line(struct evbuffer *out, const json_t *json)
{
    size_t room = LINE_GUESS;
    for (int attempt = 0; attempt < 2; attempt++) {
        struct evbuffer_iovec space;
        if (evbuffer_reserve_space(out, (ev_ssize_t)(room + LINE_END_LEN), &space, 1) != 1) {
            return false;
        }
        size_t len = json_dumpb(json, space.iov_base, room, JSON_ENSURE_ASCII);
        if (len == 0) {
            return false;
        }
        if (len <= room) {
            memcpy((char *)space.iov_base + len, line_end, LINE_END_LEN);
            space.iov_len = len + LINE_END_LEN;
            return evbuffer_commit_space(out, &space, 1) == 0;
        }
        room = len;
    }
    return false;
}

json_t *encode_return(json_t *value)
{
    json_t *reply = json_object();
    json_object_set_new(reply, "return", value ? value : json_object());
    return reply;
}

/* Error texts may quote paths or a client's words cut short, which need not be UTF-8. */
static json_t *text_to_json(const char *text)
{
    json_t *json = json_string(text);
    if (json) {
        return json;
    }
    CLEANUP_FREE char *ascii = strdup(text);
    if (!ascii) {
        return NULL;
    }
    for (char *c = ascii; *c; c++) {
        if ((unsigned char)*c >= 0x80) {
            *c = '?';
        }
    }
    return json_string(ascii);
}

json_t *encode_error(const struct error *err)
{
    json_t *error = json_object();
    json_object_set_new(error, "class", json_string(error_class_name(err->class)));
    json_object_set_new(error, "desc", text_to_json(err->text));
    json_object_set_new(error, "code", json_string(err->code));
    json_t *reply = json_object();
    json_object_set_new(reply, "error", error);
    return reply;
}

json_t *encode_event(const char *name, json_t *data)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    json_t *stamp = json_object();
    json_object_set_new(stamp, "seconds", json_integer(now.tv_sec));
    json_object_set_new(stamp, "microseconds", json_integer(now.tv_nsec / 1000));
    json_t *event = json_object();
    json_object_set_new(event, "timestamp", stamp);
    json_object_set_new(event, "event", json_string(name));
    if (data) {
        json_object_set_new(event, "data", data);
    }
    return event;
}
