/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bitmaps of 64-bit words, bit 0 of word 0 first: the layout that KVM's dirty log uses on
 * little-endian hosts.  Plain, unlocked; the atomic ones are for the maps shared with a VMM.
 */
#ifndef FERRY_COMMON_BITS_H
#define FERRY_COMMON_BITS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BITS_PER_WORD 64u

static inline size_t bits_words(uint64_t nbits)
{
    return (size_t)((nbits + BITS_PER_WORD - 1) / BITS_PER_WORD);
}

static inline bool bits_test(const uint64_t *map, uint64_t bit)
{
    return (map[bit / BITS_PER_WORD] >> (bit % BITS_PER_WORD)) & 1;
}

static inline void bits_set(uint64_t *map, uint64_t bit)
{
    map[bit / BITS_PER_WORD] |= 1ULL << (bit % BITS_PER_WORD);
}

/* The bits of the word that holds `at`, from `at` (inclusive) upwards. */
static inline uint64_t bits_mask_from(uint64_t at)
{
    return ~0ULL << (at % BITS_PER_WORD);
}

/* All bits of [first, end) that lie in the word of index `word`. */
static inline uint64_t bits_mask_in_word(size_t word, uint64_t first, uint64_t end)
{
    uint64_t base = (uint64_t)word * BITS_PER_WORD;
    uint64_t mask = ~0ULL;
    if (first > base) {
        mask &= bits_mask_from(first);
    }
    if (end < base + BITS_PER_WORD) {
        mask &= ~bits_mask_from(end);
    }
    return mask;
}

void bits_set_range(uint64_t *map, uint64_t first, uint64_t end);
void bits_clear_range(uint64_t *map, uint64_t first, uint64_t end);

/* The first set (clear) bit in [from, end), or end. */
uint64_t bits_next_set(const uint64_t *map, uint64_t from, uint64_t end);
uint64_t bits_next_clear(const uint64_t *map, uint64_t from, uint64_t end);

/* How many of the first `nbits` bits are set in either map. */
uint64_t bits_count_either(const uint64_t *a, const uint64_t *b, uint64_t nbits);

/* How many bits of [first, end) are set. */
uint64_t bits_count(const uint64_t *map, uint64_t first, uint64_t end);

#endif
