/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/xbzrle.h"

#include <endian.h>
#include <string.h>

/* Equal bytes that a run of changes swallows: to end it and begin another would take two bytes. */
#define GAP_MIN 3u

/* ---- comparing ---- */

static uint64_t load(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof(word));
    return le64toh(word);
}

/* How the eight bytes from `at` on differ; those behind the page's end count as equal. */
static uint64_t differences(const uint8_t *a, const uint8_t *b, size_t at)
{
    size_t last = RAM_PAGE_SIZE - sizeof(uint64_t);
    if (at <= last) {
        return load(a + at) ^ load(b + at);
    }
    return (load(a + last) ^ load(b + last)) >> (8 * (at - last));
}

/* The first byte from `at` on that differs, or the page's end. */
static size_t next_change(const uint8_t *a, const uint8_t *b, size_t at)
{
    for (; at + 32 <= RAM_PAGE_SIZE; at += 32) {
        uint64_t any = (load(a + at) ^ load(b + at)) | (load(a + at + 8) ^ load(b + at + 8)) |
                       (load(a + at + 16) ^ load(b + at + 16)) |
                       (load(a + at + 24) ^ load(b + at + 24));
        if (any) {
            break;
        }
    }
    for (; at < RAM_PAGE_SIZE; at += 8) {
        uint64_t x = differences(a, b, at);
        if (x) {
            return at + (size_t)__builtin_ctzll(x) / 8;
        }
    }
    return RAM_PAGE_SIZE;
}

/* Leading bytes of the eight that are not 0. */
static size_t leading_changes(uint64_t x)
{
    uint64_t zero = (x - 0x0101010101010101ULL) & ~x & 0x8080808080808080ULL;
    return zero ? (size_t)__builtin_ctzll(zero) / 8 : 8;
}

/* Where the changes that begin at `at` end: before the first gap that is worth telling. */
static size_t changes_end(const uint8_t *a, const uint8_t *b, size_t at)
{
    while (at < RAM_PAGE_SIZE) {
        size_t n = leading_changes(differences(a, b, at));
        at += n;
        if (n == 8 || at == RAM_PAGE_SIZE) {
            continue;
        }
        uint64_t x = differences(a, b, at);
        size_t gap = x ? (size_t)__builtin_ctzll(x) / 8 : 8;
        if (gap >= GAP_MIN) {
            return at;
        }
        at += gap;
    }
    return RAM_PAGE_SIZE;
}

/* ---- numbers, of which none is larger than a page ---- */

static size_t number_size(size_t n)
{
    return n < 0x80 ? 1 : 2;
}

static uint8_t *put_number(uint8_t *out, size_t n)
{
    if (n < 0x80) {
        *out = (uint8_t)n;
        return out + 1;
    }
    out[0] = (uint8_t)(n | 0x80);
    out[1] = (uint8_t)(n >> 7);
    return out + 2;
}

/* False when [*at, end) does not begin with one. */
static bool take_number(const uint8_t **at, const uint8_t *end, size_t *n)
{
    const uint8_t *p = *at;
    if (p == end) {
        return false;
    }
    if (p[0] < 0x80) {
        *n = p[0];
        *at = p + 1;
        return true;
    }
    if (end - p < 2 || p[1] == 0 || p[1] >= 0x80) {
        return false;
    }
    *n = (size_t)(p[0] & 0x7f) | (size_t)p[1] << 7;
    *at = p + 2;
    return true;
}

/* ---- deltas ---- */

size_t xbzrle_encode(const uint8_t *from, const uint8_t *to, uint8_t *out, size_t room)
{
    uint8_t *put = out;
    size_t at = 0;
    for (;;) {
        size_t first = next_change(from, to, at);
        if (first == RAM_PAGE_SIZE) {
            return (size_t)(put - out);
        }
        size_t end = changes_end(from, to, first);
        size_t skip = first - at, bytes = end - first;
        size_t need = number_size(skip) + number_size(bytes) + bytes;
        if (need > room - (size_t)(put - out)) {
            return XBZRLE_NO_GAIN;
        }
        put = put_number(put_number(put, skip), bytes);
        memcpy(put, to + first, bytes);
        put += bytes;
        at = end;
    }
}

bool xbzrle_check(const uint8_t *delta, size_t length)
{
    const uint8_t *at = delta, *end = delta + length;
    size_t place = 0;
    while (at < end) {
        bool first = at == delta;
        size_t skip, bytes;
        if (!take_number(&at, end, &skip) || !take_number(&at, end, &bytes)) {
            return false;
        }
        if ((!skip && !first) || !bytes || skip > RAM_PAGE_SIZE - place ||
            bytes > RAM_PAGE_SIZE - place - skip || bytes > (size_t)(end - at)) {
            return false;
        }
        place += skip + bytes;
        at += bytes;
    }
    return true;
}

void xbzrle_apply(const uint8_t *delta, size_t length, uint8_t *page)
{
    const uint8_t *at = delta, *end = delta + length;
    size_t skip, bytes;
    while (take_number(&at, end, &skip) && take_number(&at, end, &bytes)) {
        page += skip;
        memcpy(page, at, bytes);
        page += bytes;
        at += bytes;
    }
}
