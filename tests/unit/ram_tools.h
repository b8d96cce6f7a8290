/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory files with known pages and holes, and streams of records in memory. */
#ifndef FERRY_TESTS_UNIT_RAM_TOOLS_H
#define FERRY_TESTS_UNIT_RAM_TOOLS_H

#include "ram/block.h"
#include "ram/records.h"

#include <check.h>

#define PAGE ((uint64_t)RAM_PAGE_SIZE)

/* An empty memory file of that many pages. */
int file_new(uint64_t pages);

/* Pages [first, first + count) of the file: other bytes for each seed, none of them a zero page. */
void file_fill(int fd, uint64_t first, uint64_t count, uint64_t seed);
/* ... exist and hold zeroes. */
void file_zero(int fd, uint64_t first, uint64_t count);
/* ... become holes. */
void file_punch(int fd, uint64_t first, uint64_t count);
/* Inverts one byte of the file. */
void file_flip(int fd, uint64_t byte);

bool file_is_hole(int fd, uint64_t page);
/* Bytes that the file takes up. */
uint64_t file_allocated(int fd);
/* Fails the test unless `count` pages of both files from `first` on are equal. */
void file_expect_equal(int a, int b, uint64_t first, uint64_t count);

/* Fails the test unless `err` is that error; frees it.  `part` (or NULL) is in its text. */
void expect_error(struct error *err, const char *code, const char *part);
/* Fails the test with the error's text when it holds none. */
void expect_ok(bool ok, struct error *err);

/* Numbers that are the same in each run. */
uint64_t next_random(uint64_t *state);

/* ---- records in memory ---- */

struct bytes {
    uint8_t *data;
    size_t length, room;
};

void bytes_add(struct bytes *b, const void *data, size_t length);
void bytes_free(struct bytes *b);
struct record_sink bytes_sink(struct bytes *b);

/* Reads of at most `piece` bytes; 0: all that fits. */
struct bytes_reader {
    const uint8_t *data;
    size_t length, at, piece;
    bool in_place;
};

/* The reader's reader, to be freed; `from` is kept. */
struct record_reader *bytes_open(struct bytes_reader *from);

#endif
