/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which pages of a block exist.  Reading a hole of shared memory through a mapping allocates it, so
 * holes are never read: SEEK_DATA and SEEK_HOLE (lseek(2)) list what exists.  Swapped-out pages
 * count as existing.  On file systems without holes (hugetlbfs) everything exists.
 *
 * SEEK_HOLE walks all of an extent, 8 ns a page, so a cursor remembers the last answer and a sweep
 * through a block in ascending order asks once per extent.
 */
#ifndef FERRY_RAM_EXTENT_H
#define FERRY_RAM_EXTENT_H

#include "ram/block.h"

/*
 * Zero-initialised before a sweep.  Pages of [known_from, data_from) are holes and those of
 * [data_from, data_end) exist, as of when they were asked for.
 */
struct extent_cursor {
    uint64_t known_from, data_from, data_end;
};

/*
 * The first stretch of existing pages in [from, end): sets *first and *last (exclusive, <= end) and
 * returns true, or false when all of it is a hole.
 */
bool extent_next(const struct ram_block *b, struct extent_cursor *cursor, uint64_t from,
                 uint64_t end, uint64_t *first, uint64_t *last);

/*
 * Forgets holes but not data.  To be called once the writes to the pages that follow are tracked
 * anew: a hole seen before that may have been written since, without anybody telling.
 */
void extent_forget_holes(struct extent_cursor *cursor);

/* Just SEEK_DATA, which is cheap: the first page of [from, end] that exists, or end. */
uint64_t extent_skip_hole(const struct ram_block *b, uint64_t from, uint64_t end);

#endif
