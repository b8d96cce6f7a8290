/* SPDX-License-Identifier: BSD-3-Clause */
#include "disk/disk.h"

#include "common/bits.h"
#include "common/holes.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

/* Emptied in one go: zeroes that must be written take a moment, and a cancel is looked for. */
#define EMPTY_BYTES (4ULL << 20)

/* The byte that is locked: behind all content, and none that a VMM would use for locks of its own.
 */
#define LOCK_BYTE (1LL << 62)

struct disks *disks_new(void)
{
    struct disks *disks = calloc(1, sizeof(*disks));
    if (!disks || !(disks->buffer = aligned_alloc(DISK_PIECE, DISK_BUFFER))) {
        abort();
    }
    return disks;
}

static void disk_close(struct disk *d)
{
    free(d->dirty);
    if (d->fd >= 0) {
        close(d->fd);
    }
    if (d->base_fd >= 0) {
        close(d->base_fd);
    }
}

void disks_free(struct disks *disks)
{
    if (!disks) {
        return;
    }
    for (unsigned i = 0; i < disks->count; i++) {
        disk_close(&disks->list[i]);
    }
    free(disks->buffer);
    free(disks);
}

/* ---- opening ---- */

/* A file description of our own. */
static int reopen(int fd, int flags)
{
    char path[40];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC);
}

static bool file_size(int fd, uint64_t *size)
{
    struct stat st;
    if (fstat(fd, &st) < 0) {
        return false;
    }
    *size = (uint64_t)st.st_size;
    return S_ISREG(st.st_mode) || (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, size) == 0);
}

/* A file system that knows no locks is taken as it is. */
static bool lock_image(const struct disk *d, bool exclusive, struct error **errp)
{
    struct flock lock = {.l_type = exclusive ? F_WRLCK : F_RDLCK,
                         .l_whence = SEEK_SET,
                         .l_start = LOCK_BYTE,
                         .l_len = 1};
    if (fcntl(d->fd, F_OFD_SETLK, &lock) < 0 && (errno == EAGAIN || errno == EACCES)) {
        error_set(errp, "disk-unusable",
                  "Disk '%s' is in use by another migration: both ends may have the same file",
                  d->name);
        return false;
    }
    return true;
}

static bool open_image(struct disk *d, const struct disk_source *source, struct error **errp)
{
    uint64_t size;
    /* As the VMM opened it: what one writes past the page cache, the other is not to read from it.
     */
    int direct = fcntl(source->fd, F_GETFL) & O_DIRECT;
    d->fd = reopen(source->fd, (source->writable ? O_RDWR : O_RDONLY) | direct);
    if (d->fd < 0 || !file_size(d->fd, &size)) {
        error_set(errp, "disk-unusable", "Disk '%s' can't be opened: %s", d->name, strerror(errno));
        return false;
    }
    if (size < d->length) {
        error_set(errp, "disk-unusable",
                  "Disk '%s' has %" PRIu64 " bytes, and its file only %" PRIu64, d->name, d->length,
                  size);
        return false;
    }
    return lock_image(d, source->writable, errp);
}

/* An overlay's pieces are told apart by what is allocated: a larger block would hold both kinds. */
static bool check_overlay(const struct disk *d, struct error **errp)
{
    struct statfs fs;
    bool holes = lseek(d->fd, 0, SEEK_DATA) >= 0 || errno == ENXIO;
    if (!holes || fstatfs(d->fd, &fs) < 0 || fs.f_bsize > (long)DISK_PIECE) {
        error_set(errp, "disk-unusable",
                  "Disk '%s' has a base, and lies on a file system without holes of %u bytes",
                  d->name, DISK_PIECE);
        return false;
    }
    return true;
}

static bool open_base(struct disk *d, const struct disk_source *source, struct error **errp)
{
    if (source->base_fd < 0) {
        return true;
    }
    d->base_fd = reopen(source->base_fd, O_RDONLY);
    if (d->base_fd < 0 || !file_size(d->base_fd, &d->base_length)) {
        error_set(errp, "disk-unusable", "The base of disk '%s' can't be opened: %s", d->name,
                  strerror(errno));
        return false;
    }
    return check_overlay(d, errp);
}

bool disks_add(struct disks *disks, const struct disk_source *source, struct error **errp)
{
    struct disk d = {
        .fd = -1,
        .base_fd = -1,
        .length = source->length,
        .inc = source->inc,
        .chunks = (source->length + DISK_CHUNK - 1) / DISK_CHUNK,
    };
    snprintf(d.name, sizeof(d.name), "%s", source->name);
    if (disks->count == DISKS_MAX || !d.length || d.length % DISK_SECTOR ||
        d.length > DISK_BYTES_MAX) {
        error_set(errp, "disk-unusable", "Disk '%s' has a length that is not allowed", d.name);
        return false;
    }
    d.dirty = calloc(bits_words(d.chunks), sizeof(uint64_t));
    if (!d.dirty) {
        error_set(errp, "no-memory", "No memory for the bitmap of disk '%s'", d.name);
        return false;
    }
    if (!open_image(&d, source, errp) || !open_base(&d, source, errp)) {
        disk_close(&d);
        return false;
    }
    disks->list[disks->count++] = d;
    disks->bytes += d.length;
    return true;
}

uint64_t disks_count_dirty(const struct disks *disks)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < disks->count; i++) {
        const struct disk *d = &disks->list[i];
        bytes += bits_count(d->dirty, 0, d->chunks) * DISK_CHUNK;
        if (bits_test(d->dirty, d->chunks - 1)) {
            bytes -= d->chunks * DISK_CHUNK - d->length;
        }
    }
    return bytes;
}

/* ---- extents ---- */

static uint64_t round_up(uint64_t at)
{
    return (at + DISK_PIECE - 1) / DISK_PIECE * DISK_PIECE;
}

bool disk_extent(int fd, uint64_t from, uint64_t end, uint64_t *first, uint64_t *last)
{
    if (!holes_next_data(fd, from, end, first, last)) {
        return false;
    }
    uint64_t start = *first / DISK_PIECE * DISK_PIECE;
    uint64_t stop = round_up(*last);
    *first = start > from ? start : from;
    *last = stop < end ? stop : end;
    return true;
}

bool disk_next(const struct disk *d, uint64_t from, uint64_t end, uint64_t *first, uint64_t *last)
{
    uint64_t base_first, base_last;
    bool own = disk_extent(d->fd, from, end, first, last);
    if (d->base_fd < 0 || d->inc || (own && *first == from)) {
        return own;
    }
    if (!disk_extent(d->base_fd, from, end, &base_first, &base_last) ||
        (own && *first <= base_first)) {
        return own;
    }
    *first = base_first;
    *last = base_last;
    return true;
}

/* ---- reading ---- */

static void set_io(const struct disk *d, const char *what, uint64_t offset, const char *why,
                   struct error **errp)
{
    error_set(errp, "disk-io", "Disk '%s' can't be %s at byte %" PRIu64 ": %s", d->name, what,
              offset, why);
}

bool disk_read_file(const struct disk *d, int fd, uint8_t *buf, uint64_t offset, size_t length,
                    struct error **errp)
{
    while (length) {
        ssize_t n = pread(fd, buf, length, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            set_io(d, "read", offset, n < 0 ? strerror(errno) : "its file became shorter", errp);
            return false;
        }
        buf += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return true;
}

/* The base may be shorter than the disk. */
static bool read_base(const struct disk *d, uint8_t *buf, uint64_t offset, size_t length,
                      struct error **errp)
{
    uint64_t room = offset < d->base_length ? d->base_length - offset : 0;
    size_t have = room < length ? (size_t)room : length;
    memset(buf + have, 0, length - have);
    return disk_read_file(d, d->base_fd, buf, offset, have, errp);
}

bool disk_read(const struct disk *d, uint8_t *buf, uint64_t offset, size_t length,
               struct error **errp)
{
    uint64_t at = offset, end = offset + length, first, last;
    if (d->base_fd < 0) {
        return disk_read_file(d, d->fd, buf, offset, length, errp);
    }
    while (at < end) {
        if (!disk_extent(d->fd, at, end, &first, &last)) {
            first = last = end;
        }
        if (!read_base(d, buf + (at - offset), at, first - at, errp) ||
            !disk_read_file(d, d->fd, buf + (first - offset), first, last - first, errp)) {
            return false;
        }
        at = last;
    }
    return true;
}

bool disk_is_zero(const uint8_t *bytes, size_t length)
{
    uint64_t first;
    memcpy(&first, bytes, sizeof(first));
    return !first && memcmp(bytes, bytes + sizeof(first), length - sizeof(first)) == 0;
}

/* ---- writing ---- */

bool disk_write(const struct disk *d, const uint8_t *buf, uint64_t offset, size_t length,
                struct error **errp)
{
    while (length) {
        ssize_t n = pwrite(d->fd, buf, length, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            set_io(d, "written", offset, n < 0 ? strerror(errno) : "nothing is taken", errp);
            return false;
        }
        buf += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return true;
}

static bool write_zeroes(const struct disk *d, uint64_t offset, uint64_t length,
                         struct error **errp)
{
    static const uint8_t zeroes[DISK_CHUNK] __attribute__((aligned(DISK_PIECE)));
    for (uint64_t at = 0; at < length; at += sizeof(zeroes)) {
        size_t n = length - at < sizeof(zeroes) ? (size_t)(length - at) : sizeof(zeroes);
        if (!disk_write(d, zeroes, offset + at, n, errp)) {
            return false;
        }
    }
    return true;
}

static bool try_punch(const struct disk *d, uint64_t offset, uint64_t length)
{
    return fallocate(d->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                     (off_t)length) == 0;
}

bool disk_punch(const struct disk *d, uint64_t offset, uint64_t length, struct error **errp)
{
    if (!try_punch(d, offset, length)) {
        set_io(d, "punched", offset, strerror(errno), errp);
        return false;
    }
    return true;
}

/* Zeroes over a base are written: space that is only reserved for them counts as a hole. */
static bool hide_base(const struct disk *d, uint64_t offset, uint64_t end, struct error **errp)
{
    uint64_t first, last;
    while (disk_extent(d->base_fd, offset, end, &first, &last)) {
        if (!write_zeroes(d, first, last - first, errp)) {
            return false;
        }
        offset = last;
    }
    return true;
}

bool disk_zero(const struct disk *d, uint64_t offset, uint64_t length, struct error **errp)
{
    if (!try_punch(d, offset, length)) {
        return write_zeroes(d, offset, length, errp);
    }
    return d->base_fd < 0 || hide_base(d, offset, offset + length, errp);
}

bool disk_empty(const struct disk *d, const struct disk_beat *beat, struct error **errp)
{
    uint64_t at = 0, first, last;
    while (disk_next(d, at, d->length, &first, &last)) {
        at = last - first < EMPTY_BYTES ? last : first + EMPTY_BYTES;
        if (!(d->inc ? disk_punch : disk_zero)(d, first, at - first, errp) ||
            !beat->beat(beat->opaque, errp)) {
            return false;
        }
    }
    return true;
}
