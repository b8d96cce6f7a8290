/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/fault.h"
#include "ram/verify.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <stdio.h>
#include <unistd.h>

/* Pages of the blocks "low" and "high"; a record covers at most RUN pages. */
#define LOW  6000u
#define HIGH 40u
#define RUN  4096u
/* Where "high" begins in its guest's address space and in its file. */
#define HIGH_GPA  (1ULL << 32)
#define HIGH_FROM 7u

struct side {
    int low, high;
    struct ram *ram;
};

static void side_open(struct side *s)
{
    struct error *err = NULL;
    s->low = file_new(LOW);
    s->high = file_new(HIGH_FROM + HIGH);
    s->ram = ram_new();
    expect_ok(ram_add(s->ram, "low", s->low, 0, LOW * PAGE, 0, &err), err);
    expect_ok(ram_add(s->ram, "high", s->high, HIGH_FROM * PAGE, HIGH * PAGE, HIGH_GPA, &err), err);
}

static void side_close(struct side *s)
{
    ram_free(s->ram);
    close(s->low);
    close(s->high);
}

/* Two runs of data with holes around them, one longer than a record; nothing at either end. */
static void side_fill(struct side *s)
{
    file_fill(s->low, 10, 20, 1);
    file_fill(s->low, 100, RUN + 50, 1);
    file_fill(s->high, HIGH_FROM + 3, 5, 2);
}

struct pair {
    struct side source, destination;
};

static void pair_open(struct pair *p)
{
    side_open(&p->source);
    side_open(&p->destination);
    side_fill(&p->source);
    side_fill(&p->destination);
}

static void pair_close(struct pair *p)
{
    side_close(&p->source);
    side_close(&p->destination);
}

static bool compare(struct ram *ram, const struct bytes *b, struct error **errp)
{
    struct bytes_reader from = {.data = b->data, .length = b->length};
    struct record_reader *r = bytes_open(&from);
    struct verify_progress progress = {0};
    bool ok = true;
    while (ok && (from.at < from.length || record_reader_buffered(r))) {
        struct record rec;
        ok = record_expect(r, RECORD_VERIFY, &rec, errp) &&
             verify_record(ram, &progress, &rec, errp);
    }
    ok = ok && verify_finish(ram, &progress, errp);
    record_reader_free(r);
    return ok;
}

static bool verify(struct pair *p, struct error **errp)
{
    struct bytes b = {0};
    struct record_sink sink = bytes_sink(&b);
    struct error *err = NULL;
    expect_ok(verify_send(p->source.ram, &sink, &err), err);
    bool ok = compare(p->destination.ram, &b, errp);
    bytes_free(&b);
    return ok;
}

static void expect_same(struct pair *p)
{
    struct error *err = NULL;
    bool ok = verify(p, &err);
    expect_ok(ok, err);
}

static void expect_differs(struct pair *p, const char *block, uint64_t page, uint64_t gpa)
{
    struct error *err = NULL;
    char part[160];
    snprintf(part, sizeof(part),
             "'%s' differs from the source, first at page %ju (guest-physical address 0x%jx)",
             block, (uintmax_t)page, (uintmax_t)gpa);
    ck_assert(!verify(p, &err));
    expect_error(err, "verify-failed", part);
}

START_TEST(equal)
{
    struct pair p;
    pair_open(&p);
    uint64_t before = file_allocated(p.source.low) + file_allocated(p.destination.low);
    expect_same(&p);
    ck_assert_uint_eq(file_allocated(p.source.low) + file_allocated(p.destination.low), before);
    pair_close(&p);
}
END_TEST

START_TEST(empty)
{
    struct pair p;
    side_open(&p.source);
    side_open(&p.destination);
    expect_same(&p);
    pair_close(&p);
}
END_TEST

START_TEST(zero_page_equals_hole)
{
    struct pair p;
    pair_open(&p);
    file_zero(p.source.low, 0, 5);
    file_zero(p.source.low, 50, 2);
    file_zero(p.destination.low, 60, 2);
    file_zero(p.destination.low, LOW - 1, 1);
    file_zero(p.source.high, HIGH_FROM + HIGH - 1, 1);
    expect_same(&p);
    pair_close(&p);
}
END_TEST

/* Each of these pages exists at both ends, at its run's beginning, middle or end. */
START_TEST(flipped_bytes)
{
    static const uint64_t pages[] = {10, 29, 100, 2000, 100 + RUN - 1, 100 + RUN, 100 + RUN + 49};
    struct pair p;
    pair_open(&p);
    for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
        uint64_t byte = pages[i] * PAGE + (i & 1 ? PAGE - 1 : 0);
        file_flip(p.destination.low, byte);
        expect_differs(&p, "low", pages[i], pages[i] * PAGE);
        file_flip(p.destination.low, byte);
        file_flip(p.source.low, byte);
        expect_differs(&p, "low", pages[i], pages[i] * PAGE);
        file_flip(p.source.low, byte);
    }
    expect_same(&p);
    pair_close(&p);
}
END_TEST

START_TEST(second_block)
{
    static const uint64_t pages[] = {0, 3, 7, 20, HIGH - 1};
    struct pair p;
    pair_open(&p);
    for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
        uint64_t byte = (HIGH_FROM + pages[i]) * PAGE + 4095;
        file_flip(p.destination.high, byte);
        expect_differs(&p, "high", pages[i], HIGH_GPA + pages[i] * PAGE);
        file_flip(p.destination.high, byte);
    }
    expect_same(&p);
    pair_close(&p);
}
END_TEST

/* Data at one end where the other has a hole: before, between and behind the records. */
START_TEST(data_in_a_hole)
{
    static const uint64_t pages[] = {0, 9, 30, 99, 100 + RUN + 50, LOW - 1};
    struct pair p;
    pair_open(&p);
    for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
        file_flip(p.destination.low, pages[i] * PAGE + 77);
        expect_differs(&p, "low", pages[i], pages[i] * PAGE);
        file_punch(p.destination.low, pages[i], 1);
        file_flip(p.source.low, pages[i] * PAGE + 77);
        expect_differs(&p, "low", pages[i], pages[i] * PAGE);
        file_punch(p.source.low, pages[i], 1);
    }
    expect_same(&p);
    pair_close(&p);
}
END_TEST

START_TEST(first_of_several)
{
    struct pair p;
    pair_open(&p);
    file_flip(p.destination.low, 5 * PAGE);
    file_flip(p.destination.low, 12 * PAGE);
    file_flip(p.destination.high, HIGH_FROM * PAGE);
    expect_differs(&p, "low", 5, 5 * PAGE);
    pair_close(&p);
}
END_TEST

/* The pages around a block in its file are not the guest's. */
START_TEST(outside_the_block)
{
    struct pair p;
    pair_open(&p);
    file_fill(p.destination.high, 0, HIGH_FROM, 9);
    expect_same(&p);
    pair_close(&p);
}
END_TEST

struct cutter {
    int fd;
    unsigned records;
};

/* Cuts the file short behind the second record: the run goes on where there is nothing now. */
static bool cut_and_drop(void *opaque, struct iovec *iov, int iovcnt, struct error **errp)
{
    struct cutter *c = opaque;
    (void)iov;
    (void)iovcnt;
    (void)errp;
    return ++c->records != 2 || ftruncate(c->fd, 200 * PAGE) == 0;
}

START_TEST(shrunk_file)
{
    struct pair p;
    struct error *err = NULL;
    pair_open(&p);
    struct cutter cutter = {.fd = p.source.low};
    struct record_sink sink = {.write = cut_and_drop, .opaque = &cutter};
    bool ok = verify_send(p.source.ram, &sink, &err);
    ck_assert(!ok);
    expect_error(err, "ram-vanished", "low");
    pair_close(&p);
}
END_TEST

/* ---- hostile records ---- */

struct claim {
    uint32_t block;
    uint64_t offset, pages;
    size_t hashes; /* that there are */
};

static void put_claim(struct bytes *b, const struct claim *c)
{
    uint8_t *body = calloc(1, 24 + 8 * c->hashes);
    struct record_sink sink = bytes_sink(b);
    ck_assert_ptr_nonnull(body);
    put_le32(body, c->block);
    put_le64(body + 8, c->offset);
    put_le64(body + 16, c->pages);
    ck_assert(record_write(&sink, RECORD_VERIFY, body, 24 + 8 * c->hashes, NULL));
    free(body);
}

static void expect_claim_refused(struct claim claim)
{
    struct side s;
    struct bytes b = {0};
    struct error *err = NULL;
    side_open(&s);
    put_claim(&b, &claim);
    ck_assert(!compare(s.ram, &b, &err));
    expect_error(err, "stream-corrupt", "VERIFY");
    bytes_free(&b);
    side_close(&s);
}

START_TEST(out_of_range)
{
    expect_claim_refused((struct claim){2, 0, 1, 1});
    expect_claim_refused((struct claim){UINT32_MAX, 0, 1, 1});
    expect_claim_refused((struct claim){0, 0, 0, 0});
    expect_claim_refused((struct claim){0, 512, 1, 1});
    expect_claim_refused((struct claim){0, LOW * PAGE, 1, 1});
    expect_claim_refused((struct claim){0, (LOW - 1) * PAGE, 2, 2});
    expect_claim_refused((struct claim){0, -PAGE, 1, 1});
    expect_claim_refused((struct claim){0, 0, UINT64_MAX, 1});
    expect_claim_refused((struct claim){0, 0, UINT64_MAX / 8 + 2, 1});
    expect_claim_refused((struct claim){0, 0, 2, 1});
    expect_claim_refused((struct claim){0, 0, 1, 2});
    expect_claim_refused((struct claim){0, 0, RUN + 1, RUN + 1});
}
END_TEST

/* Sends what the source has, and of it the records in the order of `order`. */
static void expect_order_refused(const unsigned *order, size_t count)
{
    struct pair p;
    struct bytes all = {0}, b = {0};
    struct record_sink sink = bytes_sink(&all);
    struct error *err = NULL;
    size_t starts[8] = {0}, n = 0;
    pair_open(&p);
    expect_ok(verify_send(p.source.ram, &sink, &err), err);
    for (size_t at = 0; at < all.length; at += 16 + get_le64(all.data + at + 8)) {
        ck_assert_uint_lt(n, 7);
        starts[n++] = at;
    }
    ck_assert_uint_eq(n, 4); /* 20 pages, RUN, 50; 5 of the other block */
    starts[n] = all.length;
    for (size_t i = 0; i < count; i++) {
        bytes_add(&b, all.data + starts[order[i]], starts[order[i] + 1] - starts[order[i]]);
    }
    ck_assert(!compare(p.destination.ram, &b, &err));
    expect_error(err, "stream-corrupt", "out of order");
    bytes_free(&all);
    bytes_free(&b);
    pair_close(&p);
}

START_TEST(out_of_order)
{
    expect_order_refused((const unsigned[]){0, 1, 1}, 3); /* again */
    expect_order_refused((const unsigned[]){0, 1, 2, 1}, 4);
    expect_order_refused((const unsigned[]){0, 1, 2, 3, 0}, 5);
    expect_order_refused((const unsigned[]){0, 1, 2, 3, 3}, 5);
}
END_TEST

START_TEST(overlapping)
{
    struct pair p;
    struct bytes b = {0};
    struct record_sink sink = bytes_sink(&b);
    struct error *err = NULL;
    pair_open(&p);
    expect_ok(verify_send(p.source.ram, &sink, &err), err);
    b.length = 16 + 24 + 8 * 20; /* the first record: pages 10 to 29 */
    put_claim(&b, &(struct claim){0, 29 * PAGE, 1, 1});
    ck_assert(!compare(p.destination.ram, &b, &err));
    expect_error(err, "stream-corrupt", "out of order");
    bytes_free(&b);
    pair_close(&p);
}
END_TEST

/* A record left out leaves its pages to be zero, which they are not. */
START_TEST(left_out)
{
    struct pair p;
    struct bytes b = {0};
    struct record_sink sink = bytes_sink(&b);
    struct error *err = NULL;
    pair_open(&p);
    expect_ok(verify_send(p.source.ram, &sink, &err), err);
    b.length = 16 + 24 + 8 * 20;
    ck_assert(!compare(p.destination.ram, &b, &err));
    expect_error(err, "verify-failed", "'low' differs from the source, first at page 100 ");
    bytes_free(&b);
    pair_close(&p);
}
END_TEST

int main(void)
{
    fault_init();
    Suite *suite = suite_create("ram/verify");
    unit_add(suite, "ram/verify/equal", equal);
    unit_add(suite, "ram/verify/empty", empty);
    unit_add(suite, "ram/verify/zero-page-equals-hole", zero_page_equals_hole);
    unit_add(suite, "ram/verify/flipped-bytes", flipped_bytes);
    unit_add(suite, "ram/verify/second-block", second_block);
    unit_add(suite, "ram/verify/data-in-a-hole", data_in_a_hole);
    unit_add(suite, "ram/verify/first-of-several", first_of_several);
    unit_add(suite, "ram/verify/outside-the-block", outside_the_block);
    unit_add(suite, "ram/verify/shrunk-file", shrunk_file);
    unit_add(suite, "ram/verify/out-of-range", out_of_range);
    unit_add(suite, "ram/verify/out-of-order", out_of_order);
    unit_add(suite, "ram/verify/overlapping", overlapping);
    unit_add(suite, "ram/verify/left-out", left_out);
    return unit_run(suite);
}
