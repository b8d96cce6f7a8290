/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Whether two hosts have the same base: its length and a hash (XXH3, 128 bits, seed 0, in canonical
 * order) of its content, of which holes are zeroes.
 */
#ifndef FERRY_DISK_BASE_H
#define FERRY_DISK_BASE_H

#include "disk/disk.h"

/* Reads all of the base of `d`, which must have one, into d->base_hash; `buffer` as in disks. */
bool disk_hash_base(struct disk *d, uint8_t *buffer, const struct disk_beat *beat,
                    struct error **errp);

#endif
