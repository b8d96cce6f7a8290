/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The RAM of a VMM's guest, found from outside.
 *
 * The monitor names the memory backends; `info mtree -f` and gpa2hva lead from each to an address
 * in the VMM; /proc/PID/maps tells which file is mapped there, and /proc/PID/fd lends a descriptor
 * of it.  The kernel has the last word: what the monitor says counts only where a shared, writable
 * mapping of the right length confirms it.
 */
#include "qemu/internal.h"

#include "common/cleanup.h"
#include "guest/maps.h"
#include "qemu/mtree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

/* From this version on QEMU sends the RAM of backends that are not a named file itself. */
#define VERSION_NAMED_FILES CLIENT_VERSION(8, 1)

/* Backends that are looked at, of RAM or not. */
#define BACKENDS_MAX 1024u

/* A memory backend. */
struct backend {
    const char *id;
    char *type;
    uint64_t size;
    bool shared;
};

/* What the kernel says of a block's memory. */
struct backing {
    dev_t dev;
    ino_t inode;
    uint64_t offset;
};

/* ---- the monitor's word ---- */

static char *backend_type(struct qemu *q, const char *id, const struct wait *w, struct error **errp)
{
    char path[256];
    snprintf(path, sizeof(path), "/objects/%s", id);
    json_t *reply =
        qemu_call(q, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", "type"), w, errp);
    const char *type = json_string_value(reply);
    char *copy = reply ? strdup(type ? type : "") : NULL;
    json_decref(reply);
    return copy;
}

/* What -m alone makes is called by the machine's own name for it; it has no -object. */
static bool is_machines_own(const struct backend *b)
{
    return strchr(b->id, '.') != NULL;
}

static void set_private(const struct qemu *q, const struct backend *b, struct error **errp)
{
    bool own = is_machines_own(b);
    error_set(errp, "ram-private",
              "Guest '%s': its RAM '%s' is private to QEMU. Start it with -object "
              "memory-backend-file,id=%s,size=%" PRIu64 ",mem-path=/dev/shm/NAME,share=on%s",
              q->guest.name, b->id, own ? "mem0" : b->id, b->size,
              own ? " -machine memory-backend=mem0" : "");
}

/* Whether QEMU leaves the RAM of such a backend to others, who can open its file. */
static bool is_left_to_others(const struct qemu *q, const struct backend *b)
{
    return strcmp(b->type, "memory-backend-file") == 0 ||
           (strcmp(b->type, "memory-backend-memfd") == 0 && q->version < VERSION_NAMED_FILES);
}

static bool check_backend(const struct qemu *q, const struct backend *b, struct error **errp)
{
    if (!b->shared) {
        set_private(q, b, errp);
        return false;
    }
    if (!is_left_to_others(q, b)) {
        error_set(errp, "ram-unnamed",
                  "Guest '%s': QEMU %u.%u leaves only RAM in named files to others, and '%s' is a "
                  "%s. Start it with -object memory-backend-file,id=%s,size=%" PRIu64
                  ",mem-path=/dev/shm/NAME,share=on",
                  q->guest.name, q->version / 1000, q->version % 1000, b->id, b->type, b->id,
                  b->size);
        return false;
    }
    return true;
}

/* The address in the VMM at which the backend begins; 0 with an error. */
static uint64_t address_of(struct qemu *q, const struct backend *b, const struct mtree_place *place,
                           const struct wait *w, struct error **errp)
{
    char line[64];
    snprintf(line, sizeof(line), "gpa2hva 0x%" PRIx64, place->gpa);
    CLEANUP_FREE char *text = qemu_human(q, line, w, errp);
    if (!text) {
        return 0;
    }
    const char *is = strstr(text, " is 0x");
    uint64_t address = is ? strtoull(is + 4, NULL, 16) : 0;
    if (address <= place->offset || (address - place->offset) % GUEST_PAGE_SIZE) {
        error_set(errp, "guest-protocol", "Guest '%s': QEMU does not say where its RAM '%s' is",
                  q->guest.name, b->id);
        return 0;
    }
    return address - place->offset;
}

/* ---- the kernel's word ---- */

/* Whether `entry` goes on where the block's mapping has come to, in the same file. */
static bool continues(const struct map_entry *entry, const struct backing *file, uint64_t address,
                      uint64_t at)
{
    return entry->dev == file->dev && entry->inode == file->inode &&
           entry->offset + (at - entry->start) == file->offset + (at - address);
}

/* Follows the mappings from `address` on for `length` bytes; they may be cut in several. */
static bool find_backing(struct maps *maps, uint64_t address, uint64_t length, struct backing *file,
                         struct error **errp)
{
    uint64_t at = address;
    struct map_entry entry;
    if (length > UINT64_MAX - address) {
        return false;
    }
    while (at < address + length && maps_next(maps, &entry, errp)) {
        if (entry.end <= at) {
            continue;
        }
        if (at == address) {
            *file = (struct backing){.dev = entry.dev,
                                     .inode = entry.inode,
                                     .offset = entry.offset + (at - entry.start)};
        }
        if (entry.start > at || !entry.inode || strncmp(entry.perms, "rw", 2) != 0 ||
            entry.perms[3] != 's' || !continues(&entry, file, address, at)) {
            break;
        }
        at = entry.end;
    }
    return at >= address + length;
}

/* A descriptor of ours for the VMM's open file `name`, if it is the one; -1: not. */
static int try_fd(pid_t pid, const char *name, const struct backing *file)
{
    char path[64];
    struct stat st;
    struct statx known;
    snprintf(path, sizeof(path), "/proc/%d/fd/%.20s", (int)pid, name);
    /* What the kernel knows: a file system that does not answer makes nobody wait. */
    if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &known) < 0 ||
        makedev(known.stx_dev_major, known.stx_dev_minor) != file->dev ||
        known.stx_ino != file->inode || !S_ISREG(known.stx_mode)) {
        return -1;
    }
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_dev != file->dev || st.st_ino != file->inode) {
        return -1;
    }
    return fd_steal(&fd);
}

/* Of a VMM that has very many files not all are looked at once its monitor is lost. */
static int open_backing(const struct qemu *q, const struct backing *file)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)q->guest.pid);
    DIR *fds = opendir(path);
    int fd = -1;
    errno = fds ? ENOENT : errno;
    for (struct dirent *d; fds && fd < 0 && !client_is_lost(q->client) && (d = readdir(fds));) {
        fd = d->d_name[0] == '.' ? -1 : try_fd(q->guest.pid, d->d_name, file);
    }
    if (fds) {
        closedir(fds);
    }
    return fd;
}

/* What can be tracked: shared memory. */
static bool check_file_system(const struct qemu *q, const struct backend *b, int fd,
                              struct error **errp)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC)) {
        return true;
    }
    error_set(errp, "ram-unsuitable",
              "Guest '%s': the file of RAM '%s' is on a disk, where writes can't be tracked. Start "
              "QEMU with its mem-path in a tmpfs (/dev/shm) or in hugetlbfs",
              q->guest.name, b->id);
    return false;
}

/*
 * Two QEMUs whose RAM is the same file, as of one command line used for both ends on one host: what
 * one receives would be the other's end.  The lock is our own file description's, so it holds
 * against other guests of this ferryd as well.
 */
static bool lock_file(const struct qemu *q, const struct backend *b, int fd, uint64_t offset,
                      struct error **errp)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = (off_t)b->size};
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0) {
        return true;
    }
    error_set(errp, "ram-in-use",
              "Guest '%s': the file of RAM '%s' is that of another guest that is attached: each "
              "QEMU needs a mem-path of its own",
              q->guest.name, b->id);
    return false;
}

void qemu_unlock_ram(const struct qemu *q)
{
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    for (unsigned i = 0; i < q->guest.nblocks; i++) {
        fcntl(q->guest.blocks[i].fd, F_OFD_SETLK, &all);
    }
}

static bool find_file(struct qemu *q, const struct backend *b, uint64_t address,
                      struct guest_block *block, struct error **errp)
{
    struct backing file = {0};
    struct maps *maps = maps_open(q->guest.pid, errp);
    bool found = maps && find_backing(maps, address, b->size, &file, errp);
    maps_close(maps);
    if (!maps) {
        return false;
    }
    if (!found) {
        error_set(errp, "guest-invalid",
                  "Guest '%s': process %d has no shared memory of %" PRIu64
                  " bytes where QEMU says "
                  "that RAM '%s' is: the process behind the QMP socket must be QEMU itself",
                  q->guest.name, (int)q->guest.pid, b->size, b->id);
        return false;
    }
    CLEANUP_CLOSE int fd = open_backing(q, &file);
    if (fd < 0) {
        error_set(errp, "no-permission",
                  "Guest '%s': the file of RAM '%s' can't be opened for reading and writing: %s",
                  q->guest.name, b->id, strerror(errno));
        return false;
    }
    if (!check_file_system(q, b, fd, errp) || !lock_file(q, b, fd, file.offset, errp)) {
        return false;
    }
    block->fd = fd_steal(&fd);
    block->offset = file.offset;
    return true;
}

/* ---- a block ---- */

static bool check_limits(const struct qemu *q, const struct backend *b, struct error **errp)
{
    const struct guest *g = &q->guest;
    if (!guest_name_is_good(b->id) || !b->size || b->size % GUEST_PAGE_SIZE ||
        b->size > GUEST_RAM_MAX - g->ram || g->nblocks == GUEST_BLOCKS_MAX) {
        error_set(errp, "guest-invalid",
                  "Guest '%s': RAM '%s' has a name, a size or a number past the limits: %u blocks, "
                  "%llu bytes",
                  g->name, b->id, GUEST_BLOCKS_MAX, GUEST_RAM_MAX);
        return false;
    }
    return true;
}

static bool add_block(struct qemu *q, const struct backend *b, const struct mtree_place *place,
                      const struct wait *w, struct error **errp)
{
    struct guest *g = &q->guest;
    if (!check_limits(q, b, errp) || !check_backend(q, b, errp)) {
        return false;
    }
    uint64_t address = address_of(q, b, place, w, errp);
    struct guest_block *block = &g->blocks[g->nblocks];
    if (!address || !find_file(q, b, address, block, errp)) {
        return false;
    }
    strcpy(block->name, b->id);
    block->length = b->size;
    block->gpa = place->gpa;
    q->address[g->nblocks++] = address;
    g->ram += b->size;
    return true;
}

static bool add_memdev(struct qemu *q, const json_t *memdev, const struct mtree_place *place,
                       const struct wait *w, struct error **errp)
{
    struct backend b = {
        .id = json_string_value(json_object_get(memdev, "id")),
        .size = (uint64_t)json_integer_value(json_object_get(memdev, "size")),
        .shared = json_is_true(json_object_get(memdev, "share")),
    };
    b.type = backend_type(q, b.id, w, errp);
    bool ok = b.type && add_block(q, &b, place, w, errp);
    free(b.type);
    return ok;
}

/* These members of an object, as far as it has them. */
static json_t *pick(const json_t *from, const char *const members[], unsigned count)
{
    json_t *picked = json_object();
    for (unsigned i = 0; i < count; i++) {
        json_object_set(picked, members[i], json_object_get(from, members[i]));
    }
    return picked;
}

static json_t *pick_backends(const json_t *all)
{
    static const char *const members[] = {"id", "size", "share"};
    json_t *list = json_array();
    size_t i;
    json_t *one;
    json_array_foreach(all, i, one)
    {
        json_array_append_new(list, pick(one, members, sizeof(members) / sizeof(members[0])));
    }
    return list;
}

/* Where a device shows its backend; not the size of what it has plugged, which the guest of a
 * virtio-mem changes by itself. */
static json_t *pick_memory_devices(const json_t *all)
{
    static const char *const members[] = {"id", "memdev", "addr", "memaddr"};
    json_t *list = json_array();
    size_t i;
    json_t *one;
    json_array_foreach(all, i, one)
    {
        const json_t *data = json_object_get(one, "data");
        json_array_append_new(list, pick(data, members, sizeof(members) / sizeof(members[0])));
    }
    return list;
}

/* What the monitor says of RAM: its backends, and the devices that show them to the guest. */
static json_t *ask_for_ram(struct qemu *q, const struct wait *w, struct error **errp)
{
    json_t *backends = qemu_call(q, "query-memdev", NULL, w, errp);
    json_t *devices = backends ? qemu_call(q, "query-memory-devices", NULL, w, errp) : NULL;
    json_t *ram = devices ? json_pack("{s:o, s:o}", "backends", pick_backends(backends), "devices",
                                      pick_memory_devices(devices))
                          : NULL;
    json_decref(backends);
    json_decref(devices);
    return ram;
}

/* Where the backends are in memory; one without a name is nowhere. */
static void find_backends(const json_t *backends, const char *mtree,
                          struct mtree_region regions[BACKENDS_MAX])
{
    size_t i;
    json_t *memdev;
    json_array_foreach(backends, i, memdev)
    {
        const char *id = json_string_value(json_object_get(memdev, "id"));
        regions[i].name = id ? id : "";
    }
    mtree_find(mtree, regions, (unsigned)json_array_size(backends));
}

/* A backend that no part of memory shows is none of the guest's RAM.  Of all others the monitor is
 * asked: once it is lost this ends, for which the main thread may be waiting. */
static bool add_blocks(struct qemu *q, const char *mtree, const struct wait *w, struct error **errp)
{
    struct mtree_region regions[BACKENDS_MAX];
    const json_t *backends = json_object_get(q->memory, "backends");
    size_t count = json_array_size(backends);
    if (count > BACKENDS_MAX) {
        error_set(errp, "guest-invalid", "Guest '%s' has more than %u memory backends",
                  q->guest.name, BACKENDS_MAX);
        return false;
    }
    find_backends(backends, mtree, regions);
    for (size_t i = 0; i < count; i++) {
        if (regions[i].found &&
            !add_memdev(q, json_array_get(backends, i), &regions[i].place, w, errp)) {
            return false;
        }
    }
    return true;
}

static bool has_block(const struct qemu *q, const char *id)
{
    bool has = false;
    for (unsigned i = 0; i < q->guest.nblocks; i++) {
        has = has || strcmp(q->guest.blocks[i].name, id) == 0;
    }
    return has;
}

/*
 * A memory device of which no part of memory shows anything yet: a virtio-mem with
 * dynamic-memslots=on maps its backend as its guest plugs it.  What came later would be missed.
 */
static bool check_memory_devices(const struct qemu *q, struct error **errp)
{
    static const char folder[] = "/objects/";
    size_t i;
    json_t *device;
    json_array_foreach(json_object_get(q->memory, "devices"), i, device)
    {
        char words[CLIENT_WORDS];
        const char *memdev = client_words(json_object_get(device, "memdev"), words);
        const char *id =
            strncmp(memdev, folder, sizeof(folder) - 1) == 0 ? memdev + sizeof(folder) - 1 : memdev;
        if (!has_block(q, id)) {
            error_set(
                errp, "guest-unsuitable",
                "Guest '%s': no memory of the guest shows RAM '%s' of a memory device yet, as "
                "with dynamic-memslots=on: start QEMU with dynamic-memslots=off",
                q->guest.name, id);
            return false;
        }
    }
    return true;
}

bool qemu_discover_ram(struct qemu *q, const struct wait *w, struct error **errp)
{
    CLEANUP_FREE char *mtree = qemu_human(q, "info mtree -f", w, errp);
    q->memory = mtree ? ask_for_ram(q, w, errp) : NULL;
    if (!q->memory || !add_blocks(q, mtree, w, errp)) {
        return false;
    }
    if (!q->guest.nblocks) {
        error_set(errp, "ram-private",
                  "Guest '%s': none of its RAM is in a memory backend. Start QEMU with -object "
                  "memory-backend-file,id=mem0,size=SIZE,mem-path=/dev/shm/NAME,share=on -machine "
                  "memory-backend=mem0",
                  q->guest.name);
        return false;
    }
    return check_memory_devices(q, errp);
}

bool qemu_check_ram(struct qemu *q, const struct wait *w, struct error **errp)
{
    json_t *now = ask_for_ram(q, w, errp);
    bool same = now && json_equal(now, q->memory);
    if (now && !same) {
        error_set(errp, "guest-changed",
                  "Guest '%s': RAM was plugged or unplugged since it was attached: detach and "
                  "attach it again",
                  q->guest.name);
    }
    json_decref(now);
    return same;
}
