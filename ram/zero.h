/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_RAM_ZERO_H
#define FERRY_RAM_ZERO_H

#include "ram/block.h"

#include <string.h>

/*
 * Whether a page holds nothing but zeroes.  Most pages that do not are told by their first word;
 * the rest is one vectorised memcmp of the page against itself, a word further on.
 */
static inline bool page_is_zero(const uint8_t *page)
{
    uint64_t first;
    memcpy(&first, page, sizeof(first));
    return !first && memcmp(page, page + sizeof(first), RAM_PAGE_SIZE - sizeof(first)) == 0;
}

#endif
