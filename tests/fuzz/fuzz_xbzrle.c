/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Deltas from anywhere, and pages of any kind.
 *
 * The first byte chooses.  Even: the rest is a delta; one that is refused is refused whole, one
 * that is taken changes nothing but its page, and what it makes can be told again.  Odd: the rest
 * makes two pages, one from the other by changes at places that it names; the delta between them,
 * in the room that it was given, brings the second from the first.
 */
#include "ram/xbzrle.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE  RAM_PAGE_SIZE
#define GUARD 0x5a

static void require(bool ok)
{
    if (!ok) {
        abort();
    }
}

/* A copy of exactly that size, so that a sanitizer sees a step out of it. */
static uint8_t *exact(const uint8_t *bytes, size_t length)
{
    uint8_t *copy = malloc(length + !length);
    require(copy);
    if (length) {
        memcpy(copy, bytes, length);
    }
    return copy;
}

/* The delta from one page to another, in at most `room` bytes, does what it is for. */
static void check_between(const uint8_t *from, const uint8_t *to, size_t room)
{
    uint8_t *out = malloc(room + 1);
    uint8_t *page = exact(from, SIZE);
    require(out);
    out[room] = GUARD;
    size_t length = xbzrle_encode(from, to, out, room);
    require(out[room] == GUARD);
    require(length == XBZRLE_NO_GAIN || length <= room);
    require(length != XBZRLE_NO_GAIN || room < SIZE + 3); /* three bytes, and the page */
    require((length == 0) == (memcmp(from, to, SIZE) == 0));
    if (length != XBZRLE_NO_GAIN) {
        require(xbzrle_check(out, length));
        xbzrle_apply(out, length, page);
        require(memcmp(page, to, SIZE) == 0);
    }
    free(page);
    free(out);
}

static void check_delta(const uint8_t *bytes, size_t length)
{
    uint8_t *delta = exact(bytes, length);
    if (xbzrle_check(delta, length)) {
        uint8_t before[SIZE];
        memset(before, GUARD, sizeof(before));
        uint8_t *after = exact(before, SIZE);
        xbzrle_apply(delta, length, after);
        check_between(before, after, SIZE + 3);
        free(after);
    }
    free(delta);
}

/* Three bytes are a change: where, and to what. */
static void check_pages(const uint8_t *bytes, size_t length)
{
    if (length < 3) {
        return;
    }
    uint8_t from[SIZE], to[SIZE];
    size_t room = (size_t)(bytes[0] | bytes[1] << 8) % (SIZE + 16);
    memset(from, bytes[2], SIZE);
    memcpy(from, bytes, length < SIZE ? length : SIZE);
    memcpy(to, from, SIZE);
    for (size_t i = 3; i + 3 <= length; i += 3) {
        to[(bytes[i] | bytes[i + 1] << 8) % SIZE] = bytes[i + 2];
    }
    check_between(from, to, room);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size) {
        (data[0] & 1 ? check_pages : check_delta)(data + 1, size - 1);
    }
    return 0;
}
