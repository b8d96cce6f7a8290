/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/pagecache.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <string.h>

static struct page_cache *open_cache(uint64_t pages)
{
    struct error *err = NULL;
    struct page_cache *c = pagecache_new(pages * PAGE, &err);
    expect_ok(c != NULL, err);
    ck_assert_uint_eq(pagecache_pages(c), pages);
    ck_assert_uint_eq(pagecache_bytes(c), pages * PAGE);
    return c;
}

/* A page's bytes, other ones for each number and version. */
static void paint(uint8_t *page, uint64_t number, uint64_t version)
{
    for (size_t i = 0; i < RAM_PAGE_SIZE; i += 16) {
        memcpy(page + i, &number, 8);
        memcpy(page + i + 8, &version, 8);
    }
}

static bool add(struct page_cache *c, uint64_t number, uint64_t round)
{
    uint8_t *page = pagecache_add(c, number, round);
    if (page) {
        paint(page, number, round);
    }
    return page;
}

/* Whether it is there; fails the test when its bytes are another's. */
static bool has(struct page_cache *c, uint64_t number, uint64_t version, uint64_t round)
{
    uint8_t expected[RAM_PAGE_SIZE];
    uint8_t *page = pagecache_find(c, number, round);
    paint(expected, number, version);
    ck_assert(!page || memcmp(page, expected, RAM_PAGE_SIZE) == 0);
    return page;
}

static uint64_t count(struct page_cache *c, uint64_t first, uint64_t pages, uint64_t version,
                      uint64_t round)
{
    uint64_t found = 0;
    for (uint64_t n = first; n < first + pages; n++) {
        found += has(c, n, version, round);
    }
    return found;
}

static uint64_t add_all(struct page_cache *c, uint64_t first, uint64_t pages, uint64_t round)
{
    uint64_t added = 0;
    for (uint64_t n = first; n < first + pages; n++) {
        added += add(c, n, round);
    }
    return added;
}

START_TEST(finds_what_was_added)
{
    struct page_cache *c = open_cache(64);
    ck_assert(!has(c, 0, 1, 1));
    ck_assert(add(c, 0, 1));
    ck_assert(add(c, 1ULL << 33, 1));
    ck_assert(has(c, 0, 1, 1));
    ck_assert(has(c, 1ULL << 33, 1, 1));
    ck_assert(!has(c, 1, 1, 1));
    pagecache_drop(c, 0);
    pagecache_drop(c, 77); /* not there */
    ck_assert(!has(c, 0, 1, 1));
    ck_assert(has(c, 1ULL << 33, 1, 1));
    pagecache_free(c);
}
END_TEST

/* A guest's working set that is as large as the cache has room in it, wherever it begins. */
START_TEST(fits_a_range)
{
    for (uint64_t pages = 1; pages <= 512; pages *= 2) {
        struct page_cache *c = open_cache(pages);
        uint64_t first = 3 * pages;
        ck_assert_uint_eq(add_all(c, first, pages, 1), pages);
        ck_assert_uint_eq(count(c, first, pages, 1, 1), pages);
        ck_assert(!add(c, first + pages, 1));
        pagecache_free(c);
    }
}
END_TEST

START_TEST(spreads_powers_of_two)
{
    struct page_cache *c = open_cache(512);
    uint64_t added = 0;
    for (uint64_t i = 0; i < 64; i++) {
        added += add(c, i * 64, 1);
    }
    ck_assert_uint_eq(added, 64); /* without folding all would be in one set of eight */
    pagecache_free(c);
}
END_TEST

START_TEST(young_pages_stay)
{
    struct page_cache *c = open_cache(16);
    ck_assert_uint_eq(add_all(c, 0, 16, 1), 16);
    ck_assert_uint_eq(add_all(c, 100, 16, 1), 0);
    ck_assert_uint_eq(add_all(c, 100, 16, 2), 0);
    ck_assert_uint_eq(count(c, 0, 16, 1, 2), 16);
    pagecache_free(c);
}
END_TEST

START_TEST(old_pages_make_room)
{
    struct page_cache *c = open_cache(16);
    add_all(c, 0, 16, 1);
    ck_assert_uint_eq(add_all(c, 160, 16, 3), 16);
    ck_assert_uint_eq(count(c, 160, 16, 3, 3), 16);
    ck_assert_uint_eq(count(c, 0, 16, 1, 3), 0);
    pagecache_free(c);
}
END_TEST

/* Used in each round, they outlive a stream of pages that come once. */
START_TEST(hot_pages_stay)
{
    struct page_cache *c = open_cache(64);
    add_all(c, 0, 32, 1);
    for (uint64_t round = 2; round < 50; round++) {
        ck_assert_uint_eq(count(c, 0, 32, 1, round), 32);
        add_all(c, round * 1000, 500, round);
    }
    ck_assert_uint_eq(count(c, 0, 32, 1, 50), 32);
    pagecache_free(c);
}
END_TEST

START_TEST(oldest_goes_first)
{
    struct page_cache *c = open_cache(8);
    for (uint64_t n = 0; n < 8; n++) {
        add(c, n, n + 1);
    }
    ck_assert(add(c, 100, 20));
    ck_assert(!has(c, 0, 1, 20));
    for (uint64_t n = 1; n < 8; n++) {
        ck_assert(has(c, n, n + 1, 20));
    }
    pagecache_free(c);
}
END_TEST

static struct page_cache *resized(struct page_cache *c, uint64_t pages)
{
    struct page_cache *to = open_cache(pages);
    uint64_t half = pagecache_pages(c) / 2;
    pagecache_adopt(to, c, 0, half);
    pagecache_adopt(to, c, half, pagecache_pages(c));
    pagecache_free(c);
    return to;
}

START_TEST(growing_keeps_all)
{
    struct page_cache *c = open_cache(32);
    add_all(c, 0, 32, 5);
    c = resized(c, 1024);
    ck_assert_uint_eq(count(c, 0, 32, 5, 6), 32);
    ck_assert_uint_eq(add_all(c, 32, 992, 6), 992);
    pagecache_free(c);
}
END_TEST

START_TEST(shrinking_keeps_the_newest)
{
    struct page_cache *c = open_cache(256);
    add_all(c, 0, 192, 1);
    add_all(c, 192, 64, 2);
    c = resized(c, 64);
    ck_assert_uint_eq(count(c, 192, 64, 2, 3), 64);
    ck_assert_uint_eq(count(c, 0, 192, 1, 3), 0);
    c = resized(c, 1);
    ck_assert_uint_eq(count(c, 0, 256, 2, 4), 1);
    pagecache_free(c);
}
END_TEST

START_TEST(shrinking_keeps_what_fits)
{
    struct page_cache *c = open_cache(256);
    add_all(c, 0, 16, 1);
    c = resized(c, 32);
    ck_assert_uint_eq(count(c, 0, 16, 1, 1), 16);
    pagecache_free(c);
}
END_TEST

START_TEST(too_large)
{
    struct error *err = NULL;
    ck_assert_ptr_null(pagecache_new(1ULL << 62, &err));
    expect_error(err, "no-memory", "4611686018427387904");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ram/pagecache");
    unit_add(suite, "ram/pagecache/finds-what-was-added", finds_what_was_added);
    unit_add(suite, "ram/pagecache/fits-a-range", fits_a_range);
    unit_add(suite, "ram/pagecache/spreads-powers-of-two", spreads_powers_of_two);
    unit_add(suite, "ram/pagecache/young-pages-stay", young_pages_stay);
    unit_add(suite, "ram/pagecache/old-pages-make-room", old_pages_make_room);
    unit_add(suite, "ram/pagecache/hot-pages-stay", hot_pages_stay);
    unit_add(suite, "ram/pagecache/oldest-goes-first", oldest_goes_first);
    unit_add(suite, "ram/pagecache/growing-keeps-all", growing_keeps_all);
    unit_add(suite, "ram/pagecache/shrinking-keeps-the-newest", shrinking_keeps_the_newest);
    unit_add(suite, "ram/pagecache/shrinking-keeps-what-fits", shrinking_keeps_what_fits);
    unit_add(suite, "ram/pagecache/too-large", too_large);
    return unit_run(suite);
}
