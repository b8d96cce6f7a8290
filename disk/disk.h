/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest's disks as a job sees them: files or block devices, some of them overlays over a base.
 *
 * A disk is looked at in pieces of 4096 bytes (the last may be shorter).  A piece of an overlay is
 * either its own, when the file system has allocated any of it, or the base's: so pieces are read,
 * sent and written whole.  Disks are read and written by system calls and never mapped; buffers lie
 * as O_DIRECT wants them, which an image keeps that a VMM opened so.
 *
 * Whoever has a disk open here holds a lock on it, shared at the source and exclusive at the
 * destination: an image that both hosts see is not emptied under the guest that uses it.
 *
 * Owned by one job's thread, which a file system that does not answer can hold up: only the waits
 * between two system calls can be cancelled.  At the source disks are open for reading only.
 * Nothing is synchronised to a disk: the VMM sees what was written, whether or not it is there yet.
 */
#ifndef FERRY_DISK_DISK_H
#define FERRY_DISK_DISK_H

#include "common/error.h"
#include "ram/records.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DISK_SECTOR    512u
#define DISK_PIECE     4096u
#define DISK_CHUNK     (64u << 10) /* what one bit of a dirty bitmap stands for */
#define DISK_NAME_MAX  64u
#define DISKS_MAX      16u
#define DISK_HASH_SIZE 16u
/* No disk is longer: keeps every sum of lengths far from overflowing. */
#define DISK_BYTES_MAX (1ULL << 46)
/* Bytes read or written in one go: what a record holds. */
#define DISK_BUFFER RECORD_PAYLOAD_MAX

struct disk {
    char name[DISK_NAME_MAX + 1];
    int fd;          /* its own file description: its position is nobody else's */
    int base_fd;     /* -1: none */
    uint64_t length; /* bytes, a multiple of DISK_SECTOR */
    uint64_t base_length;
    uint8_t base_hash[DISK_HASH_SIZE]; /* once disk_hash_base was called (base.h) */
    bool inc;                          /* only the overlay's own pieces move; it has a base */
    uint64_t chunks;
    uint64_t *dirty; /* source: chunks still to send */
};

struct disks {
    struct disk list[DISKS_MAX];
    unsigned count;
    uint64_t bytes;  /* of all disks */
    uint8_t *buffer; /* DISK_BUFFER bytes, aligned to DISK_PIECE */
};

/* Called between the steps of long work, some milliseconds each; false with an error ends it. */
struct disk_beat {
    bool (*beat)(void *opaque, struct error **errp);
    void *opaque;
};

/* What is to be known of a disk to open it; the descriptors stay the caller's. */
struct disk_source {
    const char *name;
    int fd, base_fd; /* -1: no base */
    uint64_t length;
    bool inc;
    bool writable; /* the destination's */
};

struct disks *disks_new(void);
void disks_free(struct disks *disks); /* NULL is allowed */

/* Errors: "disk-unusable" (can't be opened, in use, too short, no holes where they are needed). */
bool disks_add(struct disks *disks, const struct disk_source *source, struct error **errp);

/* Bytes of the chunks set in all dirty bitmaps. */
uint64_t disks_count_dirty(const struct disks *disks);

/*
 * The first stretch of [from, end) that `fd` holds data in, in whole pieces: false when all of it
 * is a hole.  Where holes can't be told, as on block devices, everything is data.
 */
bool disk_extent(int fd, uint64_t from, uint64_t end, uint64_t *first, uint64_t *last);

/* The first stretch of [from, end) of the disk that is to be moved; the rest reads as zeroes, or
 * (inc) as the base.  May end where the next begins. */
bool disk_next(const struct disk *d, uint64_t from, uint64_t end, uint64_t *first, uint64_t *last);

/* Reads what the guest sees of a range of whole pieces.  "disk-io" names disk and offset. */
bool disk_read(const struct disk *d, uint8_t *buf, uint64_t offset, size_t length,
               struct error **errp);

/* All three take whole pieces; "disk-io". */
bool disk_write(const struct disk *d, const uint8_t *buf, uint64_t offset, size_t length,
                struct error **errp);
/* Makes a hole, which shows the base where there is one. */
bool disk_punch(const struct disk *d, uint64_t offset, uint64_t length, struct error **errp);
/* Makes zeroes: a hole, except where that would show the base or can't be made. */
bool disk_zero(const struct disk *d, uint64_t offset, uint64_t length, struct error **errp);

/* Makes what does not move be as the source has it: all zeroes, or (inc) all base. */
bool disk_empty(const struct disk *d, const struct disk_beat *beat, struct error **errp);

/* Whether `length` bytes, 8 or more, are all zero. */
bool disk_is_zero(const uint8_t *bytes, size_t length);

/* pread of one of the disk's files that takes everything or fails with "disk-io". */
bool disk_read_file(const struct disk *d, int fd, uint8_t *buf, uint64_t offset, size_t length,
                    struct error **errp);

#endif
