/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pages that a guest has returned to its host while it was sent: by a balloon, by free page
 * reporting, by a virtio-mem that shrinks.  Its VMM punches holes for them, which no tracker
 * reports.  The destination has to free them too, or the guest arrives with all that it gave back.
 *
 * Which pages existed when they were looked at last is remembered (ram_block.existing).  Listing
 * the holes takes 8 ns a page, too long for the downtime of a large guest; so they are listed only
 * where the kernel's count of allocated pages is smaller than that of those that ought to exist.
 */
#ifndef FERRY_RAM_RETURNED_H
#define FERRY_RAM_RETURNED_H

#include "ram/block.h"

/*
 * Whether pages were returned, by the count: that of a file in which pages came to exist unseen (a
 * hole was read, the file was preallocated with fallocate(2)) may hide as many.
 */
bool ram_has_returned(const struct ram *ram);

/*
 * The same question for a file system that lists no holes (hugetlbfs), of at most RAM_LOOK_PAGES
 * pages from `at` on that were read through the mapping before: those that it holds no longer, and
 * that read as zeroes, are holes.  Sets *first and *last (exclusive, <= end) to the first run of
 * them, or both to where the search continues.
 */
#define RAM_LOOK_PAGES 4096u
void ram_find_unmapped(const struct ram_block *b, uint64_t at, uint64_t end, uint64_t *first,
                       uint64_t *last);

/*
 * The next run in [*at, end) of pages that existed and are not dirty: sets *first and *last
 * (exclusive), moves *at past it, and returns true; false when there is none.
 */
bool ram_next_returned(const struct ram_block *b, uint64_t *at, uint64_t end, uint64_t *first,
                       uint64_t *last);

#endif
