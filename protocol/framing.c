/* SPDX-License-Identifier: BSD-3-Clause */
#include "protocol/framing.h"

#include <stdbool.h>
#include <string.h>

_Static_assert(FRAMING_MAX_DEPTH <= 8 * sizeof(((struct framing *)NULL)->arrays),
               "each level needs a bit");

static bool is_space(unsigned char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* The bytes of numbers, of true, false and null, and of the punctuation inside brackets. */
static bool is_token(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' ||
           c == '-' || c == '.' || c == ',' || c == ':';
}

/* Bytes that UTF-8 never contains.  Clients send 0xff to make a server forget half a request. */
static bool is_never_utf8(unsigned char c)
{
    return c == 0xc0 || c == 0xc1 || c >= 0xf5;
}

static enum framing_result open_bracket(struct framing *f, bool array)
{
    if (f->depth == FRAMING_MAX_DEPTH) {
        return FRAMING_TOO_DEEP;
    }
    uint64_t bit = UINT64_C(1) << f->depth;
    f->arrays = array ? f->arrays | bit : f->arrays & ~bit;
    f->depth++;
    return FRAMING_PARTIAL;
}

static enum framing_result close_bracket(struct framing *f, bool array)
{
    if (f->depth == 0 || ((f->arrays >> (f->depth - 1) & 1) != 0) != array) {
        return FRAMING_INVALID;
    }
    f->depth--;
    return f->depth == 0 ? FRAMING_COMPLETE : FRAMING_PARTIAL;
}

static enum framing_result step_structure(struct framing *f, unsigned char c)
{
    if (c == '{' || c == '[') {
        return open_bracket(f, c == '[');
    }
    if (c == '}' || c == ']') {
        return close_bracket(f, c == ']');
    }
    if (f->depth == 0) {
        return FRAMING_INVALID;
    }
    if (c == '"') {
        f->state = FRAMING_STRING;
        return FRAMING_PARTIAL;
    }
    return is_space(c) || is_token(c) ? FRAMING_PARTIAL : FRAMING_INVALID;
}

static enum framing_result step_string(struct framing *f, unsigned char c)
{
    if (c < ' ' || is_never_utf8(c)) {
        return FRAMING_INVALID;
    }
    if (f->state == FRAMING_ESCAPE) {
        f->state = FRAMING_STRING;
    } else if (c == '\\') {
        f->state = FRAMING_ESCAPE;
    } else if (c == '"') {
        f->state = FRAMING_STRUCTURE;
    }
    return FRAMING_PARTIAL;
}

/* Ends the request at byte `c`.  A newline that was itself the mistake is the one to go on after.
 */
static enum framing_result finish(struct framing *f, unsigned char c, enum framing_result result)
{
    bool in_step = result == FRAMING_COMPLETE || c == '\n';
    *f = (struct framing){.state = in_step ? FRAMING_BETWEEN : FRAMING_RESYNC, .limit = f->limit};
    return result;
}

static enum framing_result scan_request(struct framing *f, const char *bytes, size_t len,
                                        size_t *used)
{
    size_t limit = f->limit ? f->limit : FRAMING_MAX_REQUEST;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)bytes[i];
        enum framing_result result =
            f->state == FRAMING_STRUCTURE ? step_structure(f, c) : step_string(f, c);
        if (f->length + i + 1 > limit) {
            result = FRAMING_TOO_LARGE;
        }
        if (result != FRAMING_PARTIAL) {
            *used = i + 1;
            return finish(f, c, result);
        }
    }
    f->length += len;
    *used = len;
    return FRAMING_PARTIAL;
}

/* The number of bytes to drop at a place where no request has begun. */
static size_t skip(struct framing *f, const char *bytes, size_t len)
{
    size_t i = 0;
    if (f->state == FRAMING_RESYNC) {
        const char *newline = memchr(bytes, '\n', len);
        if (!newline) {
            return len;
        }
        f->state = FRAMING_BETWEEN;
        i = (size_t)(newline - bytes) + 1;
    }
    while (i < len && is_space((unsigned char)bytes[i])) {
        i++;
    }
    return i;
}

enum framing_result framing_scan(struct framing *framing, const char *bytes, size_t len,
                                 size_t *used)
{
    if (framing->state == FRAMING_BETWEEN || framing->state == FRAMING_RESYNC) {
        *used = skip(framing, bytes, len);
        if (*used > 0) {
            return FRAMING_SKIPPED;
        }
        framing->state = FRAMING_STRUCTURE;
    }
    return scan_request(framing, bytes, len, used);
}
