/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/holes.h"

#include <errno.h>
#include <unistd.h>

uint64_t holes_skip(int fd, uint64_t from, uint64_t end)
{
    off_t data = lseek(fd, (off_t)from, SEEK_DATA);
    if (data < 0) {
        return errno == ENXIO ? end : from; /* ENXIO: nothing from here on */
    }
    return (uint64_t)data < end ? (uint64_t)data : end;
}

bool holes_next_data(int fd, uint64_t from, uint64_t end, uint64_t *first, uint64_t *last)
{
    uint64_t data = holes_skip(fd, from, end);
    if (data >= end) {
        return false;
    }
    /* From data + 1: what was punched since SEEK_DATA must not read as "nothing from here on". */
    off_t hole = lseek(fd, (off_t)data + 1, SEEK_HOLE);
    *first = data;
    *last = hole >= 0 ? (uint64_t)hole : errno == ENXIO ? data + 1 : end;
    *last = *last < end ? *last : end;
    return true;
}
