/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/extent.h"

#include "common/holes.h"

static uint64_t byte_of(const struct ram_block *b, uint64_t page)
{
    return b->offset + (page << RAM_PAGE_SHIFT);
}

static uint64_t page_of(const struct ram_block *b, uint64_t byte)
{
    return (byte - b->offset) >> RAM_PAGE_SHIFT;
}

/* Looks up the extent at or after `from`; one past the block's end stands for "none". */
static void look_up(const struct ram_block *b, struct extent_cursor *c, uint64_t from)
{
    uint64_t first, last;
    *c = (struct extent_cursor){.known_from = from, .data_from = b->pages, .data_end = b->pages};
    if (holes_next_data(b->fd, byte_of(b, from), byte_of(b, b->pages), &first, &last)) {
        c->data_from = page_of(b, first);
        c->data_end = page_of(b, last + RAM_PAGE_SIZE - 1);
    }
}

bool extent_next(const struct ram_block *b, struct extent_cursor *c, uint64_t from, uint64_t end,
                 uint64_t *first, uint64_t *last)
{
    if (from < c->known_from || from >= c->data_end) {
        look_up(b, c, from);
    }
    *first = from > c->data_from ? from : c->data_from;
    *last = end < c->data_end ? end : c->data_end;
    return *first < *last;
}

void extent_forget_holes(struct extent_cursor *c)
{
    c->known_from = c->data_from;
}

uint64_t extent_skip_hole(const struct ram_block *b, uint64_t from, uint64_t end)
{
    uint64_t data = holes_skip(b->fd, byte_of(b, from), byte_of(b, end));
    return page_of(b, data);
}
