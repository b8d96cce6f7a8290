/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What tracking needs of Linux 6.7's include/uapi/linux/fs.h and include/uapi/linux/userfaultfd.h,
 * which older headers lack.  Described in Documentation/admin-guide/mm/pagemap.rst and
 * userfaultfd.rst.
 */
#ifndef FERRY_GUEST_PAGEMAP_SCAN_H
#define FERRY_GUEST_PAGEMAP_SCAN_H

#include <linux/fs.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>

#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN          _IOWR('f', 16, struct pm_scan_arg)

#define PAGE_IS_WRITTEN       (1 << 1)

#define PM_SCAN_WP_MATCHING   (1 << 0) /* write-protect what is reported */
#define PM_SCAN_CHECK_WPASYNC (1 << 1) /* EPERM for memory that is not tracked */

struct page_region {
    __u64 start, end; /* addresses */
    __u64 categories;
};

struct pm_scan_arg {
    __u64 size; /* of this struct */
    __u64 flags;
    __u64 start, end;
    __u64 walk_end; /* set: where it stopped */
    __u64 vec;      /* struct page_region[vec_len] */
    __u64 vec_len;
    __u64 max_pages;
    __u64 category_inverted;
    __u64 category_mask;
    __u64 category_anyof_mask;
    __u64 return_mask;
};
#endif

#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

#endif
