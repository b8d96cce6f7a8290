/* SPDX-License-Identifier: BSD-3-Clause */
/* What this kernel's tracking is worth, tried on memory of our own. */
#include "guest/wptrack.h"

#include "common/cleanup.h"
#include "guest/wptrack_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/* Nothing more is looked at. */
#define REGIONS 4u

/* It holds all that a page table covers. */
#define PROBE_BYTES (2 * WP_TABLE_BYTES)

/* Shared memory of our own that is registered, and never was touched. */
struct probe {
    int uffd, pagemap;
    uint8_t *pages; /* PROBE_BYTES */
};

static void probe_end(struct probe *p)
{
    if (p->pages) {
        munmap(p->pages, PROBE_BYTES);
    }
    fd_close(&p->uffd);
    fd_close(&p->pagemap);
}

static int open_probe(struct probe *p)
{
    CLEANUP_CLOSE int memory = memfd_create("ferry-wptrack", MFD_CLOEXEC);
    *p = (struct probe){
        .uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY),
        .pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
    if (memory < 0 || p->uffd < 0 || p->pagemap < 0 || ftruncate(memory, PROBE_BYTES) < 0) {
        return -errno;
    }
    void *pages = mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (pages == MAP_FAILED) {
        return -errno;
    }
    p->pages = pages;
    int rc = wp_open(p->uffd);
    return rc < 0 ? rc : wp_register(p->uffd, (uintptr_t)pages, PROBE_BYTES);
}

/* False with -errno.  To be ended in any case. */
static bool probe_begin(struct probe *p, int *rc)
{
    *rc = open_probe(p);
    return *rc == 0 && p->pages;
}

static int probe_scan(const struct probe *p, uint64_t from, uint64_t to,
                      struct page_region regions[REGIONS])
{
    uint64_t walked;
    return wp_scan(p->pagemap, from, to, regions, REGIONS, &walked);
}

/* Two pages are armed and one is written: that one is reported, once. */
static int try_tracking(const struct probe *p)
{
    struct page_region regions[REGIONS];
    uint64_t start = (uintptr_t)p->pages, end = start + 2 * WPTRACK_PAGE;
    int rc = wp_arm(p->uffd, start, end - start);
    if (rc < 0) {
        return rc;
    }
    p->pages[WPTRACK_PAGE] = 1;
    int n = probe_scan(p, start, end, regions);
    if (n < 0) {
        return n;
    }
    bool right = n == 1 && regions[0].start == start + WPTRACK_PAGE && regions[0].end == end;
    return right && probe_scan(p, start, end, regions) == 0 ? 0 : -ENOSYS;
}

bool wptrack_supported(struct error **errp)
{
    struct probe p;
    int rc;
    if (probe_begin(&p, &rc)) {
        rc = try_tracking(&p);
    }
    probe_end(&p);
    if (rc < 0) {
        error_set(errp, "no-tracking",
                  "This kernel can't track what a process writes from outside (%s): Linux 6.7 or "
                  "later is needed, with CONFIG_USERFAULTFD and CONFIG_PROC_PAGE_MONITOR",
                  strerror(-rc));
    }
    return rc == 0;
}

bool wptrack_reports_holes(void)
{
    struct page_region regions[REGIONS];
    struct probe p;
    bool reported = false;
    int rc;
    if (probe_begin(&p, &rc)) {
        uint64_t table =
            ((uintptr_t)p.pages + WP_TABLE_BYTES - 1) / WP_TABLE_BYTES * WP_TABLE_BYTES;
        reported = probe_scan(&p, table, table + WP_TABLE_BYTES, regions) > 0;
    }
    probe_end(&p);
    return reported;
}
