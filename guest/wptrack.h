/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which pages of a foreign process were written: by asynchronous write protection, through a
 * userfaultfd of that process (guest/borrow.h).
 *
 * The ranges are write-protected ("armed"); the first write to a page takes its protection away, in
 * the kernel and without waking anybody, and PAGEMAP_SCAN reports the pages that have none and arms
 * them again, in one step.  It sees what the process writes through its mapping, KVM's and the
 * kernel's writes for it included.
 *
 * What it reports may be too much, never too little, but for what it can't see:
 *   - writes by other processes, by devices, and by registered io_uring buffers;
 *   - a read with O_DIRECT that is under way when its page is armed again;
 *   - a hole that is punched is no write: what has become zero is not told.
 *
 * Only what the file has is armed and scanned, in page tables' units of 2 MiB: both allocate page
 * tables, and a hole has none.  When something comes to be in such a unit all of its pages are
 * reported once.  With huge pages (hugetlbfs) a write is reported as one of the whole huge page.
 *
 * Needs Linux 6.7.  All functions are for one thread at a time.
 */
#ifndef FERRY_GUEST_WPTRACK_H
#define FERRY_GUEST_WPTRACK_H

#include "common/wait.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define WPTRACK_PAGE 4096ul

/* A shared mapping, in whole pages. */
struct wptrack_range {
    uint64_t address; /* in the process */
    uint64_t length;  /* bytes */
    int fd;           /* the file behind it, in a file description of our own */
    uint64_t offset;  /* of `address` in the file */
};

struct wptrack;

/* Whether this kernel can: tried on ferryd's own memory.  Errors: no-tracking, system-error. */
bool wptrack_supported(struct error **errp);

/*
 * Whether a scan reports what has no page table any more, tried likewise.  Where it does not, what
 * was written to a huge page of tmpfs is forgotten when the kernel splits that.
 */
bool wptrack_reports_holes(void);

/*
 * Arms the ranges; any write after it returns is reported.  Takes over `uffd`, also when it fails,
 * and borrows the ranges' files until wptrack_stop.  NULL on failure, with nothing left armed.
 * Errors: no-tracking, no-permission, guest-changed, guest-lost, cancelled, system-error.
 */
struct wptrack *wptrack_start(pid_t pid, int uffd, const struct wptrack_range *ranges,
                              unsigned count, const struct wait *w, struct error **errp);

/*
 * Adds to dirty[i], a bit for each page of range i, what was written since it was armed, and arms
 * it again.  After a failure what was written is not known any more; what was added is right.
 * Errors: guest-lost, guest-changed (a range is not tracked any more), cancelled, system-error.
 */
bool wptrack_sync(struct wptrack *t, uint64_t *const dirty[], const struct wait *w,
                  struct error **errp);

/*
 * Whether each range still is mapped, shared, from the same place of the same file.  Errors:
 * guest-changed, guest-lost, no-permission, system-error.
 */
bool wptrack_check(const struct wptrack *t, struct error **errp);

/*
 * Nothing is left armed or registered.  When a ferryd is killed instead the kernel does the same.
 * NULL is allowed.
 */
void wptrack_stop(struct wptrack *t);

#endif
