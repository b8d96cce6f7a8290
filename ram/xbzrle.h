/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A page as what has changed since its last version: runs of equal bytes, of which only the length
 * is told, and runs of other bytes, which are told.
 *
 * A delta is a sequence of {equal bytes to skip, bytes that follow, these bytes}, both numbers
 * ULEB128 of one or two bytes, never longer than needed.  Only the first skip may be 0, what
 * follows a skip never is, and what is equal up to the page's end is left out.  So a delta of no
 * bytes changes nothing.
 *
 * Pure functions, for any thread; no input makes them leave the page or the delta.
 */
#ifndef FERRY_RAM_XBZRLE_H
#define FERRY_RAM_XBZRLE_H

#include "ram/block.h"

#include <stdbool.h>
#include <stddef.h>

/* xbzrle_encode: the delta would take more than the room that it was given. */
#define XBZRLE_NO_GAIN SIZE_MAX

/*
 * Writes to `out` (at most `room` bytes) the delta that makes `to` of `from`, pages both.  Returns
 * its length, 0 when they are equal, or XBZRLE_NO_GAIN (then `out` holds anything).
 */
size_t xbzrle_encode(const uint8_t *from, const uint8_t *to, uint8_t *out, size_t room);

/* Whether `delta` is one, whole, that stays within a page. */
bool xbzrle_check(const uint8_t *delta, size_t length);

/* Changes a page by a delta that xbzrle_check has passed (or xbzrle_encode has made). */
void xbzrle_apply(const uint8_t *delta, size_t length, uint8_t *page);

#endif
