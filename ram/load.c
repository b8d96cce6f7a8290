/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/load.h"

#include "common/bits.h"
#include "ram/extent.h"
#include "ram/fault.h"
#include "ram/xbzrle.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The kernel's MADV_POPULATE_WRITE, which older headers lack: maps pages in without a fault each.
 */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Pieces of payload: what was just received and is still in the cache. */
#define PIECE_MAX (256u << 10)

/* Finds block and page range of a record, as far as it keeps to what was agreed. */
static struct ram_block *find_range(struct ram *ram, uint32_t index, uint64_t offset,
                                    uint64_t length, struct error **errp)
{
    if (index >= ram->count) {
        error_set(errp, "stream-corrupt", "Pages for RAM block %u of %u", index, ram->count);
        return NULL;
    }
    struct ram_block *b = &ram->blocks[index];
    if (!length || (offset | length) % RAM_PAGE_SIZE || offset > b->length ||
        length > b->length - offset) {
        error_set(errp, "stream-corrupt",
                  "Pages at %" PRIu64 "+%" PRIu64 " of RAM block '%s', which has %" PRIu64 " bytes",
                  offset, length, b->name, b->length);
        return NULL;
    }
    return b;
}

struct copy {
    uint8_t *to;
    const uint8_t *from;
    size_t length;
};

static void copy_bytes(void *arg)
{
    const struct copy *c = arg;
    memcpy(c->to, c->from, c->length);
}

static bool no_memory(const struct ram_block *b, uint64_t offset, struct error **errp)
{
    error_set(errp, "ram-unusable", "RAM block '%s' has no memory at byte %" PRIu64, b->name,
              offset);
    return false;
}

/* ---- into fresh memory ---- */

static bool put_bytes(const struct ram_block *b, uint64_t offset, const uint8_t *from,
                      size_t length, struct error **errp)
{
    while (length) {
        ssize_t n = pwrite(b->fd, from, length, (off_t)(b->offset + offset));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            error_set(errp, "ram-unusable", "RAM block '%s' can't be written: %s", b->name,
                      n < 0 ? strerror(errno) : "its file is full");
            return false;
        }
        from += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return true;
}

static bool fill_range(const struct ram_block *b, uint64_t offset, struct record_reader *reader,
                       struct record *rec, struct error **errp)
{
    while (rec->payload) {
        size_t n;
        const uint8_t *piece = record_payload(reader, rec, RAM_PAGE_SIZE, PIECE_MAX, &n, errp);
        if (!piece || !put_bytes(b, offset, piece, n, errp)) {
            return false;
        }
        offset += n;
    }
    return true;
}

/* ---- over what is there ---- */

/* Where that fails, the pages are mapped one by one as they are written to. */
static void map_range(struct ram_block *b, uint64_t at, uint64_t end)
{
    while ((at = bits_next_clear(b->mapped, at, end)) < end) {
        uint64_t stop = bits_next_set(b->mapped, at, end);
        madvise(ram_page(b, at), (stop - at) << RAM_PAGE_SHIFT, MADV_POPULATE_WRITE);
        bits_set_range(b->mapped, at, stop);
        at = stop;
    }
}

/* Bytes read into their place; 0 with an error, which names the block when its memory is gone. */
static size_t read_in_place(const struct ram_block *b, uint64_t offset,
                            struct record_reader *reader, struct record *rec, struct error **errp)
{
    struct error *err = NULL;
    size_t n = record_payload_to(reader, rec, b->map + offset, &err);
    if (err && strcmp(err->code, "ram-vanished") == 0) {
        error_free(err);
        no_memory(b, offset, errp);
    } else if (err) {
        error_move(errp, err);
    }
    return n;
}

static size_t copy_in_place(const struct ram_block *b, uint64_t offset,
                            struct record_reader *reader, struct record *rec, struct error **errp)
{
    size_t n;
    const uint8_t *piece = record_payload(reader, rec, 1, PIECE_MAX, &n, errp);
    if (!piece) {
        return 0;
    }
    struct copy c = {.to = b->map + offset, .from = piece, .length = n};
    return fault_guarded(copy_bytes, &c) || no_memory(b, offset, errp) ? n : 0;
}

static bool overwrite_range(const struct ram_block *b, uint64_t offset,
                            struct record_reader *reader, struct record *rec, struct error **errp)
{
    while (rec->payload) {
        size_t n = record_payload_is_ahead(reader, rec)
                       ? read_in_place(b, offset, reader, rec, errp)
                       : copy_in_place(b, offset, reader, rec, errp);
        if (!n) {
            return false;
        }
        offset += n;
    }
    return true;
}

/* The one place where received pages are put where they belong. */
static bool put_range(struct ram_block *b, uint64_t offset, struct record_reader *reader,
                      struct record *rec, struct error **errp)
{
    uint64_t first = offset >> RAM_PAGE_SHIFT;
    uint64_t end = first + (rec->payload >> RAM_PAGE_SHIFT);
    bool again = bits_next_clear(b->populated, first, end) == end;
    bits_set_range(b->populated, first, end);
    if (again && !b->no_pwrite) {
        map_range(b, first, end);
    }
    return again || b->no_pwrite ? overwrite_range(b, offset, reader, rec, errp)
                                 : fill_range(b, offset, reader, rec, errp);
}

bool ram_load_pages(struct ram *ram, struct record_reader *reader, struct record *rec,
                    struct ram_load_counters *counters, struct error **errp)
{
    uint64_t offset = get_le64(rec->body + 8);
    uint64_t length = rec->payload;
    struct ram_block *b = find_range(ram, get_le32(rec->body), offset, length, errp);
    if (!b) {
        return false;
    }
    if (!put_range(b, offset, reader, rec, errp)) {
        return false;
    }
    atomic_fetch_add_explicit(&counters->normal, length >> RAM_PAGE_SHIFT, memory_order_relaxed);
    return true;
}

static bool punch(const struct ram_block *b, uint64_t first, uint64_t end, struct error **errp)
{
    if (fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)(b->offset + (first << RAM_PAGE_SHIFT)),
                  (off_t)((end - first) << RAM_PAGE_SHIFT)) < 0) {
        error_set(errp, "ram-unusable", "RAM block '%s' can't be punched: %s", b->name,
                  strerror(errno));
        return false;
    }
    return true;
}

/* Frees those of [at, end) that hold what was received. */
static bool free_received(const struct ram_block *b, uint64_t at, uint64_t end, struct error **errp)
{
    while ((at = bits_next_set(b->populated, at, end)) < end) {
        uint64_t stop = bits_next_clear(b->populated, at, end);
        if (!punch(b, at, stop, errp)) {
            return false;
        }
        bits_clear_range(b->populated, at, stop);
        bits_clear_range(b->mapped, at, stop);
        at = stop;
    }
    return true;
}

bool ram_load_zero(struct ram *ram, const struct record *rec, struct ram_load_counters *counters,
                   struct error **errp)
{
    uint64_t offset = get_le64(rec->body + 8);
    uint64_t length = get_le64(rec->body + 16);
    struct ram_block *b = find_range(ram, get_le32(rec->body), offset, length, errp);
    if (!b) {
        return false;
    }
    uint64_t at = offset >> RAM_PAGE_SHIFT;
    uint64_t end = (offset + length) >> RAM_PAGE_SHIFT;
    atomic_fetch_add_explicit(&counters->duplicate, end - at, memory_order_relaxed);
    if (ram->placing && bits_next_set(b->populated, at, end) < end) {
        error_set(errp, "stream-corrupt",
                  "Zeroes for pages of RAM block '%s' that were placed before", b->name);
        return false;
    }
    return free_received(b, at, end, errp);
}

bool ram_load_placed(struct ram *ram, const struct record *rec, struct ram_load_counters *counters,
                     struct error **errp)
{
    uint64_t offset = get_le64(rec->body + 8);
    uint64_t length = get_le64(rec->body + 16);
    struct ram_block *b = find_range(ram, get_le32(rec->body), offset, length, errp);
    if (!b) {
        return false;
    }
    if (!ram->placing) {
        error_set(errp, "stream-corrupt", "Pages were placed, and no memory is shared");
        return false;
    }
    bits_set_range(b->populated, offset >> RAM_PAGE_SHIFT, (offset + length) >> RAM_PAGE_SHIFT);
    atomic_fetch_add_explicit(&counters->normal, length >> RAM_PAGE_SHIFT, memory_order_relaxed);
    atomic_fetch_add_explicit(&counters->placed, length, memory_order_relaxed);
    return true;
}

static bool trim_extent(const struct ram_block *b, uint64_t at, uint64_t end, const struct wait *w,
                        struct error **errp)
{
    while ((at = bits_next_clear(b->populated, at, end)) < end) {
        uint64_t stop = bits_next_set(b->populated, at, end);
        if (wait_cancelled(w, errp) || !punch(b, at, stop, errp)) {
            return false;
        }
        at = stop;
    }
    return true;
}

struct change {
    const uint8_t *delta;
    size_t length;
    uint8_t *page;
};

static void change_page(void *arg)
{
    const struct change *c = arg;
    xbzrle_apply(c->delta, c->length, c->page);
}

bool ram_load_delta(struct ram *ram, const struct record *rec, struct ram_load_counters *counters,
                    struct error **errp)
{
    uint64_t offset = get_le64(rec->body + 8);
    struct ram_block *b = find_range(ram, get_le32(rec->body), offset, RAM_PAGE_SIZE, errp);
    struct change c = {.delta = rec->body + 16, .length = (size_t)rec->length - 16};
    if (!b) {
        return false;
    }
    if (!xbzrle_check(c.delta, c.length)) {
        error_set(errp, "stream-corrupt",
                  "The delta of the page at %" PRIu64
                  " of RAM block '%s' leaves the page or itself",
                  offset, b->name);
        return false;
    }
    bits_set(b->populated, offset >> RAM_PAGE_SHIFT);
    c.page = b->map + offset;
    if (!fault_guarded(change_page, &c)) {
        return no_memory(b, offset, errp);
    }
    atomic_fetch_add_explicit(&counters->delta, 1, memory_order_relaxed);
    return true;
}

static bool trim_block(const struct ram_block *b, const struct wait *w, struct error **errp)
{
    struct extent_cursor cursor = {0};
    uint64_t at = 0, from, stop;
    while (extent_next(b, &cursor, at, b->pages, &from, &stop)) {
        if (!trim_extent(b, from, stop, w, errp)) {
            return false;
        }
        at = stop;
    }
    return true;
}

bool ram_load_trim(struct ram *ram, const struct wait *w, struct error **errp)
{
    for (unsigned i = 0; i < ram->count; i++) {
        if (!trim_block(&ram->blocks[i], w, errp)) {
            return false;
        }
    }
    return true;
}
