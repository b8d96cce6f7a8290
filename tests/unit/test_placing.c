/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pages that the channel places: a round is saved into a buffer, its placing done at once, then the
 * buffer is loaded.  As registered memory does, placing holds on to the destination's pages: one
 * that was freed there is never reached again.
 */
#include "common/bits.h"
#include "ram/fault.h"
#include "ram/load.h"
#include "ram/save.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <string.h>
#include <unistd.h>

#define PAGES 600u

struct placing {
    int from, to;
    struct ram *source, *destination;
    struct bytes stream;
    struct ram_counters saved;
    struct ram_load_counters loaded;
    struct ram_saver saver;
    uint64_t held[PAGES / 64 + 1]; /* pages that were placed once */
    uint64_t zeroes;               /* pages placed as zeroes */
};

static bool no_sync(void *opaque, struct ram *ram, struct error **errp)
{
    (void)opaque;
    (void)ram;
    (void)errp;
    return true;
}

static bool no_clear(void *opaque, unsigned block, uint64_t first, uint64_t count,
                     struct error **errp)
{
    (void)opaque;
    (void)block;
    (void)first;
    (void)count;
    (void)errp;
    return true;
}

static size_t allow_all(void *opaque, size_t want, struct error **errp)
{
    (void)opaque;
    (void)errp;
    return want;
}

static bool keep_bytes(void *opaque, struct iovec *iov, int iovcnt, struct error **errp)
{
    struct record_sink sink = bytes_sink(&((struct placing *)opaque)->stream);
    return sink.write(sink.opaque, iov, iovcnt, errp);
}

static void place_page(struct placing *p, uint64_t page, bool zeroes)
{
    uint8_t bytes[RAM_PAGE_SIZE] = {0};
    if (bits_test(p->held, page)) {
        ck_assert_msg(!file_is_hole(p->to, page), "page %u was freed while held", (unsigned)page);
    }
    if (!zeroes) {
        ck_assert_int_eq(pread(p->from, bytes, PAGE, (off_t)(page * PAGE)), (ssize_t)PAGE);
    }
    ck_assert_int_eq(pwrite(p->to, bytes, PAGE, (off_t)(page * PAGE)), (ssize_t)PAGE);
    bits_set(p->held, page);
    p->zeroes += zeroes;
}

static bool place(void *opaque, unsigned block, uint64_t offset, uint64_t length, bool zeroes,
                  struct error **errp)
{
    (void)errp;
    ck_assert_uint_eq(block, 0);
    ck_assert_uint_eq((offset | length) % PAGE, 0);
    for (uint64_t page = offset / PAGE; page < (offset + length) / PAGE; page++) {
        place_page(opaque, page, zeroes);
    }
    return true;
}

static struct ram *ram_of(int fd)
{
    struct ram *ram = ram_new();
    struct error *err = NULL;
    expect_ok(ram_add(ram, "ram", fd, 0, PAGES * PAGE, 0, &err), err);
    return ram;
}

static bool go_on(void *opaque, struct error **errp)
{
    (void)opaque;
    (void)errp;
    return true;
}

static void open_both(struct placing *p)
{
    *p = (struct placing){.from = file_new(PAGES), .to = file_new(PAGES)};
    p->source = ram_of(p->from);
    p->destination = ram_of(p->to);
    p->destination->placing = true;
    p->saver = (struct ram_saver){
        .ram = p->source,
        .tracker = {.sync = no_sync, .clear = no_clear},
        .pacer = {.allow = allow_all, .check = go_on},
        .sink = {.write = keep_bytes, .place = place, .opaque = p},
        .counters = &p->saved,
    };
}

static void close_both(struct placing *p)
{
    ram_free(p->source);
    ram_free(p->destination);
    bytes_free(&p->stream);
    close(p->from);
    close(p->to);
}

static bool load_one(struct placing *p, const struct record *rec, struct error **errp)
{
    ck_assert(rec->type == RECORD_RAM_PLACED || rec->type == RECORD_RAM_ZERO);
    return rec->type == RECORD_RAM_PLACED ? ram_load_placed(p->destination, rec, &p->loaded, errp)
                                          : ram_load_zero(p->destination, rec, &p->loaded, errp);
}

static void load_all(struct placing *p)
{
    struct bytes_reader from = {.data = p->stream.data, .length = p->stream.length};
    struct record_reader *r = bytes_open(&from);
    struct record rec;
    struct error *err = NULL;
    while (record_read(r, &rec, &err)) {
        expect_ok(load_one(p, &rec, &err), err);
    }
    expect_error(err, "stream-truncated", NULL); /* its end */
    record_reader_free(r);
    p->stream.length = 0;
}

static void round_of(struct placing *p, enum ram_round kind, uint64_t first, uint64_t count)
{
    struct error *err = NULL;
    if (kind == RAM_ROUND_FIRST) {
        ram_save_begin(&p->saver);
    } else {
        bits_set_range(p->source->blocks[0].dirty, first, first + count);
    }
    expect_ok(ram_save_round(&p->saver, kind, &err), err);
    load_all(p);
    file_expect_equal(p->from, p->to, 0, PAGES);
    ck_assert_uint_eq(p->loaded.normal, p->saved.normal);
    ck_assert_uint_eq(p->loaded.duplicate, p->saved.duplicate);
    ck_assert_uint_eq(p->loaded.placed, p->saved.normal * PAGE);
}

START_TEST(first_round)
{
    struct placing p;
    open_both(&p);
    file_fill(p.from, 3, 300, 1);
    file_zero(p.from, 400, 10);
    uint64_t before = file_allocated(p.from);
    round_of(&p, RAM_ROUND_FIRST, 0, 0);
    ck_assert_uint_eq(p.saved.normal, 300);
    ck_assert_uint_eq(p.saved.duplicate, 10);
    ck_assert_uint_eq(file_allocated(p.from), before);
    ck_assert_uint_eq(file_allocated(p.to), 300 * PAGE);
    close_both(&p);
}
END_TEST

/* Zeroes over what was placed are placed, be they written or freed; elsewhere they are ranges. */
START_TEST(zeroes_after_data)
{
    struct placing p;
    open_both(&p);
    file_fill(p.from, 0, 64, 1);
    round_of(&p, RAM_ROUND_FIRST, 0, 0);
    file_zero(p.from, 10, 5);
    file_punch(p.from, 32, 32);
    round_of(&p, RAM_ROUND_LATER, 0, 100);
    ck_assert_uint_eq(p.zeroes, 5 + 32);
    ck_assert_uint_eq(p.saved.duplicate, 36);
    file_fill(p.from, 10, 30, 2);
    round_of(&p, RAM_ROUND_STOPPED, 10, 30);
    close_both(&p);
}
END_TEST

static void expect_refused(bool placing, uint32_t type, uint64_t offset, uint64_t length)
{
    struct placing p;
    uint8_t body[24] = {0};
    struct record rec = {.type = type, .length = sizeof(body), .body = body};
    struct error *err = NULL;
    open_both(&p);
    file_fill(p.from, 0, 8, 1);
    round_of(&p, RAM_ROUND_FIRST, 0, 0);
    p.destination->placing = placing;
    put_le64(body + 8, offset);
    put_le64(body + 16, length);
    ck_assert(!load_one(&p, &rec, &err));
    expect_error(err, "stream-corrupt", NULL);
    ck_assert_uint_eq(p.loaded.placed, 8 * PAGE);
    close_both(&p);
}

START_TEST(refused)
{
    expect_refused(true, RECORD_RAM_PLACED, PAGES * PAGE, PAGE);
    expect_refused(true, RECORD_RAM_PLACED, 0, 0);
    expect_refused(true, RECORD_RAM_PLACED, 1, PAGE);
    expect_refused(true, RECORD_RAM_PLACED, PAGE, -PAGE);
    expect_refused(false, RECORD_RAM_PLACED, 0, PAGE);
    expect_refused(true, RECORD_RAM_ZERO, 0, PAGE);
    expect_refused(true, RECORD_RAM_ZERO, 7 * PAGE, 8 * PAGE);
}
END_TEST

/* What a device has allocated beside the pages that were placed is freed. */
START_TEST(trimmed)
{
    struct placing p;
    const struct wait w = {.cancel_fd = -1, .timeout_ms = 1000, .what = "the test"};
    struct error *err = NULL;
    open_both(&p);
    file_fill(p.from, 5, 2, 1);
    file_fill(p.from, 99, 1, 1);
    file_zero(p.to, 0, 256);
    round_of(&p, RAM_ROUND_FIRST, 0, 0);
    expect_ok(ram_load_trim(p.destination, &w, &err), err);
    ck_assert_uint_eq(file_allocated(p.to), 3 * PAGE);
    file_expect_equal(p.from, p.to, 0, PAGES);
    close_both(&p);
}
END_TEST

int main(void)
{
    fault_init();
    Suite *suite = suite_create("ram/placing");
    unit_add(suite, "ram/placing/first-round", first_round);
    unit_add(suite, "ram/placing/zeroes-after-data", zeroes_after_data);
    unit_add(suite, "ram/placing/refused", refused);
    unit_add(suite, "ram/placing/trimmed", trimmed);
    return unit_run(suite);
}
