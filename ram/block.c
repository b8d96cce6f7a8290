/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/block.h"

#include "common/bits.h"
#include "common/cleanup.h"
#include "ram/extent.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

/* Pages freed in one go, tens of milliseconds: a cancel is looked for in between. */
#define WIPE_PAGES (1ULL << 16)

struct ram *ram_new(void)
{
    struct ram *ram = calloc(1, sizeof(*ram));
    if (!ram) {
        abort();
    }
    return ram;
}

static void block_close(struct ram_block *b)
{
    if (b->map) {
        munmap(b->map, b->length);
    }
    free(b->dirty);
    free(b->populated);
    free(b->existing);
    free(b->mapped);
    close(b->fd);
}

void ram_free(struct ram *ram)
{
    if (!ram) {
        return;
    }
    for (unsigned i = 0; i < ram->count; i++) {
        block_close(&ram->blocks[i]);
    }
    free(ram);
}

static bool check_range(const struct ram *ram, const char *name, uint64_t offset, uint64_t length,
                        struct error **errp)
{
    if (ram->count == RAM_BLOCKS_MAX) {
        error_set(errp, "ram-layout", "More than %u RAM blocks", RAM_BLOCKS_MAX);
        return false;
    }
    if (!length || (offset | length) % RAM_PAGE_SIZE) {
        error_set(errp, "ram-layout", "RAM block '%s' is empty or not aligned to %u bytes", name,
                  RAM_PAGE_SIZE);
        return false;
    }
    if (length > RAM_BYTES_MAX - ram->bytes || offset > RAM_BYTES_MAX) {
        error_set(errp, "ram-layout", "RAM block '%s' takes the guest past %llu bytes of RAM", name,
                  RAM_BYTES_MAX);
        return false;
    }
    return true;
}

/* A file description of our own: SEEK_DATA would move the VMM's file position otherwise. */
static int reopen(int fd)
{
    char path[40];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_RDWR | O_CLOEXEC);
}

static bool check_file(struct ram_block *b, struct error **errp)
{
    struct stat st;
    struct statfs fs;
    if (fstat(b->fd, &st) < 0 || fstatfs(b->fd, &fs) < 0 || !S_ISREG(st.st_mode)) {
        error_set(errp, "ram-unusable", "RAM block '%s' is not a shared memory file", b->name);
        return false;
    }
    if ((uint64_t)st.st_size < b->offset + b->length) {
        error_set(errp, "ram-unusable",
                  "RAM block '%s' ends at byte %" PRIu64 " of a file of %jd bytes", b->name,
                  b->offset + b->length, (intmax_t)st.st_size);
        return false;
    }
    b->no_pwrite = fs.f_type == HUGETLBFS_MAGIC;
    return true;
}

static bool map_block(struct ram_block *b, struct error **errp)
{
    void *map = mmap(NULL, b->length, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, (off_t)b->offset);
    if (map == MAP_FAILED) {
        error_set(errp, "ram-unusable", "RAM block '%s' can't be mapped: %s", b->name,
                  strerror(errno));
        return false;
    }
    madvise(map, b->length, MADV_DONTFORK); /* a helper that outlives the job is not to keep it */
    madvise(map, b->length, MADV_DONTDUMP); /* the guest's, and writing it would delay its rescue */
    b->map = map;
    return true;
}

bool ram_add(struct ram *ram, const char *name, int fd, uint64_t offset, uint64_t length,
             uint64_t gpa, struct error **errp)
{
    if (!check_range(ram, name, offset, length, errp)) {
        return false;
    }
    struct ram_block b = {
        .fd = reopen(fd),
        .offset = offset,
        .length = length,
        .gpa = gpa,
        .pages = length >> RAM_PAGE_SHIFT,
    };
    snprintf(b.name, sizeof(b.name), "%s", name);
    if (b.fd < 0) {
        error_set(errp, "ram-unusable", "RAM block '%s' can't be opened for writing: %s", name,
                  strerror(errno));
        return false;
    }
    size_t bytes = bits_words(b.pages) * sizeof(uint64_t);
    b.dirty = calloc(1, bytes);
    b.populated = calloc(1, bytes);
    b.existing = calloc(1, bytes);
    b.mapped = calloc(1, bytes);
    if (!b.dirty || !b.populated || !b.existing || !b.mapped) {
        error_set(errp, "no-memory", "No memory for the bitmaps of RAM block '%s'", name);
        block_close(&b);
        return false;
    }
    if (!check_file(&b, errp) || !map_block(&b, errp)) {
        block_close(&b);
        return false;
    }
    ram->blocks[ram->count++] = b;
    ram->bytes += length;
    return true;
}

void ram_vanished(const struct ram_block *b, struct error **errp)
{
    error_set(errp, "ram-vanished",
              "RAM block '%s': its file became shorter than the block's %" PRIu64 " bytes", b->name,
              b->length);
}

bool ram_check_sizes(const struct ram *ram, struct error **errp)
{
    for (unsigned i = 0; i < ram->count; i++) {
        const struct ram_block *b = &ram->blocks[i];
        struct stat st;
        if (fstat(b->fd, &st) < 0 || (uint64_t)st.st_size < b->offset + b->length) {
            ram_vanished(b, errp);
            return false;
        }
    }
    return true;
}

uint64_t ram_count_dirty(const struct ram *ram)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < ram->count; i++) {
        count += bits_count(ram->blocks[i].dirty, 0, ram->blocks[i].pages);
    }
    return count;
}

static bool wipe_piece(const struct ram_block *b, uint64_t first, uint64_t pages,
                       struct error **errp)
{
    if (fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)(b->offset + (first << RAM_PAGE_SHIFT)),
                  (off_t)(pages << RAM_PAGE_SHIFT)) < 0) {
        error_set(errp, "ram-unusable", "RAM block '%s' can't be emptied: %s", b->name,
                  strerror(errno));
        return false;
    }
    return true;
}

static bool wipe_block(const struct ram_block *b, const struct wait *w, struct error **errp)
{
    struct extent_cursor cursor = {0};
    uint64_t at = 0, from, stop;
    while (extent_next(b, &cursor, at, b->pages, &from, &stop)) {
        at = stop - from < WIPE_PAGES ? stop : from + WIPE_PAGES;
        if (wait_cancelled(w, errp) || !wipe_piece(b, from, at - from, errp)) {
            return false;
        }
    }
    return true;
}

bool ram_wipe(struct ram *ram, const struct wait *w, struct error **errp)
{
    for (unsigned i = 0; i < ram->count; i++) {
        if (!wipe_block(&ram->blocks[i], w, errp)) {
            return false;
        }
    }
    return true;
}
