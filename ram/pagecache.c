/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/pagecache.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define WAYS 8u

/* A page that was not used for so many rounds makes room. */
#define LIFETIME 2u

/* What place n holds. */
struct place {
    uint64_t number;
    uint64_t used; /* the round; 0: nothing */
};

struct page_cache {
    uint64_t pages;       /* places, those of a set one after another */
    uint64_t sets;        /* a power of two */
    unsigned ways, shift; /* shift: log2 of sets */
    struct place *places;
    uint8_t *bytes; /* of place n from n pages on */
};

static void *map(uint64_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        return NULL;
    }
    /* What is written while a helper lives is not to be copied. */
    madvise(at, bytes, MADV_DONTFORK);
    madvise(at, bytes, MADV_DONTDUMP); /* the guest's RAM, as in ram/block.c */
    return at;
}

struct page_cache *pagecache_new(uint64_t bytes, struct error **errp)
{
    struct page_cache *c = calloc(1, sizeof(*c));
    if (!c) {
        abort();
    }
    c->pages = bytes >> RAM_PAGE_SHIFT;
    c->ways = c->pages < WAYS ? (unsigned)c->pages : WAYS;
    c->sets = c->pages / c->ways;
    c->shift = (unsigned)__builtin_ctzll(c->sets);
    c->places = map(c->pages * sizeof(struct place));
    c->bytes = c->places ? map(bytes) : NULL;
    if (!c->bytes) {
        error_set(errp, "no-memory", "No memory for a page cache of %" PRIu64 " bytes: %s", bytes,
                  strerror(errno));
        pagecache_free(c);
        return NULL;
    }
    return c;
}

void pagecache_free(struct page_cache *cache)
{
    if (!cache) {
        return;
    }
    if (cache->places) {
        munmap(cache->places, cache->pages * sizeof(struct place));
    }
    if (cache->bytes) {
        munmap(cache->bytes, cache->pages << RAM_PAGE_SHIFT);
    }
    free(cache);
}

uint64_t pagecache_pages(const struct page_cache *cache)
{
    return cache->pages;
}

uint64_t pagecache_bytes(const struct page_cache *cache)
{
    return cache->pages << RAM_PAGE_SHIFT;
}

/*
 * The first place of the number's set.  A range as long as the cache still fits it, and numbers a
 * power of two apart are spread.
 */
static struct place *set_of(const struct page_cache *c, uint64_t number)
{
    return c->places + ((number ^ number >> c->shift) & (c->sets - 1)) * c->ways;
}

static uint8_t *bytes_of(const struct page_cache *c, const struct place *p)
{
    return c->bytes + ((uint64_t)(p - c->places) << RAM_PAGE_SHIFT);
}

static struct place *look_up(const struct page_cache *c, uint64_t number)
{
    struct place *set = set_of(c, number);
    for (unsigned i = 0; i < c->ways; i++) {
        if (set[i].number == number && set[i].used) {
            return &set[i];
        }
    }
    return NULL;
}

/* The place that was not used for longest, an empty one before all others. */
static struct place *oldest(const struct page_cache *c, uint64_t number)
{
    struct place *set = set_of(c, number);
    struct place *found = set;
    for (unsigned i = 1; i < c->ways; i++) {
        found = set[i].used < found->used ? &set[i] : found;
    }
    return found;
}

uint8_t *pagecache_find(struct page_cache *cache, uint64_t number, uint64_t round)
{
    struct place *p = look_up(cache, number);
    if (!p) {
        return NULL;
    }
    p->used = round;
    return bytes_of(cache, p);
}

uint8_t *pagecache_add(struct page_cache *cache, uint64_t number, uint64_t round)
{
    struct place *p = oldest(cache, number);
    if (p->used && p->used + LIFETIME > round) {
        return NULL;
    }
    *p = (struct place){.number = number, .used = round};
    return bytes_of(cache, p);
}

void pagecache_drop(struct page_cache *cache, uint64_t number)
{
    struct place *p = look_up(cache, number);
    if (p) {
        p->used = 0;
    }
}

void pagecache_adopt(struct page_cache *cache, const struct page_cache *from, uint64_t first,
                     uint64_t end)
{
    for (const struct place *p = from->places + first; p < from->places + end; p++) {
        struct place *to = oldest(cache, p->number);
        if (p->used > to->used) {
            *to = *p;
            memcpy(bytes_of(cache, to), bytes_of(from, p), RAM_PAGE_SIZE);
        }
    }
}
