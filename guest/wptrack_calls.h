/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The kernel's calls that tracking is made of (Documentation/admin-guide/mm of the kernel:
 * userfaultfd.rst, pagemap.rst).  Addresses are of the process that made the userfaultfd, lengths
 * bytes.  Each returns -errno when it fails.
 */
#ifndef FERRY_GUEST_WPTRACK_CALLS_H
#define FERRY_GUEST_WPTRACK_CALLS_H

#include "guest/pagemap_scan.h"

#include <stdint.h>

/* What a page table covers; bytes. */
#define WP_TABLE_BYTES (2ULL << 20)

/* Asks for asynchronous write protection. */
int wp_open(int uffd);
/* From now on its pages can be armed. */
int wp_register(int uffd, uint64_t address, uint64_t length);
int wp_unregister(int uffd, uint64_t address, uint64_t length);
/* The next write to each page will show.  -ENOENT: not registered; -ESRCH: the process is gone. */
int wp_arm(int uffd, uint64_t address, uint64_t length);

/*
 * The stretches of pages in [from, to) that are not armed, at most `room` of them, which it arms;
 * their number.  *walk_end is where it stopped.
 *
 * It asks for written pages and for nothing else: with any other masks the kernel takes a page that
 * was written and has lost its page table entry since for clean (pagemap_scan_pmd_entry() of
 * fs/proc/task_mmu.c).
 */
int wp_scan(int pagemap, uint64_t from, uint64_t to, struct page_region *regions, unsigned room,
            uint64_t *walk_end);

#endif
