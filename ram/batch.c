/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/batch.h"

#include "ram/delta.h"

#include <string.h>

bool batch_flush(struct batch *b, struct error **errp)
{
    if (!b->iovcnt) {
        return true;
    }
    const struct record_sink *sink = &b->saver->sink;
    struct error *err = NULL;
    bool ok = sink->write(sink->opaque, b->iov, b->iovcnt, &err);
    if (!ok && strcmp(err->code, "ram-vanished") == 0) {
        ram_check_sizes(b->saver->ram, errp); /* names the block; the sink knows only bytes */
    }
    if (err) {
        error_move(errp, err);
    }
    b->iovcnt = 0;
    b->records = 0;
    b->payload = 0;
    b->limit = 0;
    b->run = NULL;
    if (b->saver->delta) {
        ram_delta_sent(b->saver->delta);
    }
    return ok;
}

static bool is_full(const struct batch *b)
{
    return b->records == BATCH_RECORDS || b->iovcnt + 2 > (int)BATCH_IOVECS ||
           b->payload + RAM_PAGE_SIZE > b->limit;
}

bool batch_reserve(struct batch *b, struct error **errp)
{
    if (b->iovcnt && is_full(b) && !batch_flush(b, errp)) {
        return false;
    }
    if (!b->iovcnt) {
        const struct record_pacer *pacer = &b->saver->pacer;
        b->limit = pacer->allow(pacer->opaque, RECORD_PAYLOAD_MAX, errp);
        if (!b->limit) {
            return false;
        }
        b->limit = b->limit < RAM_PAGE_SIZE ? RAM_PAGE_SIZE : b->limit;
    }
    return true;
}

uint64_t batch_room(const struct batch *b)
{
    return (b->limit - b->payload) >> RAM_PAGE_SHIFT;
}

static void add_iovec(struct batch *b, void *base, size_t length)
{
    b->iov[b->iovcnt++] = (struct iovec){.iov_base = base, .iov_len = length};
}

static uint8_t *take_head(struct batch *b)
{
    b->run = NULL;
    return b->heads[b->records++];
}

void batch_put_range(struct batch *b, uint32_t type, unsigned block, uint64_t first, uint64_t end)
{
    uint8_t *head = take_head(b);
    uint8_t *fixed = head + RECORD_HEAD_SIZE;
    put_le32(fixed, block);
    put_le32(fixed + 4, 0);
    put_le64(fixed + 8, first << RAM_PAGE_SHIFT);
    put_le64(fixed + 16, (end - first) << RAM_PAGE_SHIFT);
    record_head(head, type, 24, fixed, 24);
    add_iovec(b, head, RECORD_HEAD_SIZE + 24);
}

void batch_count_placed(struct batch *b, uint64_t pages)
{
    b->payload += (size_t)pages << RAM_PAGE_SHIFT;
}

static void fill_pages_head(uint8_t *head, unsigned block, uint64_t first, uint64_t pages)
{
    uint8_t *fixed = head + RECORD_HEAD_SIZE;
    put_le32(fixed, block);
    put_le32(fixed + 4, 0);
    put_le64(fixed + 8, first << RAM_PAGE_SHIFT);
    record_head(head, RECORD_RAM_PAGES, 16 + (pages << RAM_PAGE_SHIFT), fixed, 16);
}

static void add_payload(struct batch *b, void *bytes, uint64_t pages)
{
    add_iovec(b, bytes, (size_t)pages << RAM_PAGE_SHIFT);
    b->payload += (size_t)pages << RAM_PAGE_SHIFT;
}

void batch_put_pages(struct batch *b, unsigned block, uint64_t first, uint64_t pages, void *bytes)
{
    uint8_t *head = take_head(b);
    fill_pages_head(head, block, first, pages);
    add_iovec(b, head, RECORD_HEAD_SIZE + 16);
    add_payload(b, bytes, pages);
}

void batch_put_copy(struct batch *b, unsigned block, uint64_t page, void *bytes)
{
    if (!b->run || b->run_block != block || b->run_end != page) {
        b->run = take_head(b);
        b->run_block = block;
        b->run_from = page;
        add_iovec(b, b->run, RECORD_HEAD_SIZE + 16);
    }
    b->run_end = page + 1;
    fill_pages_head(b->run, block, b->run_from, b->run_end - b->run_from);
    add_payload(b, bytes, 1);
}

void batch_put_record(struct batch *b, struct iovec made)
{
    struct iovec *last = b->iovcnt ? &b->iov[b->iovcnt - 1] : NULL;
    if (last && (uint8_t *)last->iov_base + last->iov_len == made.iov_base) {
        last->iov_len += made.iov_len;
    } else {
        add_iovec(b, made.iov_base, made.iov_len);
    }
    b->run = NULL;
    b->payload += made.iov_len;
}
