/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/returned.h"

#include "common/bits.h"
#include "ram/zero.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* By system calls: a read through the mapping would make the page exist again. */
static bool reads_as_zeroes(const struct ram_block *b, uint64_t first, uint64_t end)
{
    uint8_t page[RAM_PAGE_SIZE];
    bool zeroes = true;
    for (uint64_t at = first; zeroes && at < end; at++) {
        off_t offset = (off_t)(b->offset + (at << RAM_PAGE_SHIFT));
        zeroes =
            pread(b->fd, page, sizeof(page), offset) == (ssize_t)sizeof(page) && page_is_zero(page);
    }
    return zeroes;
}

/* A page that is punched is unmapped in every process, which mincore(2) shows. */
void ram_find_unmapped(const struct ram_block *b, uint64_t at, uint64_t end, uint64_t *first,
                       uint64_t *last)
{
    unsigned char held[RAM_LOOK_PAGES];
    uint64_t pages = end - at < RAM_LOOK_PAGES ? end - at : RAM_LOOK_PAGES, from = 0, stop;
    *first = *last = at + pages;
    if (mincore(ram_page(b, at), pages << RAM_PAGE_SHIFT, held) < 0) {
        return;
    }
    while (from < pages && held[from] & 1) {
        from++;
    }
    for (stop = from; stop < pages && !(held[stop] & 1);) {
        stop++;
    }
    *last = at + stop;
    *first = reads_as_zeroes(b, at + from, at + stop) ? at + from : *last;
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
