/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/wptrack_calls.h"

#include <errno.h>
#include <sys/ioctl.h>

#define FEATURES                                                                                   \
    (UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

int wp_open(int uffd)
{
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
    return ioctl(uffd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

int wp_register(int uffd, uint64_t address, uint64_t length)
{
    struct uffdio_register reg = {.range = {.start = address, .len = length},
                                  .mode = UFFDIO_REGISTER_MODE_WP};
    return ioctl(uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

int wp_unregister(int uffd, uint64_t address, uint64_t length)
{
    struct uffdio_range range = {.start = address, .len = length};
    return ioctl(uffd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

int wp_arm(int uffd, uint64_t address, uint64_t length)
{
    struct uffdio_writeprotect arg = {.range = {.start = address, .len = length},
                                      .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    return ioctl(uffd, UFFDIO_WRITEPROTECT, &arg) < 0 ? -errno : 0;
}

int wp_scan(int pagemap, uint64_t from, uint64_t to, struct page_region *regions, unsigned room,
            uint64_t *walk_end)
{
    struct pm_scan_arg arg = {
        .size = sizeof(arg),
        .flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
        .start = from,
        .end = to,
        .vec = (uintptr_t)regions,
        .vec_len = room,
        .category_mask = PAGE_IS_WRITTEN,
        .return_mask = PAGE_IS_WRITTEN,
    };
    int n = ioctl(pagemap, PAGEMAP_SCAN, &arg);
    *walk_end = arg.walk_end;
    return n < 0 ? -errno : n;
}
