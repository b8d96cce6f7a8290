/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/save.h"

#include "common/bits.h"
#include "common/clock.h"
#include "ram/batch.h"
#include "ram/delta.h"
#include "ram/extent.h"
#include "ram/fault.h"
#include "ram/returned.h"
#include "ram/zero.h"

#include <stdlib.h>
#include <sys/mman.h>

/* Pages looked at together: their payload fits one RAM_PAGES record. */
#define UNIT_PAGES (RECORD_PAYLOAD_MAX / RAM_PAGE_SIZE)
#define UNIT_WORDS (UNIT_PAGES / BITS_PER_WORD)

/* From this many pages on a run that the tracker reports is asked for holes before it is read. */
#define HOLE_CHECK_PAGES 8u

/* The kernel's MADV_POPULATE_READ, which older headers lack: maps pages in without a fault each. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* One sweep over all blocks. */
struct sweep {
    struct ram_saver *saver;
    enum ram_round kind;
    bool returned; /* pages have become holes without a report */
    struct ram_block *block;
    unsigned index;
    struct extent_cursor cursor;
    uint64_t zero_from, zero_end; /* a zero range that may still grow */
    struct batch batch;
};

static void count(_Atomic uint64_t *counter, uint64_t pages)
{
    atomic_fetch_add_explicit(counter, pages, memory_order_relaxed);
}

static void count_done(struct sweep *s, _Atomic uint64_t *counter, uint64_t pages)
{
    count(counter, pages);
    atomic_fetch_sub_explicit(&s->saver->counters->remaining, pages, memory_order_relaxed);
}

/* The first round goes whole: what is written once is not worth the room. */
static bool has_deltas(const struct sweep *s)
{
    return s->saver->delta && s->kind != RAM_ROUND_FIRST;
}

/* ---- records ---- */

static bool flush_zero(struct sweep *s, struct error **errp)
{
    if (s->zero_from == s->zero_end) {
        return true;
    }
    if (!batch_reserve(&s->batch, errp)) {
        return false;
    }
    batch_put_range(&s->batch, RECORD_RAM_ZERO, s->index, s->zero_from, s->zero_end);
    s->zero_from = s->zero_end = 0;
    return true;
}

static bool put_zero_range(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    if (s->zero_end != first || s->zero_from == s->zero_end) {
        if (!flush_zero(s, errp)) {
            return false;
        }
        s->zero_from = first;
    }
    s->zero_end = end;
    if (has_deltas(s)) {
        ram_delta_forget(s->saver->delta, s->index, first, end);
    }
    count_done(s, &s->saver->counters->duplicate, end - first);
    return true;
}

/* As much of [first, end) as the batch has room for; returns the pages taken, 0 with an error. */
static uint64_t put_some_pages(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    if (!batch_reserve(&s->batch, errp)) {
        return 0;
    }
    uint64_t room = batch_room(&s->batch);
    uint64_t pages = end - first < room ? end - first : room;
    batch_put_pages(&s->batch, s->index, first, pages, ram_page(s->block, first));
    count_done(s, &s->saver->counters->normal, pages);
    return pages;
}

/* The same for pages that the sink places; their record follows in the stream. */
static uint64_t place_some_pages(struct sweep *s, uint64_t first, uint64_t end, bool zeroes,
                                 struct error **errp)
{
    const struct record_sink *sink = &s->saver->sink;
    if (!batch_reserve(&s->batch, errp)) {
        return 0;
    }
    uint64_t room = batch_room(&s->batch);
    uint64_t pages = end - first < room ? end - first : room;
    if (!sink->place(sink->opaque, s->index, first << RAM_PAGE_SHIFT, pages << RAM_PAGE_SHIFT,
                     zeroes, errp)) {
        return 0;
    }
    bits_set_range(s->block->populated, first, first + pages);
    batch_put_range(&s->batch, RECORD_RAM_PLACED, s->index, first, first + pages);
    batch_count_placed(&s->batch, pages);
    count_done(s, &s->saver->counters->normal, pages);
    return pages;
}

static bool place_pages(struct sweep *s, uint64_t first, uint64_t end, bool zeroes,
                        struct error **errp)
{
    while (first < end) {
        uint64_t taken = place_some_pages(s, first, end, zeroes, errp);
        if (!taken) {
            return false;
        }
        first += taken;
    }
    return true;
}

/* Zeroes over a page that was placed are placed as well. */
static bool put_zero(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    if (!s->saver->sink.place) {
        return put_zero_range(s, first, end, errp);
    }
    const uint64_t *placed = s->block->populated;
    while (first < end) {
        bool again = bits_test(placed, first);
        uint64_t stop =
            again ? bits_next_clear(placed, first, end) : bits_next_set(placed, first, end);
        if (!(again ? place_pages(s, first, stop, true, errp)
                    : put_zero_range(s, first, stop, errp))) {
            return false;
        }
        first = stop;
    }
    return true;
}

static bool put_pages(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    if (s->saver->sink.place) {
        return place_pages(s, first, end, false, errp);
    }
    if (!flush_zero(s, errp)) {
        return false;
    }
    while (first < end) {
        uint64_t taken = put_some_pages(s, first, end, errp);
        if (!taken) {
            return false;
        }
        first += taken;
    }
    return true;
}

/* ---- pages that may go as deltas ---- */

/* A copy in the cache, which nobody changes before the batch is sent. */
static bool put_copy(struct sweep *s, uint64_t page, uint8_t *bytes, struct error **errp)
{
    if (!flush_zero(s, errp) || !batch_reserve(&s->batch, errp)) {
        return false;
    }
    batch_put_copy(&s->batch, s->index, page, bytes);
    count_done(s, &s->saver->counters->normal, 1);
    return true;
}

static bool put_delta(struct sweep *s, uint64_t page, const struct delta_page *changes,
                      struct error **errp)
{
    if (!flush_zero(s, errp) || !batch_reserve(&s->batch, errp)) {
        return false;
    }
    batch_put_record(&s->batch, ram_delta_record(s->saver->delta, s->index, page, changes));
    count_done(s, &s->saver->counters->delta, 1);
    return true;
}

static bool put_known(struct sweep *s, uint64_t page, const struct delta_page *p,
                      struct error **errp)
{
    if (p->kind == DELTA_CHANGES) {
        return put_delta(s, page, p, errp);
    }
    if (p->kind == DELTA_COPY) {
        return put_copy(s, page, p->bytes, errp);
    }
    count_done(s, &s->saver->counters->skipped, 1);
    return true;
}

/* Pages that the cache does not take on go in runs, as if there were none. */
static bool put_changed(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    uint64_t run = first;
    for (uint64_t page = first; page < end; page++) {
        struct delta_page p;
        if (!ram_delta_take(s->saver->delta, s->index, page, &p, errp)) {
            return false;
        }
        if (p.kind == DELTA_NOT_CACHED) {
            continue;
        }
        if ((run < page && !put_pages(s, run, page, errp)) || !put_known(s, page, &p, errp)) {
            return false;
        }
        run = page + 1;
    }
    return run == end || put_pages(s, run, end, errp);
}

static bool put_content(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    return has_deltas(s) ? put_changed(s, first, end, errp) : put_pages(s, first, end, errp);
}

/* Follows a change of the cache's size, which moves the copies that a batch points to. */
static bool fit_cache(struct sweep *s, struct error **errp)
{
    struct ram_delta *d = s->saver->delta;
    if (!d || s->kind == RAM_ROUND_STOPPED || !ram_delta_must_resize(d)) {
        return true;
    }
    return batch_flush(&s->batch, errp) && ram_delta_resize(d, &s->saver->pacer, errp);
}

/* ---- looking at pages ---- */

/* A fault also maps what exists around its page, in an aligned window of 64 KiB by default (the
 * kernel's fault_around_bytes). */
#define FAULT_WINDOW 65536u

/* Pages: the first word of each costs a wait for memory, unless it was asked for before. */
#define LOOK_AHEAD 8u

struct classify {
    const struct ram_block *block;
    uint64_t first, pages;
    bool populate;
    uint64_t zero[UNIT_WORDS];
};

/* One page is asked for of each window: the kernel looks each page up that is asked for. */
static void map_in(uint8_t *from, size_t length)
{
    for (size_t at = 0; at < length;
         at += FAULT_WINDOW - ((uintptr_t)(from + at) & (FAULT_WINDOW - 1))) {
        madvise(from + at, RAM_PAGE_SIZE, MADV_POPULATE_READ);
    }
}

static void classify(void *arg)
{
    struct classify *c = arg;
    if (c->populate) {
        map_in(ram_page(c->block, c->first), c->pages << RAM_PAGE_SHIFT);
    }
    for (uint64_t i = 0; i < c->pages; i++) {
        __builtin_prefetch(ram_page(c->block, c->first + i + LOOK_AHEAD)); /* may be past the end */
        if (page_is_zero(ram_page(c->block, c->first + i))) {
            bits_set(c->zero, i);
        }
    }
}

/* Sends a unit of pages that exist, as runs of zero and other pages. */
static bool send_unit(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    struct classify c = {.block = s->block,
                         .first = first,
                         .pages = end - first,
                         .populate = s->kind == RAM_ROUND_FIRST};
    if (!fault_guarded(classify, &c)) {
        ram_vanished(s->block, errp);
        return false;
    }
    bits_set_range(s->block->existing, first, end);
    uint64_t at = 0;
    while (at < c.pages) {
        bool zero = bits_test(c.zero, at);
        uint64_t stop =
            zero ? bits_next_clear(c.zero, at, c.pages) : bits_next_set(c.zero, at, c.pages);
        if (!(zero ? put_zero : put_content)(s, first + at, first + stop, errp)) {
            return false;
        }
        at = stop;
    }
    return true;
}

/* What the first round does with a run: holes are passed over, the destination starts empty. */
static bool send_existing(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    uint64_t from, stop;
    while (extent_next(s->block, &s->cursor, first, end, &from, &stop)) {
        count_done(s, &s->saver->counters->skipped, from - first);
        for (uint64_t at = from; at < stop;) {
            uint64_t unit_end = stop - at < UNIT_PAGES ? stop : at + UNIT_PAGES;
            /* A slow round is long: what existed when the extent was looked up may be gone. */
            uint64_t exists = extent_skip_hole(s->block, at, unit_end);
            count_done(s, &s->saver->counters->skipped, exists - at);
            if (exists < unit_end && !send_unit(s, exists, unit_end, errp)) {
                return false;
            }
            at = unit_end;
        }
        first = stop;
    }
    count_done(s, &s->saver->counters->skipped, end - first);
    return true;
}

/* A page that became a hole is sent as zeroes and not read. */
static bool put_hole(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    bits_clear_range(s->block->existing, first, end);
    return first == end || put_zero(s, first, end, errp);
}

static bool send_units(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    bool ok = true;
    for (uint64_t at = first; ok && at < end; at += UNIT_PAGES) {
        ok = send_unit(s, at, end - at < UNIT_PAGES ? end : at + UNIT_PAGES, errp);
    }
    return ok;
}

/* Where pages were returned: no hole is read, which would make it exist again. */
static bool send_around_holes(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    uint64_t from, stop;
    while (extent_next(s->block, &s->cursor, first, end, &from, &stop)) {
        if (!put_hole(s, first, from, errp) || !send_units(s, from, stop, errp)) {
            return false;
        }
        first = stop;
    }
    return put_hole(s, first, end, errp);
}

/*
 * What later rounds do.  A hole at the start of a unit is detected, which costs little; a hole after
 * its first data is read.
 */
static bool send_dirty(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    if (s->returned) {
        return send_around_holes(s, first, end, errp);
    }
    for (uint64_t at = first; at < end;) {
        uint64_t unit_end = end - at < UNIT_PAGES ? end : at + UNIT_PAGES;
        uint64_t from =
            unit_end - at < HOLE_CHECK_PAGES ? at : extent_skip_hole(s->block, at, unit_end);
        if (!put_hole(s, at, from, errp) ||
            (from < unit_end && !send_unit(s, from, unit_end, errp))) {
            return false;
        }
        at = unit_end;
    }
    return true;
}

static bool send_chunk(struct sweep *s, uint64_t first, uint64_t end, struct error **errp)
{
    const struct ram_tracker *tracker = &s->saver->tracker;
    if (!fit_cache(s, errp)) {
        return false;
    }
    if (s->kind != RAM_ROUND_STOPPED &&
        !tracker->clear(tracker->opaque, s->index, first, end - first, errp)) {
        return false;
    }
    extent_forget_holes(&s->cursor);
    uint64_t at = first;
    while ((at = bits_next_set(s->block->dirty, at, end)) < end) {
        uint64_t stop = bits_next_clear(s->block->dirty, at, end);
        bool ok = s->kind == RAM_ROUND_FIRST ? send_existing(s, at, stop, errp)
                                             : send_dirty(s, at, stop, errp);
        if (!ok) {
            return false;
        }
        at = stop;
    }
    bits_clear_range(s->block->dirty, first, end);
    return true;
}

/* The returned pages of a hole.  They were not dirty: nothing more is to be read of them, and what
 * is written to them from now on is reported. */
static bool send_returned_range(struct sweep *s, uint64_t at, uint64_t end, struct error **errp)
{
    uint64_t first, last;
    while (ram_next_returned(s->block, &at, end, &first, &last)) {
        count(&s->saver->counters->remaining, last - first);
        if (!put_hole(s, first, last, errp)) {
            return false;
        }
    }
    return true;
}

static bool send_all_unmapped(struct sweep *s, struct error **errp)
{
    const struct record_pacer *pacer = &s->saver->pacer;
    const uint64_t pages = s->block->pages;
    for (uint64_t at = 0, first, last; at < pages; at = last) {
        ram_find_unmapped(s->block, at, pages, &first, &last);
        if (!pacer->check(pacer->opaque, errp) || !send_returned_range(s, first, last, errp)) {
            return false;
        }
    }
    return true;
}

static bool send_all_returned(struct sweep *s, struct error **errp)
{
    const struct record_pacer *pacer = &s->saver->pacer;
    struct extent_cursor cursor = {0};
    const uint64_t pages = s->block->pages;
    uint64_t at = 0, from, stop;
    while (extent_next(s->block, &cursor, at, pages, &from, &stop)) {
        if (!pacer->check(pacer->opaque, errp) || !send_returned_range(s, at, from, errp)) {
            return false;
        }
        at = stop;
    }
    return send_returned_range(s, at, pages, errp);
}

static bool send_returned(struct sweep *s, struct error **errp)
{
    uint64_t start = clock_ns();
    bool ok = (s->block->no_pwrite ? send_all_unmapped : send_all_returned)(s, errp);
    s->saver->listing_ns += clock_ns() - start;
    return ok;
}

static bool send_block(struct sweep *s, struct error **errp)
{
    const struct ram_block *b = s->block;
    uint64_t at = 0;
    if (s->returned && !send_returned(s, errp)) {
        return false;
    }
    while ((at = bits_next_set(b->dirty, at, b->pages)) < b->pages) {
        uint64_t first = at / RAM_CHUNK_PAGES * RAM_CHUNK_PAGES;
        uint64_t end = b->pages - first < RAM_CHUNK_PAGES ? b->pages : first + RAM_CHUNK_PAGES;
        if (!send_chunk(s, first, end, errp)) {
            return false;
        }
        at = end;
    }
    return flush_zero(s, errp);
}

void ram_save_begin(struct ram_saver *saver)
{
    for (unsigned i = 0; i < saver->ram->count; i++) {
        bits_set_range(saver->ram->blocks[i].dirty, 0, saver->ram->blocks[i].pages);
    }
    atomic_store(&saver->counters->remaining, saver->ram->bytes >> RAM_PAGE_SHIFT);
}

bool ram_save_sync(struct ram_saver *saver, struct error **errp)
{
    if (!saver->tracker.sync(saver->tracker.opaque, saver->ram, errp)) {
        return false;
    }
    atomic_store(&saver->counters->remaining, ram_count_dirty(saver->ram));
    return true;
}

bool ram_save_round(struct ram_saver *saver, enum ram_round kind, struct error **errp)
{
    struct sweep *s = calloc(1, sizeof(*s));
    if (!s) {
        abort();
    }
    s->saver = saver;
    s->batch.saver = saver;
    s->kind = kind;
    s->returned = kind != RAM_ROUND_FIRST &&
                  ((saver->exact && kind == RAM_ROUND_STOPPED) || ram_has_returned(saver->ram));
    saver->listing_ns = s->returned ? 0 : saver->listing_ns;
    if (has_deltas(s)) {
        ram_delta_begin_round(saver->delta, kind == RAM_ROUND_STOPPED);
    }
    bool ok = true;
    for (unsigned i = 0; ok && i < saver->ram->count; i++) {
        s->index = i;
        s->block = &saver->ram->blocks[i];
        s->cursor = (struct extent_cursor){0};
        ok = send_block(s, errp);
    }
    ok = ok && batch_flush(&s->batch, errp);
    free(s);
    return ok && ram_check_sizes(saver->ram, errp);
}
