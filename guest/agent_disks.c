/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How a VMM introduces its guest's disks, and what it marks of them.
 *
 * This runs on the main thread, which no file may block: a file's attributes are asked for as far
 * as the kernel has them (a file system in user space might not answer), and nothing is read.  What
 * takes a look into the files is left to the job that moves them (disk/disk.h).
 */
#include "guest/agent_internal.h"

#include "common/cleanup.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define SECTOR 512u
/* No disk is longer; schema/guest-protocol.md. */
#define LENGTH_MAX (1ULL << 46)

static bool disk_is_good(const struct guest *g, const struct wire_disk *d, struct error **errp)
{
    if (!guest_name_is_good(d->name)) {
        error_set(errp, "guest-invalid", "Guest '%s' has a disk without a printable name", g->name);
        return false;
    }
    if (!d->length || d->length % SECTOR || d->length > LENGTH_MAX) {
        error_set(errp, "guest-invalid",
                  "Guest '%s': disk '%s' has %" PRIu64
                  " bytes; multiples of %u up to %llu are allowed",
                  g->name, d->name, d->length, SECTOR, LENGTH_MAX);
        return false;
    }
    for (unsigned i = 0; i < g->ndisks; i++) {
        if (strcmp(g->disks[i].name, d->name) == 0) {
            error_set(errp, "guest-invalid", "Guest '%s' has two disks named '%s'", g->name,
                      d->name);
            return false;
        }
    }
    return true;
}

/* What a descriptor is: its kind, as in st_mode, and its size; false for what has none. */
static bool look_at(int fd, uint16_t *kind, uint64_t *size)
{
    struct statx st;
    if (fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_SIZE, &st)) {
        return false;
    }
    *kind = st.stx_mode & S_IFMT;
    *size = st.stx_size;
    return *kind == S_IFREG || (*kind == S_IFBLK && ioctl(fd, BLKGETSIZE64, size) == 0);
}

static bool image_is_good(const struct guest *g, const struct wire_disk *d, int fd,
                          struct error **errp)
{
    uint16_t kind;
    uint64_t size;
    if (!look_at(fd, &kind, &size) || (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR ||
        (d->has_base && kind != S_IFREG)) {
        error_set(errp, "guest-invalid",
                  "Guest '%s': disk '%s' needs the descriptor of a file%s, open for reading and "
                  "writing",
                  g->name, d->name, d->has_base ? "" : " or block device");
        return false;
    }
    if (size < d->length) {
        error_set(errp, "guest-invalid",
                  "Guest '%s': disk '%s' has %" PRIu64 " bytes, and its file only %" PRIu64,
                  g->name, d->name, d->length, size);
        return false;
    }
    return true;
}

static bool base_is_good(const struct guest *g, const struct wire_disk *d, int fd,
                         struct error **errp)
{
    uint16_t kind;
    uint64_t size;
    int flags = fd < 0 ? O_WRONLY : fcntl(fd, F_GETFL);
    if (!look_at(fd, &kind, &size) || kind != S_IFREG || (flags & O_ACCMODE) == O_WRONLY ||
        (flags & O_PATH)) {
        error_set(errp, "guest-invalid",
                  "Guest '%s': the base of disk '%s' needs the descriptor of a file, open for "
                  "reading",
                  g->name, d->name);
        return false;
    }
    return true;
}

static bool on_image(struct agent *a, const struct wire_disk *d, int *fd, struct error **errp)
{
    struct guest *g = &a->guest;
    if (!disk_is_good(g, d, errp) || !image_is_good(g, d, *fd, errp)) {
        return false;
    }
    struct guest_disk *mine = &g->disks[g->ndisks];
    *mine = (struct guest_disk){.fd = fd_steal(fd), .base_fd = -1, .length = d->length};
    strcpy(mine->name, d->name);
    a->pages[agent_mapped(a)] = (d->length + WIRE_DISK_CHUNK - 1) / WIRE_DISK_CHUNK;
    g->ndisks++;
    a->disks_due--;
    a->base_due = d->has_base;
    return true;
}

static bool on_base(struct agent *a, const struct wire_disk *d, int *fd, struct error **errp)
{
    struct guest_disk *mine = &a->guest.disks[a->guest.ndisks - 1];
    if (!guest_name_is_good(d->name) || strcmp(d->name, mine->name) != 0 ||
        d->length != mine->length) {
        error_set(errp, "guest-protocol", "The base of disk '%s' comes with another disk's name",
                  mine->name);
        return false;
    }
    if (!base_is_good(&a->guest, d, *fd, errp)) {
        return false;
    }
    mine->base_fd = fd_steal(fd);
    a->base_due = false;
    return true;
}

bool agent_on_disk(struct agent *a, const struct wire_message *msg, int *fd, struct error **errp)
{
    const struct wire_disk *d = &msg->body.disk;
    uint32_t due = a->base_due ? WIRE_DISK_BASE : WIRE_DISK_IMAGE;
    if (d->part != due) {
        error_set(errp, "guest-protocol", "The VMM sent part %u of a disk where part %u was due",
                  d->part, due);
        return false;
    }
    return due == WIRE_DISK_BASE ? on_base(a, d, fd, errp) : on_image(a, d, fd, errp);
}

void agent_disk_sync(struct guest *g, uint64_t *const dirty[])
{
    for (unsigned i = 0; i < g->ndisks; i++) {
        agent_take_marks(agent_of(g), g->nblocks + i, dirty[i]);
    }
}
