/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk that is driven through ports.  A command is done when the access that gave it returns: on
 * the vCPU's thread, so a vCPU that has come to the gate has nothing under way.
 *
 * What live migration asks of a device like this one are two calls, each after the bytes are where
 * they belong: ferry_mark_dirty for guest RAM that the device wrote, which KVM's dirty log does not
 * see, and ferry_mark_disk_dirty for what it wrote to the disk.
 *
 * With --disk-base the disk is an overlay, in pieces of 4096 bytes: a piece that the file system
 * has not allocated is read from the base, and copied from there before a part of it is written.
 */
#include "disk.h"

#include "guest_abi.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR FERRY_SECTOR
#define PIECE  4096u

/* ---- files ---- */

static int read_all(int fd, uint8_t *into, size_t length, uint64_t offset)
{
    for (size_t done = 0; done < length;) {
        ssize_t got = pread(fd, into + done, length - done, (off_t)(offset + done));
        if (got == 0) {
            return -EIO;
        }
        if (got < 0 && errno != EINTR) {
            return -errno;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

static int write_all(int fd, const uint8_t *from, size_t length, uint64_t offset)
{
    for (size_t done = 0; done < length;) {
        ssize_t put = pwrite(fd, from + done, length - done, (off_t)(offset + done));
        if (put < 0 && errno != EINTR) {
            return -errno;
        }
        done += put > 0 ? (size_t)put : 0;
    }
    return 0;
}

/* Behind the base's end there are zeroes. */
static int read_base(const struct disk *disk, uint8_t *into, size_t length, uint64_t offset)
{
    uint64_t room = offset < disk->base_length ? disk->base_length - offset : 0;
    size_t have = room < length ? (size_t)room : length;

    memset(into + have, 0, length - have);
    return read_all(disk->base_fd, into, have, offset);
}

/* Whether the piece that holds `offset` is the overlay's own. */
static bool is_own(const struct disk *disk, uint64_t offset)
{
    uint64_t start = offset / PIECE * PIECE;
    off_t data = lseek(disk->fd, (off_t)start, SEEK_DATA);

    return disk->base_fd < 0 || (data >= 0 && (uint64_t)data < start + PIECE);
}

/* Makes the piece that holds `offset` the overlay's own. */
static int copy_up(const struct disk *disk, uint64_t offset)
{
    uint64_t start = offset / PIECE * PIECE;
    uint64_t left = disk->state.sectors * SECTOR - start;
    size_t length = left < PIECE ? (size_t)left : PIECE;
    uint8_t piece[PIECE];

    if (is_own(disk, offset)) {
        return 0;
    }
    int rc = read_base(disk, piece, length, start);
    return rc == 0 ? write_all(disk->fd, piece, length, start) : rc;
}

/* A range, piece by piece: each read from where it is, each the overlay's own before it is written.
 */
static int transfer(const struct disk *disk, bool write, uint8_t *ram, size_t length,
                    uint64_t offset)
{
    int rc = 0;

    for (size_t done = 0; done < length && rc == 0;) {
        uint64_t at = offset + done;
        size_t part = PIECE - at % PIECE;
        part = part < length - done ? part : length - done;
        if (write) {
            rc = part < PIECE ? copy_up(disk, at) : 0;
            rc = rc == 0 ? write_all(disk->fd, ram + done, part, at) : rc;
        } else {
            rc = is_own(disk, at) ? read_all(disk->fd, ram + done, part, at)
                                  : read_base(disk, ram + done, part, at);
        }
        done += part;
    }
    return rc;
}

/* ---- the device ---- */

/* Where `length` bytes of guest RAM are; NULL: not all of them are in one block. */
static uint8_t *find_ram(const struct memory *memory, uint64_t gpa, uint64_t length)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct memory_block *block = &memory->blocks[i];
        if (gpa >= block->gpa && gpa - block->gpa < block->length &&
            length <= block->length - (gpa - block->gpa)) {
            return block->hva + (gpa - block->gpa);
        }
    }
    return NULL;
}

static uint32_t perform(struct disk *disk, uint32_t command)
{
    const struct disk_state *s = &disk->state;
    bool write = command == GUEST_DISK_WRITE;
    uint64_t offset = (uint64_t)s->sector * SECTOR;
    uint64_t length = (uint64_t)s->count * SECTOR;
    uint8_t *ram = find_ram(disk->memory, s->address, length);

    if ((!write && command != GUEST_DISK_READ) || ram == NULL || s->count == 0 ||
        s->count > GUEST_DISK_COUNT_MAX || s->sector >= s->sectors ||
        s->count > s->sectors - s->sector) {
        return GUEST_DISK_REFUSED;
    }
    int rc = transfer(disk, write, ram, length, offset);
    /* Also after a failure: a part of it may have been written. */
    if (write) {
        ferry_mark_disk_dirty(disk->ferry, disk->number, offset, length);
    } else {
        ferry_mark_dirty(disk->ferry, s->address, length);
    }
    if (rc != 0) {
        log_message(LOG_ERROR, "disk: sector %u: %s", s->sector, strerror(-rc));
    }
    return rc == 0 ? GUEST_DISK_DONE : GUEST_DISK_FAILED;
}

static uint32_t *register_at(struct disk_state *state, uint16_t offset)
{
    uint32_t *const registers[] = {
        [GUEST_DISK_SECTOR / 4] = &state->sector,
        [GUEST_DISK_ADDRESS / 4] = &state->address,
        [GUEST_DISK_COUNT / 4] = &state->count,
        [GUEST_DISK_COMMAND / 4] = &state->status,
    };
    bool known = offset % 4 == 0 && offset / 4u < sizeof(registers) / sizeof(registers[0]);

    return known ? registers[offset / 4] : NULL;
}

uint32_t disk_in(struct disk *disk, uint16_t offset)
{
    if (disk->fd < 0) {
        return UINT32_MAX;
    }
    pthread_mutex_lock(&disk->lock);
    const uint32_t *from = register_at(&disk->state, offset);
    uint32_t value = from != NULL ? *from : UINT32_MAX;
    pthread_mutex_unlock(&disk->lock);
    return value;
}

void disk_out(struct disk *disk, uint16_t offset, uint32_t value)
{
    if (disk->fd < 0) {
        return;
    }
    pthread_mutex_lock(&disk->lock);
    uint32_t *to = register_at(&disk->state, offset);
    if (to != NULL) {
        *to = offset == GUEST_DISK_COMMAND ? perform(disk, value) : value;
    }
    pthread_mutex_unlock(&disk->lock);
}

void disk_get(struct disk *disk, struct disk_state *state)
{
    pthread_mutex_lock(&disk->lock);
    *state = disk->state;
    pthread_mutex_unlock(&disk->lock);
}

void disk_set(struct disk *disk, const struct disk_state *state)
{
    pthread_mutex_lock(&disk->lock);
    disk->state = *state;
    pthread_mutex_unlock(&disk->lock);
}

/* ---- life ---- */

static int open_file(const char *path, int mode, int *fd, uint64_t *size, struct fault *fault)
{
    struct stat info;

    *fd = open(path, mode | O_CLOEXEC);
    if (*fd < 0 || fstat(*fd, &info) != 0) {
        return fault_set(fault, -errno, "cannot open disk %s: %s", path, strerror(errno));
    }
    *size = (uint64_t)info.st_size;
    return 0;
}

int disk_open(struct disk *disk, const char *path, const char *base_path,
              const struct memory *memory, struct fault *fault)
{
    uint64_t size = 0;

    *disk = (struct disk){.fd = -1, .base_fd = -1, .memory = memory};
    pthread_mutex_init(&disk->lock, NULL);
    if (path == NULL) {
        return 0;
    }
    int rc = open_file(path, O_RDWR, &disk->fd, &size, fault);
    if (rc == 0 && base_path != NULL) {
        rc = open_file(base_path, O_RDONLY, &disk->base_fd, &disk->base_length, fault);
    }
    if (rc == 0 && (size == 0 || size % SECTOR != 0)) {
        rc = fault_set(fault, -EINVAL, "disk %s has no whole sectors", path);
    }
    disk->state.sectors = size / SECTOR;
    return rc;
}

void disk_close(struct disk *disk)
{
    if (disk->fd >= 0) {
        close(disk->fd);
    }
    if (disk->base_fd >= 0) {
        close(disk->base_fd);
    }
    pthread_mutex_destroy(&disk->lock);
}

int disk_register(struct disk *disk, struct ferry *ferry)
{
    struct ferry_disk described = {
        .size = sizeof(described),
        .name = "disk",
        .fd = disk->fd,
        .length = disk->state.sectors * SECTOR,
        .has_base = disk->base_fd >= 0,
        .base_fd = disk->base_fd,
    };

    disk->ferry = ferry;
    disk->number = 0; /* the first one added, and the only one */
    return disk->fd < 0 ? 0 : ferry_add_disk(ferry, &described);
}
