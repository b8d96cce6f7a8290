/* SPDX-License-Identifier: BSD-3-Clause */
/* Disks: how a VMM registers them and tells what was written to them. */
#include "guest/libferry_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* No disk is longer, on ferryd's side either. */
#define LENGTH_MAX (1ULL << 46)

static int check_disk(const struct ferry *f, const struct ferry_disk *d)
{
    if (!ferry_name_is_good(d->name) || !d->length || d->length % FERRY_SECTOR ||
        d->length > LENGTH_MAX) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < f->ndisks; i++) {
        if (strcmp(f->disks[i].name, d->name) == 0) {
            return -EINVAL;
        }
    }
    return f->ndisks == FERRY_DISKS_MAX ? -E2BIG : 0;
}

int ferry_add_disk(struct ferry *f, const struct ferry_disk *disk)
{
    struct ferry_disk d;
    if (f->started || !ferry_copy_sized(&d, sizeof(d), disk, disk->size)) {
        return -EINVAL;
    }
    int err = check_disk(f, &d);
    if (err) {
        return err;
    }
    struct ferry_drive mine = {.length = d.length, .base_fd = -1};
    mine.fd = fcntl(d.fd, F_DUPFD_CLOEXEC, 0);
    if (mine.fd >= 0 && d.has_base) {
        mine.base_fd = fcntl(d.base_fd, F_DUPFD_CLOEXEC, 0);
    }
    if (mine.fd < 0 || (d.has_base && mine.base_fd < 0)) {
        err = -errno;
        if (mine.fd >= 0) {
            close(mine.fd);
        }
        return err;
    }
    strcpy(mine.name, d.name);
    f->disks[f->ndisks++] = mine;
    return 0;
}

void ferry_size_disks(struct ferry *f)
{
    for (unsigned i = 0; i < f->ndisks; i++) {
        f->pages[f->nblocks + i] = (f->disks[i].length + WIRE_DISK_CHUNK - 1) / WIRE_DISK_CHUNK;
    }
}

void ferry_close_disks(struct ferry *f)
{
    for (unsigned i = 0; i < f->ndisks; i++) {
        close(f->disks[i].fd);
        if (f->disks[i].base_fd >= 0) {
            close(f->disks[i].base_fd);
        }
    }
}

/* The lock is taken without a map as well, for the reason that ferry_mark_dirty gives. */
void ferry_mark_disk_dirty(struct ferry *f, unsigned disk, uint64_t offset, uint64_t length)
{
    if (disk >= f->ndisks || !length || offset >= f->disks[disk].length) {
        return;
    }
    uint64_t room = f->disks[disk].length - offset;
    uint64_t end = offset + (length < room ? length : room);
    pthread_rwlock_rdlock(&f->map_lock);
    if (f->map.base) {
        ferry_mark_bits(f, f->nblocks + disk, offset / WIRE_DISK_CHUNK,
                        (end + WIRE_DISK_CHUNK - 1) / WIRE_DISK_CHUNK);
    }
    pthread_rwlock_unlock(&f->map_lock);
}
