/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_TESTS_SCRIPTED_RAM_H
#define FERRY_TESTS_SCRIPTED_RAM_H

#include <libferry.h>
#include <stdbool.h>
#include <stdint.h>

#define RAM_BLOCKS_MAX 16
#define RAM_PAGE       4096u

/*
 * Memory without a KVM, and disks: whatever writes them here is told to libferry, unless a test
 * wants otherwise.
 */
struct ram_block {
    char name[FERRY_NAME_MAX + 1];
    int fd;
    int base_fd; /* of a disk that is an overlay; else -1 */
    uint64_t gpa;
    uint64_t length;
};

struct ram {
    struct ram_block blocks[RAM_BLOCKS_MAX];
    unsigned count;
    struct ferry *ferry; /* NULL: no writes are told */
    bool disks;          /* the blocks are disks, and numbered */
};

/* Takes "NAME:MIB" or "NAME:MIB:GPA"; without a GPA the block follows the last one. */
int ram_add(struct ram *ram, const char *description);

/* Takes "NAME:MIB", "NAME:MIB:FILE" or, for an overlay, "NAME:MIB:FILE:BASE"; makes the file. */
int ram_add_disk(struct ram *disks, const char *description);
void ram_free(struct ram *ram);

struct ram_block *ram_find(struct ram *ram, const char *name);

/* All return 0 or a negative errno; offsets and lengths are in bytes. */
int ram_fill_random(struct ram *ram, struct ram_block *block, uint64_t offset, uint64_t length,
                    uint64_t seed);
int ram_fill_byte(struct ram *ram, struct ram_block *block, uint64_t offset, uint64_t length,
                  uint8_t byte);
int ram_punch(struct ram *ram, struct ram_block *block, uint64_t offset, uint64_t length,
              bool quietly);
int ram_shrink(struct ram_block *block, uint64_t length);

/* Of the content, a hole being zeros or the base; allocates nothing. */
int ram_hash(const struct ram_block *block, uint64_t *hash);
int ram_allocated(const struct ram_block *block, uint64_t *bytes);

/*
 * Puts a count into the first word of a page, and into the rest of its first `bytes` (a multiple of
 * 8, up to a page) what is random and other for each count.  The pages of all blocks are numbered
 * in order.
 */
int ram_count_page(struct ram *ram, uint64_t page, uint64_t count, uint64_t bytes);
uint64_t ram_pages(const struct ram *ram);

#endif
