/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/extent.h"

#include <errno.h>
#include <unistd.h>

static uint64_t page_floor(const struct ram_block *b, off_t at)
{
    return ((uint64_t)at - b->offset) >> RAM_PAGE_SHIFT;
}

/* Looks up the extent at or after `from`; one past the block's end stands for "none". */
static void look_up(const struct ram_block *b, struct extent_cursor *c, uint64_t from)
{
    off_t at = (off_t)(b->offset + (from << RAM_PAGE_SHIFT));
    off_t end = (off_t)(b->offset + b->length);
    off_t data = lseek(b->fd, at, SEEK_DATA);
    *c = (struct extent_cursor){.known_from = from, .data_from = b->pages, .data_end = b->pages};
    if (data < 0 && errno != ENXIO) {
        c->data_from = from; /* no SEEK_DATA here: take everything as existing */
        return;
    }
    if (data < 0 || data >= end) {
        return;
    }
    /* From data + 1: a page punched since SEEK_DATA must not read as "nothing from here on". */
    off_t hole = lseek(b->fd, data + 1, SEEK_HOLE);
    c->data_from = page_floor(b, data);
    if (hole >= 0 && hole < end) {
        c->data_end = page_floor(b, hole + RAM_PAGE_SIZE - 1);
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
    off_t data = lseek(b->fd, (off_t)(b->offset + (from << RAM_PAGE_SHIFT)), SEEK_DATA);
    if (data < 0) {
        return errno == ENXIO ? end : from;
    }
    uint64_t page = page_floor(b, data);
    return page < end ? page : end;
}

bool extent_is_hole(const struct ram_block *b, struct extent_cursor *c, uint64_t from, uint64_t end)
{
    uint64_t first, last;
    return !extent_next(b, c, from, end, &first, &last);
}
