/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/verify.h"

#include "ram/extent.h"
#include "ram/fault.h"
#include "ram/zero.h"

#include <inttypes.h>
#include <stdlib.h>
#include <xxhash.h>

/* Pages hashed together: one record of 24 + 8 * RUN_PAGES bytes. */
#define RUN_PAGES 4096u

struct hash_run {
    const struct ram_block *block;
    uint64_t first, pages;
    uint64_t hashes[RUN_PAGES];
};

static void hash_pages(void *arg)
{
    struct hash_run *run = arg;
    for (uint64_t i = 0; i < run->pages; i++) {
        run->hashes[i] = XXH3_64bits(ram_page(run->block, run->first + i), RAM_PAGE_SIZE);
    }
}

static bool hash_run(struct hash_run *run, struct error **errp)
{
    if (!fault_guarded(hash_pages, run)) {
        ram_vanished(run->block, errp);
        return false;
    }
    return true;
}

/* What one sweep over RAM needs; on the heap, it is too large for a thread's stack. */
struct sender {
    struct hash_run run;
    uint8_t body[24 + 8 * RUN_PAGES];
};

static bool send_run(struct sender *s, unsigned index, const struct record_sink *sink,
                     struct error **errp)
{
    if (!hash_run(&s->run, errp)) {
        return false;
    }
    put_le32(s->body, index);
    put_le32(s->body + 4, 0);
    put_le64(s->body + 8, s->run.first << RAM_PAGE_SHIFT);
    put_le64(s->body + 16, s->run.pages);
    for (uint64_t i = 0; i < s->run.pages; i++) {
        put_le64(s->body + 24 + 8 * i, s->run.hashes[i]);
    }
    return record_write(sink, RECORD_VERIFY, s->body, 24 + 8 * (size_t)s->run.pages, errp);
}

static bool send_block(struct sender *s, const struct ram_block *b, unsigned index,
                       const struct record_sink *sink, struct error **errp)
{
    struct extent_cursor cursor = {0};
    uint64_t at = 0, from, stop;
    while (extent_next(b, &cursor, at, b->pages, &from, &stop)) {
        at = stop - from < RUN_PAGES ? stop : from + RUN_PAGES;
        s->run.block = b;
        s->run.first = from;
        s->run.pages = at - from;
        if (!send_run(s, index, sink, errp)) {
            return false;
        }
    }
    return true;
}

bool verify_send(struct ram *ram, const struct record_sink *sink, struct error **errp)
{
    struct sender *s = calloc(1, sizeof(*s));
    if (!s) {
        abort();
    }
    bool ok = true;
    for (unsigned i = 0; ok && i < ram->count; i++) {
        ok = send_block(s, &ram->blocks[i], i, sink, errp);
    }
    free(s);
    return ok;
}

/* ---- comparing ---- */

static bool differs(const struct ram_block *b, uint64_t page, struct error **errp)
{
    error_set(errp, "verify-failed",
              "verify: RAM block '%s' differs from the source, first at page %" PRIu64
              " (guest-physical address 0x%" PRIx64 ")",
              b->name, page, b->gpa + (page << RAM_PAGE_SHIFT));
    return false;
}

struct zero_scan {
    const struct ram_block *block;
    uint64_t at, end; /* `at` stops at the first page that is not zero */
};

static void scan_zero(void *arg)
{
    struct zero_scan *scan = arg;
    while (scan->at < scan->end && page_is_zero(ram_page(scan->block, scan->at))) {
        scan->at++;
    }
}

/* [at, end) must be holes or zeroes. */
static bool compare_zero(const struct ram_block *b, uint64_t at, uint64_t end, struct error **errp)
{
    struct extent_cursor cursor = {0};
    uint64_t from, stop;
    while (extent_next(b, &cursor, at, end, &from, &stop)) {
        struct zero_scan scan = {.block = b, .at = from, .end = stop};
        if (!fault_guarded(scan_zero, &scan)) {
            ram_vanished(b, errp);
            return false;
        }
        if (scan.at < stop) {
            return differs(b, scan.at, errp);
        }
        at = stop;
    }
    return true;
}

/* Moves on to (block, page); everything passed over must be zero. */
static bool advance(struct ram *ram, struct verify_progress *p, unsigned block, uint64_t page,
                    struct error **errp)
{
    while (p->block < block) {
        const struct ram_block *b = &ram->blocks[p->block];
        if (!compare_zero(b, p->page, b->pages, errp)) {
            return false;
        }
        p->block++;
        p->page = 0;
    }
    if (block < ram->count && !compare_zero(&ram->blocks[block], p->page, page, errp)) {
        return false;
    }
    p->page = page;
    return true;
}

/* A hole here is compared as the zeroes that it reads as, without being read. */
static bool compare_pages(const struct ram_block *b, uint64_t first, uint64_t pages,
                          const uint8_t *hashes, struct error **errp)
{
    static const uint8_t zero_page[RAM_PAGE_SIZE];
    struct hash_run *run = malloc(sizeof(*run));
    if (!run) {
        abort();
    }
    uint64_t zero_hash = XXH3_64bits(zero_page, RAM_PAGE_SIZE);
    struct extent_cursor cursor = {0};
    bool ok = true;
    for (uint64_t at = first; ok && at < first + pages;) {
        uint64_t from = first + pages, stop = first + pages;
        extent_next(b, &cursor, at, first + pages, &from, &stop);
        from = from < first + pages ? from : first + pages;
        for (; ok && at < from; at++) {
            ok = get_le64(hashes + 8 * (at - first)) == zero_hash || differs(b, at, errp);
        }
        run->block = b;
        run->first = from;
        run->pages = stop > from ? stop - from : 0;
        ok = ok && hash_run(run, errp);
        for (uint64_t i = 0; ok && i < run->pages; i++, at++) {
            ok = get_le64(hashes + 8 * (at - first)) == run->hashes[i] || differs(b, at, errp);
        }
    }
    free(run);
    return ok;
}

bool verify_record(struct ram *ram, struct verify_progress *p, const struct record *rec,
                   struct error **errp)
{
    uint32_t index = get_le32(rec->body);
    uint64_t offset = get_le64(rec->body + 8);
    uint64_t pages = get_le64(rec->body + 16);
    uint64_t first = offset >> RAM_PAGE_SHIFT;
    bool fits = index < ram->count && pages && pages <= RUN_PAGES &&
                rec->length == 24 + 8 * pages && offset % RAM_PAGE_SIZE == 0 &&
                first < ram->blocks[index].pages && pages <= ram->blocks[index].pages - first &&
                (index > p->block || (index == p->block && first >= p->page));
    if (!fits) {
        error_set(errp, "stream-corrupt",
                  "A VERIFY record outside the guest's RAM or out of order");
        return false;
    }
    if (!advance(ram, p, index, first, errp) ||
        !compare_pages(&ram->blocks[index], first, pages, rec->body + 24, errp)) {
        return false;
    }
    p->page = first + pages;
    return true;
}

bool verify_finish(struct ram *ram, struct verify_progress *p, struct error **errp)
{
    return advance(ram, p, ram->count, 0, errp);
}
