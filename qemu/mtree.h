/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where a memory region stands in guest-physical memory, out of what the human monitor prints for
 * `info mtree -f`: flat views, each a heading with the address spaces that see it and lines like
 *
 *   0000000000100000-000000001fffffff (prio 0, ram): mem0 @0000000000100000 KVM
 *
 * Meant for people, so nothing rests on it alone: the address that it leads to is checked against
 * what the kernel says is mapped there.
 */
#ifndef FERRY_QEMU_MTREE_H
#define FERRY_QEMU_MTREE_H

#include <stdbool.h>
#include <stdint.h>

struct mtree_place {
    uint64_t gpa;    /* the lowest address at which a part of the region is seen */
    uint64_t offset; /* of that part in the region, bytes */
};

/* The region of a memory backend. */
struct mtree_region {
    const char *name; /* of the backend */
    bool found;
    struct mtree_place place; /* if so */
};

/* Looks regions up in the address space "memory"; one without a name is not there.  The text is
 * gone through once for all of them.
 */
void mtree_find(const char *text, struct mtree_region *regions, unsigned count);

#endif
