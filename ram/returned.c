/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/returned.h"

#include "common/bits.h"

#include <sys/stat.h>

/* Bytes of a unit of st_blocks (stat(2)). */
#define STAT_BLOCK 512u

/* What blocks of one file have together. */
struct file {
    dev_t dev;
    ino_t inode;
    uint64_t allocated, expected; /* pages */
};

static struct file *find_file(struct file files[RAM_BLOCKS_MAX], unsigned *count,
                              const struct stat *st)
{
    for (unsigned i = 0; i < *count; i++) {
        if (files[i].dev == st->st_dev && files[i].inode == st->st_ino) {
            return &files[i];
        }
    }
    struct file *file = &files[(*count)++];
    *file = (struct file){
        .dev = st->st_dev,
        .inode = st->st_ino,
        .allocated = (uint64_t)st->st_blocks * STAT_BLOCK >> RAM_PAGE_SHIFT,
    };
    return file;
}

/* What is dirty was written, and so exists. */
static uint64_t expected_pages(const struct ram_block *b)
{
    return bits_count_either(b->existing, b->dirty, b->pages);
}

bool ram_has_returned(const struct ram *ram)
{
    struct file files[RAM_BLOCKS_MAX];
    unsigned count = 0;
    for (unsigned i = 0; i < ram->count; i++) {
        struct stat st;
        if (fstat(ram->blocks[i].fd, &st) == 0) {
            find_file(files, &count, &st)->expected += expected_pages(&ram->blocks[i]);
        }
    }
    bool returned = false;
    for (unsigned i = 0; i < count; i++) {
        returned = returned || files[i].allocated < files[i].expected;
    }
    return returned;
}

bool ram_next_returned(const struct ram_block *b, uint64_t *at, uint64_t end, uint64_t *first,
                       uint64_t *last)
{
    while ((*at = bits_next_set(b->existing, *at, end)) < end) {
        uint64_t stop = bits_next_clear(b->existing, *at, end);
        uint64_t clean = bits_next_clear(b->dirty, *at, stop);
        *first = clean;
        *last = bits_next_set(b->dirty, clean, stop);
        *at = *last;
        if (*first < *last) {
            return true;
        }
    }
    return false;
}
