/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/dirtymap.h"

#include "common/bits.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIRTYMAP_ALIGN 4096u
#define DIRTYMAP_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

/* Bytes of one bitmap, padded to a page so that each begins on one. */
static size_t bitmap_size(uint64_t pages)
{
    size_t bytes = bits_words(pages) * sizeof(uint64_t);
    return (bytes + DIRTYMAP_ALIGN - 1) / DIRTYMAP_ALIGN * DIRTYMAP_ALIGN;
}

static size_t offset_of(const uint64_t *pages, unsigned index)
{
    size_t offset = 0;
    for (unsigned i = 0; i < index; i++) {
        offset += 2 * bitmap_size(pages[i]);
    }
    return offset;
}

int dirtymap_create(const uint64_t *pages, unsigned count)
{
    int fd = memfd_create("ferry-dirtymap", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return -errno;
    }
    if (ftruncate(fd, (off_t)offset_of(pages, count)) < 0 ||
        fcntl(fd, F_ADD_SEALS, DIRTYMAP_SEALS) < 0) {
        int err = errno;
        close(fd);
        return -err;
    }
    return fd;
}

int dirtymap_map(struct dirtymap *map, int fd, const uint64_t *pages, unsigned count)
{
    size_t size = offset_of(pages, count);
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & DIRTYMAP_SEALS) != DIRTYMAP_SEALS || fstat(fd, &st) < 0 ||
        (uint64_t)st.st_size != size) {
        return -EINVAL;
    }
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        return -errno;
    }
    *map = (struct dirtymap){.base = base, .size = size};
    return 0;
}

void dirtymap_unmap(struct dirtymap *map)
{
    if (map->base) {
        munmap(map->base, map->size);
        *map = (struct dirtymap){0};
    }
}

uint64_t *dirtymap_log(const struct dirtymap *map, const uint64_t *pages, unsigned index)
{
    return (uint64_t *)(void *)(map->base + offset_of(pages, index));
}

_Atomic uint64_t *dirtymap_marks(const struct dirtymap *map, const uint64_t *pages, unsigned index)
{
    size_t offset = offset_of(pages, index) + bitmap_size(pages[index]);
    return (_Atomic uint64_t *)(void *)(map->base + offset);
}
