/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/records.h"
#include "ram/xbzrle.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <string.h>

#define SIZE RAM_PAGE_SIZE

static uint8_t from[SIZE], to[SIZE], made[SIZE], delta[2 * SIZE];

static void fill(uint8_t *page, uint64_t seed)
{
    for (size_t i = 0; i < SIZE; i += 8) {
        uint64_t word = next_random(&seed);
        memcpy(page + i, &word, 8);
    }
}

static void begin(uint64_t seed)
{
    fill(from, seed);
    memcpy(to, from, SIZE);
}

static void change(size_t first, size_t bytes)
{
    for (size_t i = first; i < first + bytes; i++) {
        to[i] ^= 0x5a;
    }
}

/* Encodes, and fails the test unless the delta is in order and makes `to` of `from`. */
static size_t round_trip(void)
{
    size_t length = xbzrle_encode(from, to, delta, sizeof(delta));
    ck_assert_uint_ne(length, XBZRLE_NO_GAIN);
    ck_assert(xbzrle_check(delta, length));
    memcpy(made, from, SIZE);
    xbzrle_apply(delta, length, made);
    ck_assert(memcmp(made, to, SIZE) == 0);
    return length;
}

static bool all_are(const uint8_t *bytes, size_t length, uint8_t value)
{
    size_t i = 0;
    while (i < length && bytes[i] == value) {
        i++;
    }
    return i == length;
}

static size_t number_size(size_t n)
{
    return n < 128 ? 1 : 2;
}

/* ---- encoding ---- */

START_TEST(equal_pages)
{
    begin(1);
    ck_assert_uint_eq(xbzrle_encode(from, to, delta, 0), 0);
    ck_assert_uint_eq(round_trip(), 0);
}
END_TEST

START_TEST(known_bytes)
{
    static const uint8_t expected[] = {0x03, 0x02, 0x5a, 0x5a, 0xc8, 0x01, 0x01, 0x5a};
    memset(from, 0, SIZE);
    memset(to, 0, SIZE);
    change(3, 2);
    change(205, 1); /* 200 equal ones between */
    ck_assert_uint_eq(round_trip(), sizeof(expected));
    ck_assert(memcmp(delta, expected, sizeof(expected)) == 0);
}
END_TEST

/* One run of every length at every place that decides something: words, numbers, the page's ends.
 */
START_TEST(single_runs)
{
    static const size_t places[] = {0,   1,   7,   8,    9,    63,   64,   126,  127,  128,
                                    129, 255, 256, 2047, 4060, 4079, 4087, 4088, 4089, 4095};
    for (size_t p = 0; p < sizeof(places) / sizeof(places[0]); p++) {
        for (size_t bytes = 1; bytes <= SIZE - places[p]; bytes += bytes < 300 ? 1 : 97) {
            begin(bytes);
            change(places[p], bytes);
            ck_assert_uint_eq(round_trip(), number_size(places[p]) + number_size(bytes) + bytes);
        }
    }
}
END_TEST

START_TEST(every_place)
{
    for (size_t at = 0; at < SIZE; at++) {
        begin(at);
        change(at, 1);
        ck_assert_uint_eq(round_trip(), number_size(at) + 2);
    }
}
END_TEST

START_TEST(whole_page)
{
    begin(3);
    change(0, SIZE);
    ck_assert_uint_eq(round_trip(), 3 + SIZE);
}
END_TEST

/* A gap of one or two equal bytes costs less than a new run, one of three is told. */
START_TEST(gaps)
{
    for (size_t first = 0; first < 20; first++) {
        for (size_t gap = 1; gap < 40; gap++) {
            begin(first);
            change(first, 5);
            change(first + 5 + gap, 4);
            size_t one = 2 + 5 + gap + 4, two = 2 + 5 + 2 + 4;
            ck_assert_uint_eq(round_trip(), gap < 3 ? one : two);
        }
    }
}
END_TEST

START_TEST(random_changes)
{
    uint64_t dice = 11;
    for (int i = 0; i < 5000; i++) {
        begin(dice);
        for (uint64_t n = next_random(&dice) % 40; n > 0; n--) {
            size_t at = next_random(&dice) % SIZE;
            size_t bytes = 1 + next_random(&dice) % (n % 4 ? 16 : 200);
            change(at, bytes < SIZE - at ? bytes : SIZE - at);
        }
        round_trip();
    }
}
END_TEST

/* Whatever the room, the delta fits it or is refused, and nothing is written behind it. */
START_TEST(room)
{
    uint64_t dice = 12;
    begin(4);
    for (int i = 0; i < 30; i++) {
        change(next_random(&dice) % (SIZE - 60), 1 + next_random(&dice) % 60);
    }
    size_t length = round_trip();
    for (size_t n = 0; n <= length + 3; n++) {
        memset(delta, 0xee, sizeof(delta));
        ck_assert_uint_eq(xbzrle_encode(from, to, delta, n), n < length ? XBZRLE_NO_GAIN : length);
        ck_assert(all_are(delta + n, sizeof(delta) - n, 0xee));
    }
}
END_TEST

START_TEST(random_pages_do_not_gain)
{
    for (uint64_t seed = 0; seed < 200; seed++) {
        fill(from, seed);
        fill(to, seed + 1000);
        ck_assert_uint_eq(xbzrle_encode(from, to, delta, SIZE - 1), XBZRLE_NO_GAIN);
        round_trip();
    }
}
END_TEST

/* ---- checking ---- */

static bool check(const char *bytes, size_t length)
{
    uint8_t *exact = malloc(length + 1); /* so that a sanitizer sees a step behind the end */
    ck_assert_ptr_nonnull(exact);
    uint8_t *at = exact + 1;
    memcpy(at, bytes, length);
    bool ok = xbzrle_check(at, length);
    free(exact);
    return ok;
}

#define CHECK(bytes) check(bytes, sizeof(bytes) - 1)

START_TEST(hostile_deltas)
{
    ck_assert(CHECK(""));
    ck_assert(CHECK("\x00\x01x"));
    ck_assert(CHECK("\x80\x01\x01x\x01\x01y"));
    ck_assert(!CHECK("\x00"));                      /* half a run */
    ck_assert(!CHECK("\x80"));                      /* half a number */
    ck_assert(!CHECK("\x05\x80"));                  /* another */
    ck_assert(!CHECK("\x05\x01"));                  /* bytes missing */
    ck_assert(!CHECK("\x05\x03xy"));                /* one byte missing */
    ck_assert(!CHECK("\x05\x00"));                  /* nothing follows */
    ck_assert(!CHECK("\x05\x00\x05\x01x"));         /* not even here */
    ck_assert(!CHECK("\x01\x01x\x00\x01y"));        /* nothing skipped */
    ck_assert(!CHECK("\x80\x00\x01x"));             /* a number longer than needed */
    ck_assert(!CHECK("\x00\x81\x00x"));             /* another */
    ck_assert(!CHECK("\x80\x80\x01\x01x"));         /* three bytes */
    ck_assert(!CHECK("\xff\xff\xff\xff\xff\x01x")); /* many */
    ck_assert(!CHECK("\x80\x20\x01x"));             /* 4096: behind the page */
    ck_assert(CHECK("\xff\x1f\x01x"));              /* 4095: its last byte */
    ck_assert(!CHECK("\xff\x1f\x02xy"));            /* one too many */
    ck_assert(!CHECK("\xff\x7f\x01x"));             /* as far as a number goes */
    ck_assert(!CHECK("\xff\x1f\x01x\x01\x01y"));    /* a second run behind the end */
    ck_assert(!CHECK("\x01\x01x\x01"));             /* half a second run */
}
END_TEST

/* The longest that there is, one byte more, and each shorter piece of it. */
START_TEST(lengths)
{
    begin(5);
    change(0, SIZE);
    size_t length = xbzrle_encode(from, to, delta, sizeof(delta));
    ck_assert_uint_eq(length, 3 + SIZE);
    ck_assert(xbzrle_check(delta, length));
    ck_assert(!xbzrle_check(delta, length + 1));
    for (size_t n = 1; n < length; n++) {
        ck_assert(!xbzrle_check(delta, n));
    }
}
END_TEST

/* What passes the check stays within the page, whatever it is. */
START_TEST(random_deltas)
{
    uint64_t dice = 13;
    struct {
        uint8_t before[SIZE], page[SIZE], after[SIZE];
    } guarded;
    unsigned passed = 0;
    for (int i = 0; i < 50000; i++) {
        uint8_t bytes[24];
        size_t length = next_random(&dice) % sizeof(bytes);
        for (size_t k = 0; k < length; k++) {
            uint64_t r = next_random(&dice);
            bytes[k] = (uint8_t)(r & 0x300 ? r % 8 : r);
        }
        if (!xbzrle_check(bytes, length)) {
            continue;
        }
        memset(&guarded, 0x77, sizeof(guarded));
        xbzrle_apply(bytes, length, guarded.page);
        ck_assert(all_are(guarded.before, SIZE, 0x77) && all_are(guarded.after, SIZE, 0x77));
        passed++;
    }
    ck_assert_uint_gt(passed, 500);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ram/xbzrle");
    unit_add(suite, "ram/xbzrle/equal-pages", equal_pages);
    unit_add(suite, "ram/xbzrle/known-bytes", known_bytes);
    unit_add(suite, "ram/xbzrle/single-runs", single_runs);
    unit_add(suite, "ram/xbzrle/every-place", every_place);
    unit_add(suite, "ram/xbzrle/whole-page", whole_page);
    unit_add(suite, "ram/xbzrle/gaps", gaps);
    unit_add(suite, "ram/xbzrle/random-changes", random_changes);
    unit_add(suite, "ram/xbzrle/room", room);
    unit_add(suite, "ram/xbzrle/random-pages-do-not-gain", random_pages_do_not_gain);
    unit_add(suite, "ram/xbzrle/hostile-deltas", hostile_deltas);
    unit_add(suite, "ram/xbzrle/lengths", lengths);
    unit_add(suite, "ram/xbzrle/random-deltas", random_deltas);
    return unit_run(suite);
}
