/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/bits.h"

void bits_set_range(uint64_t *map, uint64_t first, uint64_t end)
{
    for (size_t w = first / BITS_PER_WORD; (uint64_t)w * BITS_PER_WORD < end; w++) {
        map[w] |= bits_mask_in_word(w, first, end);
    }
}

void bits_clear_range(uint64_t *map, uint64_t first, uint64_t end)
{
    for (size_t w = first / BITS_PER_WORD; (uint64_t)w * BITS_PER_WORD < end; w++) {
        map[w] &= ~bits_mask_in_word(w, first, end);
    }
}

/* `flip` is 0 to look for set bits, ~0 for clear ones. */
static uint64_t next_bit(const uint64_t *map, uint64_t from, uint64_t end, uint64_t flip)
{
    if (from >= end) {
        return end;
    }
    size_t w = from / BITS_PER_WORD;
    uint64_t word = (map[w] ^ flip) & bits_mask_from(from);
    while (!word) {
        w++;
        if ((uint64_t)w * BITS_PER_WORD >= end) {
            return end;
        }
        word = map[w] ^ flip;
    }
    uint64_t bit = (uint64_t)w * BITS_PER_WORD + (unsigned)__builtin_ctzll(word);
    return bit < end ? bit : end;
}

uint64_t bits_next_set(const uint64_t *map, uint64_t from, uint64_t end)
{
    return next_bit(map, from, end, 0);
}

uint64_t bits_next_clear(const uint64_t *map, uint64_t from, uint64_t end)
{
    return next_bit(map, from, end, ~0ULL);
}

uint64_t bits_count(const uint64_t *map, uint64_t first, uint64_t end)
{
    uint64_t count = 0;
    for (size_t w = first / BITS_PER_WORD; (uint64_t)w * BITS_PER_WORD < end; w++) {
        count += (unsigned)__builtin_popcountll(map[w] & bits_mask_in_word(w, first, end));
    }
    return count;
}

uint64_t bits_count_either(const uint64_t *a, const uint64_t *b, uint64_t nbits)
{
    uint64_t count = 0;
    for (size_t w = 0; (uint64_t)w * BITS_PER_WORD < nbits; w++) {
        count += (unsigned)__builtin_popcountll((a[w] | b[w]) & bits_mask_in_word(w, 0, nbits));
    }
    return count;
}
