/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/ram_tools.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

int file_new(uint64_t pages)
{
    int fd = memfd_create("unit", MFD_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)(pages * PAGE)), 0);
    return fd;
}

static void put_page(int fd, uint64_t page, const void *bytes)
{
    ck_assert_int_eq(pwrite(fd, bytes, PAGE, (off_t)(page * PAGE)), (ssize_t)PAGE);
}

void file_fill(int fd, uint64_t first, uint64_t count, uint64_t seed)
{
    uint64_t words[RAM_PAGE_SIZE / 8];
    for (uint64_t page = first; page < first + count; page++) {
        uint64_t state = seed * 1000003 + page;
        for (size_t i = 0; i < RAM_PAGE_SIZE / 8; i++) {
            words[i] = next_random(&state) | 1;
        }
        put_page(fd, page, words);
    }
}

void file_zero(int fd, uint64_t first, uint64_t count)
{
    static const uint8_t zeroes[RAM_PAGE_SIZE];
    for (uint64_t page = first; page < first + count; page++) {
        put_page(fd, page, zeroes);
    }
}

void file_punch(int fd, uint64_t first, uint64_t count)
{
    ck_assert_int_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               (off_t)(first * PAGE), (off_t)(count * PAGE)),
                     0);
}

void file_flip(int fd, uint64_t byte)
{
    uint8_t c;
    ck_assert_int_eq(pread(fd, &c, 1, (off_t)byte), 1);
    c ^= 0xff;
    ck_assert_int_eq(pwrite(fd, &c, 1, (off_t)byte), 1);
}

bool file_is_hole(int fd, uint64_t page)
{
    off_t at = (off_t)(page * PAGE);
    return lseek(fd, at, SEEK_HOLE) == at;
}

uint64_t file_allocated(int fd)
{
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

void file_expect_equal(int a, int b, uint64_t first, uint64_t count)
{
    uint8_t left[RAM_PAGE_SIZE], right[RAM_PAGE_SIZE];
    for (uint64_t page = first; page < first + count; page++) {
        ck_assert_int_eq(pread(a, left, PAGE, (off_t)(page * PAGE)), (ssize_t)PAGE);
        ck_assert_int_eq(pread(b, right, PAGE, (off_t)(page * PAGE)), (ssize_t)PAGE);
        ck_assert_msg(memcmp(left, right, PAGE) == 0, "page %ju differs", (uintmax_t)page);
    }
}

void expect_error(struct error *err, const char *code, const char *part)
{
    ck_assert_msg(err != NULL, "no error, %s was due", code);
    ck_assert_msg(strcmp(err->code, code) == 0, "%s (%s), %s was due", err->code, err->text, code);
    ck_assert_msg(!part || strstr(err->text, part), "'%s' does not say '%s'", err->text, part);
    error_free(err);
}

void expect_ok(bool ok, struct error *err)
{
    ck_assert_msg(!err, "%s: %s", err ? err->code : "", err ? err->text : "");
    ck_assert(ok);
}

/* ---- records in memory ---- */

void bytes_add(struct bytes *b, const void *data, size_t length)
{
    if (b->room - b->length < length) {
        b->room = 2 * b->room + length;
        b->data = realloc(b->data, b->room);
        ck_assert_ptr_nonnull(b->data);
    }
    if (length) {
        memcpy(b->data + b->length, data, length);
    }
    b->length += length;
}

void bytes_free(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){0};
}

static bool add_iov(void *opaque, struct iovec *iov, int iovcnt, struct error **errp)
{
    (void)errp;
    for (int i = 0; i < iovcnt; i++) {
        bytes_add(opaque, iov[i].iov_base, iov[i].iov_len);
    }
    return true;
}

struct record_sink bytes_sink(struct bytes *b)
{
    return (struct record_sink){.write = add_iov, .opaque = b};
}

static long read_piece(void *opaque, void *buf, size_t room, struct error **errp)
{
    struct bytes_reader *from = opaque;
    size_t n = from->length - from->at;
    (void)errp;
    n = n < room ? n : room;
    n = from->piece && n > from->piece ? from->piece : n;
    if (n) {
        memcpy(buf, from->data + from->at, n);
    }
    from->at += n;
    return (long)n;
}

struct record_reader *bytes_open(struct bytes_reader *from)
{
    return record_reader_new(
        &(struct record_source){.read = read_piece, .opaque = from, .in_place = from->in_place});
}
