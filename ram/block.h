/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest's RAM as a job sees it: blocks of shared memory, mapped, each with a dirty bitmap.
 *
 * Owned by one job's thread.  The memory belongs to a VMM that nobody trusts: it may write at any
 * moment, punch holes or cut its file short.  Mapped bytes are therefore only touched under
 * fault_guarded (fault.h) or by system calls, which answer EFAULT instead of killing us.
 */
#ifndef FERRY_RAM_BLOCK_H
#define FERRY_RAM_BLOCK_H

#include "common/error.h"
#include "common/wait.h"

#include <stdbool.h>
#include <stdint.h>

#define RAM_PAGE_SIZE  4096u
#define RAM_PAGE_SHIFT 12
#define RAM_NAME_MAX   64u
#define RAM_BLOCKS_MAX 64u
/* No guest has more: keeps every sum of lengths far from overflowing. */
#define RAM_BYTES_MAX (1ULL << 46)

struct ram_block {
    char name[RAM_NAME_MAX + 1];
    int fd;          /* its own file description: its position is nobody else's */
    uint64_t offset; /* in the file, bytes */
    uint64_t length; /* bytes */
    uint64_t gpa;
    uint64_t pages;
    uint8_t *map;    /* length bytes */
    uint64_t *dirty; /* source: pages still to send */
    /* Destination: pages that hold what was received.  Source: pages that were placed, if any. */
    uint64_t *populated;
    uint64_t *existing; /* Source: pages that existed when they were looked at last */
    uint64_t *mapped;   /* Destination: pages that `map` holds without a fault */
    bool no_pwrite;     /* hugetlbfs: fill it through the mapping */
};

struct ram {
    struct ram_block blocks[RAM_BLOCKS_MAX];
    unsigned count;
    uint64_t bytes; /* of all blocks */
    bool placing;   /* destination: the source places pages itself (record_sink) */
};

struct ram *ram_new(void);
void ram_free(struct ram *ram); /* NULL is allowed */

/*
 * Adds a block, reopening `fd` (which stays the caller's).  Errors: "ram-layout" (limits, ranges),
 * "ram-unusable" (not shared memory, too short, can't be mapped).
 */
bool ram_add(struct ram *ram, const char *name, int fd, uint64_t offset, uint64_t length,
             uint64_t gpa, struct error **errp);

/* Fails with "ram-vanished" when a block's file is no longer as long as the block. */
bool ram_check_sizes(const struct ram *ram, struct error **errp);

/* Pages set in all dirty bitmaps. */
uint64_t ram_count_dirty(const struct ram *ram);

/* Frees everything in every block: a fresh, empty guest.  Only what holds data is touched. */
bool ram_wipe(struct ram *ram, const struct wait *w, struct error **errp);

/* The block's file was cut short while it was read or written. */
void ram_vanished(const struct ram_block *b, struct error **errp);

static inline uint8_t *ram_page(const struct ram_block *b, uint64_t page)
{
    return b->map + (page << RAM_PAGE_SHIFT);
}

#endif
