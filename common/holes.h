/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What of a file exists: SEEK_DATA and SEEK_HOLE (lseek(2)).  Both move the file position, so the
 * descriptor must be of a file description of one's own.
 *
 * Where holes can't be told (block devices, hugetlbfs) everything exists.
 */
#ifndef FERRY_COMMON_HOLES_H
#define FERRY_COMMON_HOLES_H

#include <stdbool.h>
#include <stdint.h>

/* Just SEEK_DATA, which is cheap: the first byte of [from, end) that exists, or end. */
uint64_t holes_skip(int fd, uint64_t from, uint64_t end);

/*
 * The first stretch of [from, end) that exists, to the byte: false when all of it is a hole.
 * SEEK_HOLE walks all of a stretch: 8 ns a page in shared memory.
 */
bool holes_next_data(int fd, uint64_t from, uint64_t end, uint64_t *first, uint64_t *last);

#endif
