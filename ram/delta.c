/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/delta.h"

#include "common/log.h"
#include "ram/fault.h"
#include "ram/pagecache.h"
#include "ram/xbzrle.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

/* Block and offset, before the delta itself. */
#define FIXED_SIZE 16u

/* A record that is no longer than this is shorter than the page, with head and padding. */
#define DELTA_MAX (RAM_PAGE_SIZE - RECORD_HEAD_SIZE - FIXED_SIZE - 8)

/* Pages moved from one cache to another between two looks around, some milliseconds. */
#define MOVE_PAGES 4096u

struct ram_delta {
    const struct ram *ram;
    const _Atomic uint64_t *wanted;
    struct ram_counters *counters;
    struct page_cache *cache;
    uint64_t refused; /* a size that there was no memory for; 0: none */
    uint64_t round;
    bool last;
    uint64_t first_number[RAM_BLOCKS_MAX]; /* in the cache, of each block's first page */
    uint8_t page[RAM_PAGE_SIZE];           /* a copy of the guest's */
    uint8_t changes[DELTA_MAX];
    size_t used;                         /* of records */
    uint8_t records[RECORD_PAYLOAD_MAX]; /* not sent yet */
};

static void count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static uint64_t wanted_bytes(const struct ram_delta *d)
{
    return atomic_load_explicit(d->wanted, memory_order_relaxed);
}

static void take_cache(struct ram_delta *d, struct page_cache *cache)
{
    pagecache_free(d->cache);
    d->cache = cache;
    atomic_store(&d->counters->cache_bytes, pagecache_bytes(cache));
}

struct ram_delta *ram_delta_new(const struct ram *ram, const _Atomic uint64_t *wanted,
                                struct ram_counters *counters, struct error **errp)
{
    struct ram_delta *d = calloc(1, sizeof(*d));
    if (!d) {
        abort();
    }
    d->ram = ram;
    d->wanted = wanted;
    d->counters = counters;
    for (unsigned i = 1; i < ram->count; i++) {
        d->first_number[i] = d->first_number[i - 1] + ram->blocks[i - 1].pages;
    }
    struct page_cache *cache = pagecache_new(wanted_bytes(d), errp);
    if (!cache) {
        free(d);
        return NULL;
    }
    take_cache(d, cache);
    return d;
}

void ram_delta_free(struct ram_delta *d)
{
    if (d) {
        pagecache_free(d->cache);
        free(d);
    }
}

void ram_delta_begin_round(struct ram_delta *d, bool last)
{
    d->round++;
    d->last = last;
}

/* ---- the cache's size ---- */

bool ram_delta_must_resize(const struct ram_delta *d)
{
    uint64_t wanted = wanted_bytes(d);
    return wanted != pagecache_bytes(d->cache) && wanted != d->refused;
}

static void stay(struct ram_delta *d, uint64_t wanted, struct error *err)
{
    log_warning("%s; the cache stays at %" PRIu64 " bytes", err->text, pagecache_bytes(d->cache));
    error_free(err);
    d->refused = wanted;
}

bool ram_delta_resize(struct ram_delta *d, const struct record_pacer *pacer, struct error **errp)
{
    uint64_t wanted = wanted_bytes(d);
    uint64_t pages = pagecache_pages(d->cache);
    struct error *err = NULL;
    struct page_cache *cache = pagecache_new(wanted, &err);
    if (!cache) {
        stay(d, wanted, err);
        return true;
    }
    for (uint64_t at = 0; at < pages; at += MOVE_PAGES) {
        if (!pacer->check(pacer->opaque, errp)) {
            pagecache_free(cache);
            return false;
        }
        uint64_t end = pages - at < MOVE_PAGES ? pages : at + MOVE_PAGES;
        pagecache_adopt(cache, d->cache, at, end);
    }
    take_cache(d, cache);
    d->refused = 0;
    return true;
}

/* ---- pages ---- */

struct copy {
    uint8_t *to;
    const uint8_t *from;
};

static void copy_page(void *arg)
{
    const struct copy *c = arg;
    memcpy(c->to, c->from, RAM_PAGE_SIZE);
}

static bool copy_guests_page(const struct ram_block *b, uint64_t page, uint8_t *to,
                             struct error **errp)
{
    struct copy c = {.to = to, .from = ram_page(b, page)};
    if (!fault_guarded(copy_page, &c)) {
        ram_vanished(b, errp);
        return false;
    }
    return true;
}

static bool take_new(struct ram_delta *d, const struct ram_block *b, uint64_t page, uint64_t number,
                     struct delta_page *out, struct error **errp)
{
    uint8_t *place = d->last ? NULL : pagecache_add(d->cache, number, d->round);
    count(&d->counters->cache_misses);
    *out = (struct delta_page){
        .kind = place ? DELTA_COPY : DELTA_NOT_CACHED, .bytes = place, .length = RAM_PAGE_SIZE};
    return !place || copy_guests_page(b, page, place, errp);
}

/* The cached page becomes what the destination makes of what it is sent. */
static bool take_known(struct ram_delta *d, const struct ram_block *b, uint64_t page,
                       uint8_t *cached, struct delta_page *out, struct error **errp)
{
    count(&d->counters->cache_hits);
    if (!copy_guests_page(b, page, d->page, errp)) {
        return false;
    }
    size_t length = xbzrle_encode(cached, d->page, d->changes, sizeof(d->changes));
    if (length == XBZRLE_NO_GAIN) {
        count(&d->counters->overflows);
        memcpy(cached, d->page, RAM_PAGE_SIZE);
        *out = (struct delta_page){.kind = DELTA_COPY, .bytes = cached, .length = RAM_PAGE_SIZE};
        return true;
    }
    xbzrle_apply(d->changes, length, cached);
    *out = (struct delta_page){
        .kind = length ? DELTA_CHANGES : DELTA_EQUAL, .bytes = d->changes, .length = length};
    return true;
}

bool ram_delta_take(struct ram_delta *d, unsigned block, uint64_t page, struct delta_page *out,
                    struct error **errp)
{
    const struct ram_block *b = &d->ram->blocks[block];
    uint64_t number = d->first_number[block] + page;
    uint8_t *cached = pagecache_find(d->cache, number, d->round);
    return cached ? take_known(d, b, page, cached, out, errp)
                  : take_new(d, b, page, number, out, errp);
}

void ram_delta_forget(struct ram_delta *d, unsigned block, uint64_t first, uint64_t end)
{
    for (uint64_t page = first; page < end; page++) {
        pagecache_drop(d->cache, d->first_number[block] + page);
    }
}

/* ---- records ---- */

struct iovec ram_delta_record(struct ram_delta *d, unsigned block, uint64_t page,
                              const struct delta_page *changes)
{
    uint8_t *head = d->records + d->used;
    uint8_t *body = head + RECORD_HEAD_SIZE;
    size_t length = FIXED_SIZE + changes->length;
    size_t padding = -length & 7;
    put_le32(body, block);
    put_le32(body + 4, 0);
    put_le64(body + 8, page << RAM_PAGE_SHIFT);
    memcpy(body + FIXED_SIZE, changes->bytes, changes->length);
    memset(body + length, 0, padding);
    record_head(head, RECORD_RAM_DELTA, length, body, length);
    size_t whole = RECORD_HEAD_SIZE + length + padding;
    d->used += whole;
    atomic_fetch_add_explicit(&d->counters->delta_bytes, whole, memory_order_relaxed);
    return (struct iovec){.iov_base = head, .iov_len = whole};
}

void ram_delta_sent(struct ram_delta *d)
{
    d->used = 0;
}
