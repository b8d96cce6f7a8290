/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/bits.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <string.h>

#define NBITS  331u /* no multiple of a word */
#define ROUNDS 20000

/* The same map twice: words, and a byte for each bit. */
struct pair {
    uint64_t map[(NBITS + 63) / 64];
    bool model[NBITS];
};

static void random_range(uint64_t *seed, uint64_t *first, uint64_t *end)
{
    uint64_t a = next_random(seed) % (NBITS + 1);
    uint64_t b = next_random(seed) % (NBITS + 1);
    *first = a < b ? a : b;
    *end = a < b ? b : a;
}

static void set_both(struct pair *p, uint64_t first, uint64_t end, bool value)
{
    (value ? bits_set_range : bits_clear_range)(p->map, first, end);
    for (uint64_t i = first; i < end; i++) {
        p->model[i] = value;
    }
}

static uint64_t model_next(const struct pair *p, uint64_t from, uint64_t end, bool value)
{
    while (from < end && p->model[from] != value) {
        from++;
    }
    return from < end ? from : end;
}

static uint64_t model_count(const struct pair *p, uint64_t first, uint64_t end)
{
    uint64_t count = 0;
    for (uint64_t i = first; i < end; i++) {
        count += p->model[i];
    }
    return count;
}

static void expect_same(const struct pair *p)
{
    for (uint64_t i = 0; i < NBITS; i++) {
        ck_assert_int_eq(bits_test(p->map, i), p->model[i]);
    }
}

START_TEST(either)
{
    struct pair a = {0}, b = {0};
    uint64_t seed = 3, first, end;
    for (int i = 0; i < 100; i++) {
        random_range(&seed, &first, &end);
        set_both(i % 2 ? &a : &b, first, end, i % 3);
        uint64_t nbits = next_random(&seed) % (NBITS + 1), count = 0;
        for (uint64_t bit = 0; bit < nbits; bit++) {
            count += a.model[bit] || b.model[bit];
        }
        ck_assert_uint_eq(bits_count_either(a.map, b.map, nbits), count);
    }
}
END_TEST

START_TEST(ranges)
{
    struct pair p = {0};
    uint64_t seed = 1, first, end;
    for (int i = 0; i < ROUNDS; i++) {
        random_range(&seed, &first, &end);
        set_both(&p, first, end, next_random(&seed) & 1);
        if (i % 100 == 0) {
            expect_same(&p);
        }
    }
    expect_same(&p);
}
END_TEST

START_TEST(searches)
{
    struct pair p = {0};
    uint64_t seed = 2, first, end;
    for (int i = 0; i < ROUNDS; i++) {
        random_range(&seed, &first, &end);
        uint64_t few = first + next_random(&seed) % 5;
        set_both(&p, first, few < NBITS ? few : NBITS, next_random(&seed) & 1);
        random_range(&seed, &first, &end);
        ck_assert_uint_eq(bits_next_set(p.map, first, end), model_next(&p, first, end, true));
        ck_assert_uint_eq(bits_next_clear(p.map, first, end), model_next(&p, first, end, false));
        ck_assert_uint_eq(bits_count(p.map, first, end), model_count(&p, first, end));
    }
}
END_TEST

START_TEST(single_bits)
{
    struct pair p = {0};
    for (uint64_t i = 0; i < NBITS; i += 7) {
        bits_set(p.map, i);
        p.model[i] = true;
    }
    expect_same(&p);
}
END_TEST

/* An empty range at the end of a map touches no word behind it. */
START_TEST(empty_ranges)
{
    uint64_t map[2] = {0, 0x5a5a};
    bits_set_range(map, 0, 0);
    bits_set_range(map, 64, 64);
    bits_clear_range(map, 64, 64);
    ck_assert_uint_eq(map[0], 0);
    ck_assert_uint_eq(map[1], 0x5a5a);
    ck_assert_uint_eq(bits_next_set(map, 64, 64), 64);
    ck_assert_uint_eq(bits_next_set(map, 70, 65), 65);
    ck_assert_uint_eq(bits_count(map, 64, 64), 0);
    ck_assert_uint_eq(bits_words(0), 0);
    ck_assert_uint_eq(bits_words(1), 1);
    ck_assert_uint_eq(bits_words(64), 1);
    ck_assert_uint_eq(bits_words(65), 2);
}
END_TEST

START_TEST(masks)
{
    for (uint64_t first = 60; first < 140; first++) {
        for (uint64_t end = first; end < 200; end++) {
            uint64_t expected = 0;
            for (uint64_t bit = 64; bit < 128; bit++) {
                expected |= bit >= first && bit < end ? 1ULL << (bit - 64) : 0;
            }
            if (first < 128 && end > 64) {
                ck_assert_uint_eq(bits_mask_in_word(1, first, end), expected);
            }
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("common/bits");
    unit_add(suite, "common/bits/ranges", ranges);
    unit_add(suite, "common/bits/either", either);
    unit_add(suite, "common/bits/searches", searches);
    unit_add(suite, "common/bits/single-bits", single_bits);
    unit_add(suite, "common/bits/empty-ranges", empty_ranges);
    unit_add(suite, "common/bits/masks", masks);
    return unit_run(suite);
}
