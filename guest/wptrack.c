/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/wptrack.h"

#include "common/bits.h"
#include "common/cleanup.h"
#include "common/holes.h"
#include "guest/maps.h"
#include "guest/wptrack_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

/* Armed and scanned in one system call: some milliseconds where all of it is populated.  For each
 * 512 stretches that a scan finds the kernel takes the mappings of all that is left of it from KVM.
 */
#define ARM_BYTES  (256ULL << 20)
#define SCAN_BYTES (64ULL << 20)
/* Stretches that a scan reports at a time. */
#define REGIONS 4096u

/* No memory of a process is registered there: mmap_min_addr(7) begins it, or nothing is. */
#define PROBE_ADDRESS 0x10000ULL

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What is behind a range. */
struct backing {
    dev_t dev;
    ino_t inode;
    uint64_t page;   /* bytes; more than WPTRACK_PAGE in hugetlbfs */
    uint64_t tables; /* page tables that the range has entries in */
    uint64_t *known; /* a bit for each: its part of the file is, or was, no hole */
};

struct wptrack {
    pid_t pid;
    int uffd;
    int pagemap;
    unsigned count;
    unsigned registered; /* ranges, the first of them */
    struct wptrack_range *ranges;
    struct backing *backings; /* of each of them */
    struct page_region regions[REGIONS];
};

static void set_lost(const struct wptrack *t, struct error **errp)
{
    error_set(errp, "guest-lost", "Process %d has ended, or become another program", t->pid);
}

/* ---- page tables ---- */

static uint64_t table_of(const struct wptrack_range *r, uint64_t byte)
{
    return (r->address + byte) / WP_TABLE_BYTES - r->address / WP_TABLE_BYTES;
}

/* The first byte of the range in that page table. */
static uint64_t byte_of(const struct wptrack_range *r, uint64_t table)
{
    uint64_t at = (r->address / WP_TABLE_BYTES + table) * WP_TABLE_BYTES;
    return at < r->address ? 0 : min_u64(at - r->address, r->length);
}

/* Finds those that have come to exist.  A page is in the file before a write to it is done. */
static void find_tables(const struct wptrack *t, unsigned index)
{
    const struct wptrack_range *r = &t->ranges[index];
    const struct backing *b = &t->backings[index];
    uint64_t at = 0;
    while ((at = bits_next_clear(b->known, at, b->tables)) < b->tables) {
        uint64_t stop = bits_next_set(b->known, at, b->tables);
        uint64_t end = r->offset + byte_of(r, stop);
        uint64_t data = holes_skip(r->fd, r->offset + byte_of(r, at), end);
        at = stop;
        if (data < end) {
            at = table_of(r, data - r->offset);
            bits_set(b->known, at);
        }
    }
}

/* The next bytes of the range, at or behind `at`, that known page tables are for. */
static bool next_stretch(const struct wptrack *t, unsigned index, uint64_t at, uint64_t *from,
                         uint64_t *to)
{
    const struct wptrack_range *r = &t->ranges[index];
    const struct backing *b = &t->backings[index];
    if (at == r->length) {
        return false;
    }
    uint64_t first = bits_next_set(b->known, table_of(r, at), b->tables);
    *from = byte_of(r, first);
    *to = byte_of(r, bits_next_clear(b->known, first, b->tables));
    return *from < *to;
}

/* ---- arming ---- */

/* ENOENT, EINVAL: what is there now is not registered. */
static bool set_arm_failed(const struct wptrack *t, int err, uint64_t address, struct error **errp)
{
    if (err == -ESRCH) {
        set_lost(t, errp);
    } else {
        error_set(errp, err == -ENOENT || err == -EINVAL ? "guest-changed" : "system-error",
                  "The memory of process %d at 0x%" PRIx64 " can't be write-protected: %s", t->pid,
                  address, strerror(-err));
    }
    return false;
}

/* [from, to) are bytes of the range, in pieces of whole huge pages. */
static bool arm_stretch(const struct wptrack *t, unsigned index, uint64_t from, uint64_t to,
                        const struct wait *w, struct error **errp)
{
    const struct wptrack_range *r = &t->ranges[index];
    uint64_t page = t->backings[index].page;
    uint64_t piece = page > ARM_BYTES ? page : ARM_BYTES;
    while (from < to) {
        uint64_t n = min_u64(to - from, piece);
        if (wait_cancelled(w, errp)) {
            return false;
        }
        int rc = wp_arm(t->uffd, r->address + from, n);
        if (rc < 0) {
            return set_arm_failed(t, rc, r->address + from, errp);
        }
        from += n;
    }
    return true;
}

static bool arm_range(const struct wptrack *t, unsigned index, const struct wait *w,
                      struct error **errp)
{
    uint64_t from, to = 0;
    while (next_stretch(t, index, to, &from, &to)) {
        if (!arm_stretch(t, index, from, to, w, errp)) {
            return false;
        }
    }
    return true;
}

/* ---- registering ---- */

static bool set_register_failed(const struct wptrack *t, const struct wptrack_range *r, int err,
                                struct error **errp)
{
    if (err == ESRCH) {
        set_lost(t, errp);
    } else {
        error_set(errp, "no-tracking",
                  "The memory of process %d at 0x%" PRIx64 "+0x%" PRIx64
                  " can't be tracked: %s (it must be shared memory of tmpfs, memfd or hugetlbfs, "
                  "without another userfaultfd on it)",
                  t->pid, r->address, r->length, strerror(err));
    }
    return false;
}

static bool register_ranges(struct wptrack *t, struct error **errp)
{
    int rc = wp_open(t->uffd);
    if (rc < 0) {
        error_set(errp, "no-tracking",
                  "This kernel can't track writes (userfaultfd: %s); Linux 6.7 or later can",
                  strerror(-rc));
        return false;
    }
    for (; t->registered < t->count; t->registered++) {
        const struct wptrack_range *r = &t->ranges[t->registered];
        rc = wp_register(t->uffd, r->address, r->length);
        if (rc < 0) {
            return set_register_failed(t, r, -rc, errp);
        }
    }
    return true;
}

/* ---- the process's map ---- */

/* How far [at, end) of a range is covered by the entry, as it must be; `at` when it is not. */
static uint64_t covered(const struct wptrack *t, unsigned index, uint64_t at,
                        const struct map_entry *e)
{
    const struct wptrack_range *r = &t->ranges[index];
    bool same = e->start <= at && e->inode == t->backings[index].inode &&
                e->dev == t->backings[index].dev && e->perms[3] == 's' &&
                e->offset + (at - e->start) == r->offset + (at - r->address);
    return same ? min_u64(e->end, r->address + r->length) : at;
}

/* Where each range's entries end; entries come in ascending order. */
static bool read_map(const struct wptrack *t, uint64_t *ends, struct error **errp)
{
    struct map_entry entry;
    struct error *err = NULL;
    bool any = false;
    struct maps *maps = maps_open(t->pid, errp);
    if (!maps) {
        return false;
    }
    while (maps_next(maps, &entry, &err)) {
        any = true;
        for (unsigned i = 0; i < t->count; i++) {
            if (entry.start <= ends[i] && ends[i] < entry.end) {
                ends[i] = covered(t, i, ends[i], &entry);
            }
        }
    }
    maps_close(maps);
    if (!any && !err) {
        set_lost(t, &err);
    }
    error_move(errp, err);
    return any && !err;
}

bool wptrack_check(const struct wptrack *t, struct error **errp)
{
    CLEANUP_FREE uint64_t *ends = calloc(t->count, sizeof(*ends));
    if (!ends) {
        abort();
    }
    for (unsigned i = 0; i < t->count; i++) {
        ends[i] = t->ranges[i].address;
    }
    if (!read_map(t, ends, errp)) {
        return false;
    }
    for (unsigned i = 0; i < t->count; i++) {
        const struct wptrack_range *r = &t->ranges[i];
        if (ends[i] != r->address + r->length) {
            error_set(errp, "guest-changed",
                      "Process %d has changed its memory: from 0x%" PRIx64 " on, 0x%" PRIx64
                      "+0x%" PRIx64 " is not mapped from its file any more",
                      t->pid, ends[i], r->address, r->length);
            return false;
        }
    }
    return true;
}

/* ---- begin and end ---- */

/* Those of hugetlbfs are never split. */
static bool check_huge_pages(const struct wptrack *t, unsigned index, struct error **errp)
{
    struct statfs fs;
    if (t->backings[index].page == WPTRACK_PAGE ||
        (fstatfs(t->ranges[index].fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC) ||
        wptrack_reports_holes()) {
        return true;
    }
    error_set(
        errp, "no-tracking",
        "This kernel loses writes to huge pages of a tmpfs (PAGEMAP_SCAN does not report what "
        "has no page table): use one without (huge=never), hugetlbfs, or a later kernel");
    return false;
}

static bool open_files(struct wptrack *t, struct error **errp)
{
    char path[40];
    struct stat st;
    snprintf(path, sizeof(path), "/proc/%d/pagemap", t->pid);
    t->pagemap = open(path, O_RDONLY | O_CLOEXEC);
    if (t->pagemap < 0) {
        bool gone = errno == ENOENT || errno == ESRCH;
        if (gone) {
            set_lost(t, errp);
        } else {
            error_set(errp, "no-permission", "%s: %s", path, strerror(errno));
        }
        return false;
    }
    for (unsigned i = 0; i < t->count; i++) {
        if (fstat(t->ranges[i].fd, &st) < 0) {
            error_set(errp, "system-error", "fstat: %s", strerror(errno));
            return false;
        }
        t->backings[i].dev = st.st_dev;
        t->backings[i].inode = st.st_ino;
        t->backings[i].page = (uint64_t)st.st_blksize;
        if (!check_huge_pages(t, i, errp)) {
            return false;
        }
    }
    return true;
}

static struct wptrack *new_tracker(pid_t pid, int uffd, const struct wptrack_range *ranges,
                                   unsigned count)
{
    struct wptrack *t = calloc(1, sizeof(*t));
    if (!t || !(t->ranges = calloc(count, sizeof(*ranges))) ||
        !(t->backings = calloc(count, sizeof(*t->backings)))) {
        abort();
    }
    memcpy(t->ranges, ranges, count * sizeof(*ranges));
    t->pid = pid;
    t->uffd = uffd;
    t->pagemap = -1;
    t->count = count;
    for (unsigned i = 0; i < count; i++) {
        t->backings[i].tables = table_of(&ranges[i], ranges[i].length - 1) + 1;
        t->backings[i].known = calloc(bits_words(t->backings[i].tables), sizeof(uint64_t));
        if (!t->backings[i].known) {
            abort();
        }
    }
    return t;
}

struct wptrack *wptrack_start(pid_t pid, int uffd, const struct wptrack_range *ranges,
                              unsigned count, const struct wait *w, struct error **errp)
{
    struct wptrack *t = new_tracker(pid, uffd, ranges, count);
    /* Before, for the error's sake; and after, since it may have changed until then. */
    bool ok = open_files(t, errp) && wptrack_check(t, errp) && register_ranges(t, errp) &&
              wptrack_check(t, errp);
    for (unsigned i = 0; i < count && ok; i++) {
        find_tables(t, i);
        ok = arm_range(t, i, w, errp);
    }
    if (!ok) {
        wptrack_stop(t);
        return NULL;
    }
    return t;
}

/* A copy of the userfaultfd may have gone to a child of the process: closing ours is not enough. */
static void unregister(const struct wptrack *t)
{
    for (unsigned i = 0; i < t->registered; i++) {
        wp_unregister(t->uffd, t->ranges[i].address, t->ranges[i].length);
    }
}

void wptrack_stop(struct wptrack *t)
{
    if (!t) {
        return;
    }
    unregister(t);
    fd_close(&t->uffd);
    fd_close(&t->pagemap);
    for (unsigned i = 0; i < t->count; i++) {
        free(t->backings[i].known);
    }
    free(t->ranges);
    free(t->backings);
    free(t);
}

/* ---- scanning ---- */

static bool set_scan_failed(const struct wptrack *t, int err, uint64_t at, struct error **errp)
{
    if (err == -ESRCH) {
        set_lost(t, errp);
    } else if (err == -EPERM) {
        error_set(errp, "guest-changed",
                  "Process %d has put other memory at 0x%" PRIx64 " than is tracked", t->pid, at);
    } else if (err == -EOPNOTSUPP) {
        error_set(errp, "no-tracking",
                  "This kernel can't tell which pages of process %d at 0x%" PRIx64
                  " were written: use smaller huge pages (2 MiB), or a later kernel",
                  t->pid, at);
    } else {
        error_set(errp, "system-error", "PAGEMAP_SCAN of process %d at 0x%" PRIx64 ": %s", t->pid,
                  at, strerror(-err));
    }
    return false;
}

/* [from, to) are bytes of the range. */
static bool sync_stretch(struct wptrack *t, const struct wptrack_range *r, uint64_t from,
                         uint64_t to, uint64_t *dirty, const struct wait *w, struct error **errp)
{
    uint64_t end = r->address + to;
    for (uint64_t at = r->address + from, walked; at < end; at = walked) {
        if (wait_cancelled(w, errp)) {
            return false;
        }
        int n =
            wp_scan(t->pagemap, at, min_u64(end, at + SCAN_BYTES), t->regions, REGIONS, &walked);
        if (n >= 0 && walked <= at) {
            n = -EOPNOTSUPP; /* huge pages of 1 GiB: some kernels do not get past them */
        }
        if (n < 0) {
            return set_scan_failed(t, n, at, errp);
        }
        for (int i = 0; i < n; i++) {
            bits_set_range(dirty, (t->regions[i].start - r->address) / WPTRACK_PAGE,
                           (t->regions[i].end - r->address) / WPTRACK_PAGE);
        }
    }
    return true;
}

/* Only what exists is scanned: a scan makes page tables where there are none, to protect them. */
static bool sync_range(struct wptrack *t, unsigned index, uint64_t *dirty, const struct wait *w,
                       struct error **errp)
{
    uint64_t from, to = 0;
    find_tables(t, index);
    while (next_stretch(t, index, to, &from, &to)) {
        if (!sync_stretch(t, &t->ranges[index], from, to, dirty, w, errp)) {
            return false;
        }
    }
    return true;
}

/*
 * The scan of a process that has ended finds nothing, and on older kernels says nothing. Protecting
 * memory that is not registered fails with ENOENT as long as there is any memory, and with ESRCH
 * after that.
 */
static bool check_alive(const struct wptrack *t, struct error **errp)
{
    if (wp_arm(t->uffd, PROBE_ADDRESS, WPTRACK_PAGE) == -ESRCH) {
        set_lost(t, errp);
        return false;
    }
    return true;
}

bool wptrack_sync(struct wptrack *t, uint64_t *const dirty[], const struct wait *w,
                  struct error **errp)
{
    for (unsigned i = 0; i < t->count; i++) {
        if (!sync_range(t, i, dirty[i], w, errp)) {
            return false;
        }
    }
    return check_alive(t, errp);
}
