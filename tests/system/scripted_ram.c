/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The RAM and the disks of scripted-vmm.  RAM is written and read with pwrite and pread, not
 * through a mapping: reading a hole through a mapping would allocate it, and what is allocated is
 * part of what tests look at; and a block that a test shrinks must not kill the process.
 */
#include "scripted_ram.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK     65536u
#define MIB       (1ull << 20)
#define MIB_MAX   (1ull << 20)
#define FNV_BASIS 0xcbf29ce484222325u
#define FNV_PRIME 0x100000001b3u

static uint64_t next_gpa(const struct ram *ram)
{
    const struct ram_block *last = ram->count > 0 ? &ram->blocks[ram->count - 1] : NULL;

    return last != NULL ? last->gpa + last->length : 0;
}

/* Puts a file, which may be one that could not be opened, into the next block. */
static int add_file(struct ram *ram, int fd, uint64_t mib)
{
    struct ram_block *block = &ram->blocks[ram->count];

    if (fd < 0) {
        return -errno;
    }
    ram->count++;
    block->fd = fd;
    block->base_fd = -1;
    block->length = mib * MIB;
    return ftruncate(fd, (off_t)block->length) == 0 ? 0 : -errno;
}

int ram_add(struct ram *ram, const char *description)
{
    struct ram_block *block = &ram->blocks[ram->count];
    unsigned long long mib = 0;
    unsigned long long gpa = next_gpa(ram);

    if (ram->count == RAM_BLOCKS_MAX) {
        return -E2BIG;
    }
    int fields = sscanf(description, "%64[^:]:%llu:%lli", block->name, &mib, (long long *)&gpa);
    if (fields < 2 || mib == 0 || mib > MIB_MAX) {
        return -EINVAL;
    }
    block->gpa = gpa;
    return add_file(ram, memfd_create(block->name, MFD_CLOEXEC), mib);
}

int ram_add_disk(struct ram *disks, const char *description)
{
    struct ram_block *disk = &disks->blocks[disks->count];
    unsigned long long mib = 0;
    char file[512];
    char base[512];

    if (disks->count == RAM_BLOCKS_MAX) {
        return -E2BIG;
    }
    int fields =
        sscanf(description, "%64[^:]:%llu:%511[^:]:%511[^:]", disk->name, &mib, file, base);
    if (fields < 2 || mib == 0 || mib > MIB_MAX) {
        return -EINVAL;
    }
    int rc = add_file(disks,
                      fields > 2 ? open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600)
                                 : memfd_create(disk->name, MFD_CLOEXEC),
                      mib);
    if (rc == 0 && fields > 3) {
        disk->base_fd = open(base, O_RDONLY | O_CLOEXEC);
        rc = disk->base_fd < 0 ? -errno : 0;
    }
    return rc;
}

void ram_free(struct ram *ram)
{
    for (unsigned i = 0; i < ram->count; i++) {
        close(ram->blocks[i].fd);
        if (ram->blocks[i].base_fd >= 0) {
            close(ram->blocks[i].base_fd);
        }
    }
}

struct ram_block *ram_find(struct ram *ram, const char *name)
{
    for (unsigned i = 0; i < ram->count; i++) {
        if (strcmp(ram->blocks[i].name, name) == 0) {
            return &ram->blocks[i];
        }
    }
    return NULL;
}

static void tell(struct ram *ram, const struct ram_block *block, uint64_t offset, uint64_t length)
{
    if (ram->ferry != NULL && ram->disks) {
        ferry_mark_disk_dirty(ram->ferry, (unsigned)(block - ram->blocks), offset, length);
    } else if (ram->ferry != NULL) {
        ferry_mark_dirty(ram->ferry, block->gpa + offset, length);
    }
}

static bool within(const struct ram_block *block, uint64_t offset, uint64_t length)
{
    return length > 0 && offset <= block->length && length <= block->length - offset;
}

static int write_all(int fd, const void *data, size_t length, uint64_t offset)
{
    for (size_t done = 0; done < length;) {
        ssize_t put = pwrite(fd, (const char *)data + done, length - done, (off_t)(offset + done));
        if (put < 0 && errno != EINTR) {
            return -errno;
        }
        done += put > 0 ? (size_t)put : 0;
    }
    return 0;
}

static void random_words(uint64_t *words, size_t count, uint64_t *state)
{
    for (size_t i = 0; i < count; i++) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        words[i] = *state;
    }
}

int ram_fill_random(struct ram *ram, struct ram_block *block, uint64_t offset, uint64_t length,
                    uint64_t seed)
{
    uint64_t words[CHUNK / sizeof(uint64_t)];
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    int rc = within(block, offset, length) ? 0 : -ERANGE;

    for (uint64_t done = 0; rc == 0 && done < length; done += CHUNK) {
        uint64_t part = length - done < CHUNK ? length - done : CHUNK;
        random_words(words, CHUNK / sizeof(*words), &state);
        rc = write_all(block->fd, words, part, offset + done);
    }
    if (rc == 0) {
        tell(ram, block, offset, length);
    }
    return rc;
}

int ram_fill_byte(struct ram *ram, struct ram_block *block, uint64_t offset, uint64_t length,
                  uint8_t byte)
{
    uint8_t bytes[CHUNK];
    int rc = within(block, offset, length) ? 0 : -ERANGE;

    memset(bytes, byte, sizeof(bytes));
    for (uint64_t done = 0; rc == 0 && done < length; done += CHUNK) {
        uint64_t part = length - done < CHUNK ? length - done : CHUNK;
        rc = write_all(block->fd, bytes, part, offset + done);
    }
    if (rc == 0) {
        tell(ram, block, offset, length);
    }
    return rc;
}

int ram_punch(struct ram *ram, struct ram_block *block, uint64_t offset, uint64_t length,
              bool quietly)
{
    if (!within(block, offset, length)) {
        return -ERANGE;
    }
    if (fallocate(block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                  (off_t)length) != 0) {
        return -errno;
    }
    if (!quietly) {
        tell(ram, block, offset, length);
    }
    return 0;
}

int ram_shrink(struct ram_block *block, uint64_t length)
{
    if (length >= block->length) {
        return -ERANGE;
    }
    return ftruncate(block->fd, (off_t)length) == 0 ? 0 : -errno;
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * FNV_PRIME;
    return hash ^ hash >> 29;
}

/* Zeros count by their number only, so that a hole and written zeros are the same. */
static uint64_t mix_page(uint64_t hash, const uint64_t *words, uint64_t *zero_pages)
{
    static const uint64_t zeros[RAM_PAGE / sizeof(uint64_t)];

    if (memcmp(words, zeros, RAM_PAGE) == 0) {
        (*zero_pages)++;
        return hash;
    }
    hash = mix(hash, *zero_pages);
    *zero_pages = 0;
    for (size_t i = 0; i < RAM_PAGE / sizeof(*words); i++) {
        hash = mix(hash, words[i]);
    }
    return hash;
}

static uint64_t data_from(int fd, uint64_t length, uint64_t offset)
{
    off_t at = lseek(fd, (off_t)offset, SEEK_DATA);

    return at < 0 || (uint64_t)at >= length ? length : (uint64_t)at / RAM_PAGE * RAM_PAGE;
}

/* Reads one page; what lies behind the end of a shrunk block is zeros. */
static int read_page(const struct ram_block *block, uint64_t offset, uint64_t *words)
{
    bool own = block->base_fd < 0 || data_from(block->fd, block->length, offset) == offset;

    memset(words, 0, RAM_PAGE);
    ssize_t got = pread(own ? block->fd : block->base_fd, words, RAM_PAGE, (off_t)offset);
    return got < 0 ? -errno : 0;
}

/* Where data begins at or after `offset`, at a page; the block's length when there is none. */
static uint64_t next_data(const struct ram_block *block, uint64_t offset)
{
    uint64_t own = data_from(block->fd, block->length, offset);

    if (block->base_fd >= 0) {
        uint64_t base = data_from(block->base_fd, block->length, offset);
        return base < own ? base : own;
    }
    return own;
}

int ram_hash(const struct ram_block *block, uint64_t *hash)
{
    uint64_t words[RAM_PAGE / sizeof(uint64_t)];
    uint64_t zero_pages = 0;

    *hash = mix(FNV_BASIS, block->length);
    for (uint64_t offset = 0; offset < block->length; offset += RAM_PAGE) {
        uint64_t data = next_data(block, offset);
        zero_pages += (data - offset) / RAM_PAGE;
        offset = data;
        if (offset == block->length) {
            break;
        }
        int rc = read_page(block, offset, words);
        if (rc != 0) {
            return rc;
        }
        *hash = mix_page(*hash, words, &zero_pages);
    }
    *hash = mix(*hash, zero_pages);
    return 0;
}

int ram_allocated(const struct ram_block *block, uint64_t *bytes)
{
    struct stat info;

    if (fstat(block->fd, &info) != 0) {
        return -errno;
    }
    *bytes = (uint64_t)info.st_blocks * 512;
    return 0;
}

uint64_t ram_pages(const struct ram *ram)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < ram->count; i++) {
        pages += ram->blocks[i].length / RAM_PAGE;
    }
    return pages;
}

int ram_count_page(struct ram *ram, uint64_t page, uint64_t count, uint64_t bytes)
{
    uint64_t words[RAM_PAGE / sizeof(uint64_t)] = {count};
    uint64_t state = count * 0x9e3779b97f4a7c15u + 1;

    random_words(words + 1, bytes / sizeof(*words) - 1, &state);
    for (unsigned i = 0; i < ram->count; i++) {
        struct ram_block *block = &ram->blocks[i];
        uint64_t pages = block->length / RAM_PAGE;
        if (page < pages) {
            int rc = write_all(block->fd, words, bytes, page * RAM_PAGE);
            tell(ram, block, page * RAM_PAGE, bytes);
            return rc;
        }
        page -= pages;
    }
    return -ERANGE;
}
