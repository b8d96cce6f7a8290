/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A cache of pages by number: for xbzrle, what the destination holds of the pages written most.
 *
 * Set-associative, with the round in which each page was last used.  A page that is not there yet
 * takes the place of its set's oldest only when that one was not used for two rounds; otherwise it
 * stays outside.  So a guest that writes more than fits does not turn over the cache in each round:
 * the pages that it writes all the time stay.
 *
 * Owned by one job's thread.  Memory is taken up as pages come in.
 */
#ifndef FERRY_RAM_PAGECACHE_H
#define FERRY_RAM_PAGECACHE_H

#include "common/error.h"
#include "ram/block.h"

struct page_cache;

/* `bytes` is a power of two and at least one page.  Fails with "no-memory". */
struct page_cache *pagecache_new(uint64_t bytes, struct error **errp);
void pagecache_free(struct page_cache *cache); /* NULL is allowed */

uint64_t pagecache_bytes(const struct page_cache *cache);
/* Pages that there is room for. */
uint64_t pagecache_pages(const struct page_cache *cache);

/* The page's bytes, used in `round` (from 1 on, never falling); NULL: not there. */
uint8_t *pagecache_find(struct page_cache *cache, uint64_t number, uint64_t round);

/*
 * Room for a page that is not there, to be filled by the caller; NULL: its set has no place to
 * give.  What was found or added in a round keeps its place to the end of that round.
 */
uint8_t *pagecache_add(struct page_cache *cache, uint64_t number, uint64_t round);

void pagecache_drop(struct page_cache *cache, uint64_t number);

/*
 * Copies what another cache holds in its places [first, end), of pagecache_pages; where a set of
 * `cache` has no room for all, it keeps those last used.
 */
void pagecache_adopt(struct page_cache *cache, const struct page_cache *from, uint64_t first,
                     uint64_t end);

#endif
