/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The dirty map: memory shared by ferryd and a VMM while a migration runs.
 *
 * ferryd makes it (a memfd sealed against resizing, so that neither end can take it away from under
 * the other) and passes it with LOG_START.  For each RAM block, in the order of attachment, it
 * holds two bitmaps of one bit per page:
 *   log    what KVM's dirty log said at the last LOG_SYNC; written by the VMM's libferry
 *   marks  pages told by ferry_mark_dirty since; set atomically by the VMM, taken by ferryd
 * Behind the blocks come the disks, of one bit per 64 KiB; their logs stay empty (and cost nothing:
 * the memory of a memfd is there once it is written).  Below, a disk's chunks are pages, and a disk
 * is a block.
 *
 * A hostile VMM can write nonsense into it: that only makes its own migration send other pages.
 */
#ifndef FERRY_GUEST_DIRTYMAP_H
#define FERRY_GUEST_DIRTYMAP_H

#include <stddef.h>
#include <stdint.h>

struct dirtymap {
    uint8_t *base; /* NULL: not mapped */
    size_t size;
};

/* Makes a map for blocks of `pages[count]` pages: the memfd, or -errno. */
int dirtymap_create(const uint64_t *pages, unsigned count);

/* Maps `fd`, whose size must be what the blocks need; 0 or -errno.  The fd stays the caller's. */
int dirtymap_map(struct dirtymap *map, int fd, const uint64_t *pages, unsigned count);
void dirtymap_unmap(struct dirtymap *map);

/* The bitmaps of block `index`, given all blocks' sizes. */
uint64_t *dirtymap_log(const struct dirtymap *map, const uint64_t *pages, unsigned index);
_Atomic uint64_t *dirtymap_marks(const struct dirtymap *map, const uint64_t *pages, unsigned index);

#endif
