/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/cleanup.h"
#include "ram/records.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <string.h>
#include <xxhash.h>

/* As schema/stream.md has them. */
static const struct {
    uint32_t type;
    const char *name;
    uint64_t min, max;
    bool streamed;
} types[] = {
    {RECORD_HELLO, "HELLO", 48, 65536, false},
    {RECORD_BLOCK, "BLOCK", 24, 256, false},
    {RECORD_CAPABILITY, "CAPABILITY", 1, 64, false},
    {RECORD_OPEN, "OPEN", 0, 0, false},
    {RECORD_ROUND, "ROUND", 16, 16, false},
    {RECORD_RAM_PAGES, "RAM_PAGES", 16, 16 + (1 << 20), true},
    {RECORD_RAM_ZERO, "RAM_ZERO", 24, 24, false},
    {RECORD_STOPPED, "STOPPED", 8, 8, false},
    {RECORD_STATE, "STATE", 16, 16 + (1 << 20), true},
    {RECORD_STATE_END, "STATE_END", 16, 16, false},
    {RECORD_VERIFY, "VERIFY", 24, 65536, false},
    {RECORD_END, "END", 24, 24, false},
    {RECORD_GO, "GO", 0, 0, false},
    {RECORD_ASK, "ASK", 16, 16, false},
    {RECORD_DONE, "DONE", 0, 0, false},
    {RECORD_ALIVE, "ALIVE", 0, 0, false},
    {RECORD_RAM_DELTA, "RAM_DELTA", 19, 16 + 4095, false},
    {RECORD_DISK, "DISK", 40, 256, false},
    {RECORD_DISK_DATA, "DISK_DATA", 16, 16 + (1 << 20), true},
    {RECORD_DISK_ZERO, "DISK_ZERO", 24, 24, false},
    {RECORD_DISK_END, "DISK_END", 16, 16, false},
    {RECORD_MACHINE, "MACHINE", 1, 64, false},
    {RECORD_ACCEPT, "ACCEPT", 8, 8, false},
    {RECORD_READY, "READY", 8, 8, false},
    {RECORD_RUNNING, "RUNNING", 8, 8, false},
    {RECORD_ANSWER, "ANSWER", 8, 8, false},
    {RECORD_FAIL, "FAIL", 0, 1024, false},
};

#define NTYPES (sizeof(types) / sizeof(types[0]))

static uint8_t noise(size_t i)
{
    return (uint8_t)(i * 37 + i / 251);
}

/* Any record, with a body of noise. */
static void put_record(struct bytes *b, uint32_t type, uint64_t length, bool streamed)
{
    static const uint8_t zeroes[8];
    uint8_t head[RECORD_HEAD_SIZE];
    uint8_t *body = calloc(1, length + 1);
    ck_assert_ptr_nonnull(body);
    for (size_t i = 0; i < length; i++) {
        body[i] = noise(i);
    }
    record_head(head, type, length, body, streamed ? 16 : length);
    bytes_add(b, head, sizeof(head));
    bytes_add(b, body, length);
    bytes_add(b, zeroes, -length & 7);
    free(body);
}

static void expect_noise(const uint8_t *bytes, size_t from, size_t length)
{
    size_t i = 0;
    while (i < length && bytes[i] == noise(from + i)) {
        i++;
    }
    ck_assert_uint_eq(i, length);
}

/* Takes a record's payload, in pieces. */
static void expect_payload(struct record_reader *r, struct record *rec, size_t unit, size_t max)
{
    size_t at = 16;
    while (rec->payload) {
        size_t n = 0;
        struct error *err = NULL;
        const uint8_t *piece = record_payload(r, rec, unit, max, &n, &err);
        expect_ok(piece != NULL, err);
        ck_assert_uint_gt(n, 0);
        ck_assert_uint_le(n, max);
        ck_assert(n % unit == 0 || !rec->payload);
        expect_noise(piece, at, n);
        at += n;
    }
    ck_assert_uint_eq(at, rec->length);
}

static void expect_record(struct record_reader *r, size_t i, uint64_t length)
{
    struct record rec;
    struct error *err = NULL;
    expect_ok(record_read(r, &rec, &err), err);
    ck_assert_uint_eq(rec.type, types[i].type);
    ck_assert_uint_eq(rec.length, length);
    ck_assert_uint_eq(rec.payload, types[i].streamed ? length - 16 : 0);
    expect_noise(rec.body, 0, types[i].streamed ? 16 : length);
    if (types[i].streamed) {
        expect_payload(r, &rec, 1, 4096);
    }
}

static void expect_refused(const struct bytes *b, const char *code, const char *part)
{
    struct bytes_reader from = {.data = b->data, .length = b->length};
    struct record_reader *r = bytes_open(&from);
    struct record rec;
    struct error *err = NULL;
    while (record_read(r, &rec, &err)) {
    }
    expect_error(err, code, part);
    record_reader_free(r);
}

/* ---- shape ---- */

START_TEST(head_layout)
{
    struct bytes b = {0};
    struct record_sink sink = bytes_sink(&b);
    static const uint8_t body[] = {1, 2, 3};
    expect_ok(record_write(&sink, RECORD_CAPABILITY, body, 3, NULL), NULL);
    ck_assert_uint_eq(b.length, 16 + 8);
    ck_assert_uint_eq(get_le32(b.data), RECORD_CAPABILITY);
    ck_assert_uint_eq(get_le64(b.data + 8), 3);
    ck_assert_mem_eq(b.data + 16, "\1\2\3\0\0\0\0\0", 8);
    uint8_t plain[16];
    memcpy(plain, b.data, 16);
    memset(plain + 4, 0, 4);
    uint32_t check = XXH32(body, 3, XXH32(plain, 16, 0));
    ck_assert_uint_eq(get_le32(b.data + 4), check);
    bytes_free(&b);
}
END_TEST

START_TEST(little_endian)
{
    uint8_t bytes[8];
    put_le64(bytes, 0x0102030405060708ULL);
    ck_assert_mem_eq(bytes, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
    ck_assert_uint_eq(get_le64(bytes), 0x0102030405060708ULL);
    put_le32(bytes, 0xfffefdfcu);
    ck_assert_mem_eq(bytes, "\xfc\xfd\xfe\xff", 4);
    ck_assert_uint_eq(get_le32(bytes), 0xfffefdfcu);
}
END_TEST

START_TEST(preamble)
{
    uint8_t bytes[STREAM_PREAMBLE_SIZE];
    uint32_t flags = 0;
    struct error *err = NULL;
    stream_preamble(bytes, STREAM_FLAG_TWO_WAY);
    ck_assert_mem_eq(bytes, "FERRYMIG\1\0\0\0\1\0\0\0", 16);
    expect_ok(stream_check_preamble(bytes, &flags, &err), err);
    ck_assert_uint_eq(flags, STREAM_FLAG_TWO_WAY);
    for (int i = 0; i < 8; i++) {
        bytes[i] ^= 0x20;
        ck_assert(!stream_check_preamble(bytes, &flags, &err));
        expect_error(err, "not-a-stream", NULL);
        err = NULL;
        bytes[i] ^= 0x20;
    }
    for (int i = 8; i < 12; i++) {
        bytes[i] ^= 0x40;
        ck_assert(!stream_check_preamble(bytes, &flags, &err));
        expect_error(err, "stream-version", NULL);
        err = NULL;
        bytes[i] ^= 0x40;
    }
}
END_TEST

START_TEST(names)
{
    for (size_t i = 0; i < NTYPES; i++) {
        ck_assert_str_eq(record_type_name(types[i].type), types[i].name);
    }
    ck_assert_str_eq(record_type_name(0), "unknown");
    ck_assert_str_eq(record_type_name(49), "unknown");
    ck_assert_str_eq(record_type_name(UINT32_MAX), "unknown");
}
END_TEST

/* ---- there and back ---- */

/* The longest body of a type, and a shorter one where it would come in too many pieces. */
static uint64_t long_body(size_t i, size_t piece)
{
    uint64_t some = types[i].min + 1000;
    return piece && piece < 4096 && some < types[i].max ? some : types[i].max;
}

static void round_trip(size_t piece)
{
    struct bytes b = {0};
    for (size_t i = 0; i < NTYPES; i++) {
        put_record(&b, types[i].type, types[i].min, types[i].streamed);
        put_record(&b, types[i].type, long_body(i, piece), types[i].streamed);
    }
    struct bytes_reader from = {.data = b.data, .length = b.length, .piece = piece};
    struct record_reader *r = bytes_open(&from);
    for (size_t i = 0; i < NTYPES; i++) {
        expect_record(r, i, types[i].min);
        expect_record(r, i, long_body(i, piece));
    }
    ck_assert_uint_eq(record_reader_bytes(r), b.length);
    record_reader_free(r);
    bytes_free(&b);
}

START_TEST(all_types)
{
    static const size_t pieces[] = {0, 1, 13, 4096, 70000};
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        round_trip(pieces[i]);
    }
}
END_TEST

START_TEST(payload_in_units)
{
    static const size_t pieces[] = {0, 1, 7, 4095, 4096, 4097, 100000};
    struct bytes b = {0};
    for (int i = 0; i < 40; i++) { /* more than the reader's buffer in all */
        put_record(&b, RECORD_RAM_PAGES, 16 + (uint64_t)(i % 17) * PAGE, true);
        put_record(&b, RECORD_OPEN, 0, false);
    }
    for (size_t p = 0; p < sizeof(pieces) / sizeof(pieces[0]); p++) {
        struct bytes_reader from = {.data = b.data, .length = b.length, .piece = pieces[p]};
        struct record_reader *r = bytes_open(&from);
        for (int i = 0; i < 40; i++) {
            struct record rec;
            struct error *err = NULL;
            expect_ok(record_read(r, &rec, &err), err);
            ck_assert_uint_eq(rec.payload, (uint64_t)(i % 17) * PAGE);
            expect_payload(r, &rec, RAM_PAGE_SIZE, 3 * RAM_PAGE_SIZE);
            expect_ok(record_expect(r, RECORD_OPEN, &rec, &err), err);
        }
        record_reader_free(r);
    }
    bytes_free(&b);
}
END_TEST

/* What nobody took of a payload does not turn up in the next record. */
START_TEST(payload_left_over)
{
    struct bytes b = {0};
    for (int i = 0; i < 5; i++) {
        put_record(&b, RECORD_STATE, 16 + 300003, true);
        put_record(&b, RECORD_OPEN, 0, false);
    }
    struct bytes_reader from = {.data = b.data, .length = b.length, .piece = 65536};
    struct record_reader *r = bytes_open(&from);
    for (size_t i = 0; i < 5; i++) {
        struct record rec;
        struct error *err = NULL;
        size_t n = 0;
        expect_ok(record_expect(r, RECORD_STATE, &rec, &err), err);
        if (i) {
            expect_ok(record_payload(r, &rec, 1, i, &n, &err) != NULL, err);
            ck_assert_uint_eq(n, i);
        }
        expect_ok(record_expect(r, RECORD_OPEN, &rec, &err), err);
    }
    record_reader_free(r);
    bytes_free(&b);
}
END_TEST

START_TEST(buffered)
{
    struct bytes b = {0};
    put_record(&b, RECORD_OPEN, 0, false);
    put_record(&b, RECORD_GO, 0, false);
    struct bytes_reader from = {.data = b.data, .length = b.length};
    struct record_reader *r = bytes_open(&from);
    struct record rec;
    struct error *err = NULL;
    ck_assert(!record_reader_buffered(r));
    expect_ok(record_expect(r, RECORD_OPEN, &rec, &err), err);
    ck_assert(record_reader_buffered(r));
    ck_assert_uint_eq(record_reader_bytes(r), 32);
    expect_ok(record_expect(r, RECORD_GO, &rec, &err), err);
    ck_assert(!record_reader_buffered(r));
    record_reader_free(r);
    bytes_free(&b);
}
END_TEST

/* ---- damage ---- */

/* Bit 31 of the type turns a record into one to be skipped: nothing follows it then. */
START_TEST(each_bit_of_a_head)
{
    for (size_t i = 0; i < NTYPES; i++) {
        for (unsigned bit = 0; bit < 8 * RECORD_HEAD_SIZE; bit++) {
            struct bytes b = {0};
            put_record(&b, types[i].type, types[i].min, types[i].streamed);
            b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            struct bytes_reader from = {.data = b.data, .length = b.length};
            struct record_reader *r = bytes_open(&from);
            struct record rec;
            struct error *err = NULL;
            ck_assert_msg(!record_read(r, &rec, &err), "%s: bit %u", types[i].name, bit);
            ck_assert(strcmp(err->code, "stream-corrupt") == 0 ||
                      strcmp(err->code, "stream-truncated") == 0);
            error_free(err);
            record_reader_free(r);
            bytes_free(&b);
        }
    }
}
END_TEST

START_TEST(each_bit_of_a_body)
{
    for (size_t i = 0; i < NTYPES; i++) {
        for (unsigned bit = 0; bit < 8 * types[i].min; bit++) {
            struct bytes b = {0};
            put_record(&b, types[i].type, types[i].min, types[i].streamed);
            b.data[16 + bit / 8] ^= (uint8_t)(1 << bit % 8);
            expect_refused(&b, "stream-corrupt", types[i].name);
            bytes_free(&b);
        }
    }
}
END_TEST

static void expect_length_refused(size_t i, uint64_t length)
{
    struct bytes b = {0};
    uint8_t head[RECORD_HEAD_SIZE];
    record_head(head, types[i].type, length, NULL, 0);
    bytes_add(&b, head, sizeof(head));
    expect_refused(&b, "stream-corrupt", types[i].name);
    bytes_free(&b);
}

/* Refused by the head alone: no body is awaited. */
START_TEST(length_limits)
{
    for (size_t i = 0; i < NTYPES; i++) {
        if (types[i].min) {
            expect_length_refused(i, types[i].min - 1);
            expect_length_refused(i, 0);
        }
        expect_length_refused(i, types[i].max + 1);
        expect_length_refused(i, 1ULL << 32);
        expect_length_refused(i, UINT64_MAX);
    }
}
END_TEST

START_TEST(unknown_types)
{
    static const uint32_t unknown[] = {0, 24, 31, 36, 47, 49, 1000, 0x7fffffff};
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        struct bytes b = {0};
        put_record(&b, unknown[i], 24, false);
        expect_refused(&b, "stream-corrupt", "unknown type");
        bytes_free(&b);
    }
}
END_TEST

START_TEST(skippable)
{
    static const uint64_t lengths[] = {0, 1, 7, 8, 9, 65537, 5 << 20};
    struct bytes b = {0};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        put_record(&b, RECORD_SKIPPABLE | (uint32_t)i, lengths[i], false);
        put_record(&b, RECORD_STOPPED, 8, false);
    }
    put_record(&b, RECORD_SKIPPABLE | 5, 8, false);
    struct bytes_reader from = {.data = b.data, .length = b.length, .piece = 10000};
    struct record_reader *r = bytes_open(&from);
    struct record rec;
    struct error *err = NULL;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        expect_ok(record_expect(r, RECORD_STOPPED, &rec, &err), err);
        expect_noise(rec.body, 0, 8);
    }
    ck_assert(!record_read(r, &rec, &err));
    expect_error(err, "stream-truncated", NULL);
    record_reader_free(r);
    bytes_free(&b);
}
END_TEST

START_TEST(skippable_too_long)
{
    struct bytes b = {0};
    uint8_t head[RECORD_HEAD_SIZE];
    record_head(head, RECORD_SKIPPABLE | 5, RECORD_SKIP_MAX + 1, NULL, 0);
    bytes_add(&b, head, sizeof(head));
    expect_refused(&b, "stream-corrupt", "unknown record");
    bytes_free(&b);
}
END_TEST

/* How many of the records that end at ends[] (their padding aside) are there in `length` bytes. */
static size_t count_whole(const size_t *ends, size_t count, size_t length)
{
    size_t whole = 0;
    while (whole < count && ends[whole] <= length) {
        whole++;
    }
    return whole;
}

START_TEST(truncated_anywhere)
{
    struct bytes b = {0};
    size_t ends[4];
    put_record(&b, RECORD_BLOCK, 27, false);
    ends[0] = b.length - 5;
    put_record(&b, RECORD_SKIPPABLE | 9, 11, false);
    put_record(&b, RECORD_OPEN, 0, false);
    ends[1] = b.length;
    put_record(&b, RECORD_STATE, 16 + 9, true);
    ends[2] = b.length - 7;
    put_record(&b, RECORD_END, 24, false);
    ends[3] = b.length;
    for (size_t length = 0; length < b.length; length++) {
        struct bytes_reader from = {.data = b.data, .length = length};
        struct record_reader *r = bytes_open(&from);
        struct record rec;
        struct error *err = NULL;
        size_t got = 0;
        while (record_read(r, &rec, &err)) {
            size_t n;
            if (rec.payload && !record_payload(r, &rec, 9, 9, &n, &err)) {
                break;
            }
            got++;
        }
        ck_assert_uint_eq(got, count_whole(ends, 4, length));
        expect_error(err, "stream-truncated", NULL);
        record_reader_free(r);
    }
    bytes_free(&b);
}
END_TEST

/* ---- payload past the buffer ---- */

#define LARGE (256u << 10)

/* The next record's payload, wherever it goes; how much of it went past the buffer. */
static size_t take_payload(struct record_reader *r, uint8_t *to)
{
    struct record rec;
    struct error *err = NULL;
    size_t past = 0;
    expect_ok(record_read(r, &rec, &err), err);
    for (size_t n; rec.payload; to += n) {
        if (record_payload_is_ahead(r, &rec)) {
            n = record_payload_to(r, &rec, to, &err);
            ck_assert_uint_gt(n, 0);
            past += n;
        } else {
            const uint8_t *piece = record_payload(r, &rec, 1, LARGE, &n, &err);
            ck_assert_ptr_nonnull(piece);
            memcpy(to, piece, n);
        }
    }
    return past;
}

/* Of a run of large records only what comes with their heads goes through the buffer. */
START_TEST(payload_past_the_buffer)
{
    enum { RECORDS = 4 };
    struct bytes b = {0};
    CLEANUP_FREE uint8_t *payload = malloc(LARGE), *taken = malloc(LARGE);
    uint8_t fixed[16] = {0}, head[RECORD_HEAD_SIZE];
    uint64_t random = 1;
    for (size_t i = 0; i < LARGE; i++) {
        payload[i] = (uint8_t)next_random(&random);
    }
    record_head(head, RECORD_STATE, sizeof(fixed) + LARGE, fixed, sizeof(fixed));
    for (int i = 0; i < RECORDS; i++) {
        bytes_add(&b, head, sizeof(head));
        bytes_add(&b, fixed, sizeof(fixed));
        bytes_add(&b, payload, LARGE);
    }
    struct bytes_reader from = {
        .data = b.data, .length = b.length, .piece = 100000, .in_place = true};
    struct record_reader *r = bytes_open(&from);
    for (int i = 0; i < RECORDS; i++) {
        memset(taken, 0, LARGE);
        ck_assert_uint_gt(take_payload(r, taken), i ? LARGE - 2 * RAM_PAGE_SIZE : LARGE / 2);
        ck_assert(memcmp(taken, payload, LARGE) == 0);
    }
    ck_assert_uint_eq(from.at, b.length);
    record_reader_free(r);
    bytes_free(&b);
}
END_TEST

START_TEST(payload_through_the_buffer)
{
    struct bytes b = {0};
    CLEANUP_FREE uint8_t *payload = calloc(1, LARGE), *taken = malloc(LARGE);
    uint8_t fixed[16] = {0}, head[RECORD_HEAD_SIZE];
    record_head(head, RECORD_STATE, sizeof(fixed) + LARGE, fixed, sizeof(fixed));
    bytes_add(&b, head, sizeof(head));
    bytes_add(&b, fixed, sizeof(fixed));
    bytes_add(&b, payload, LARGE);
    struct bytes_reader from = {.data = b.data, .length = b.length, .piece = 1000};
    struct record_reader *r = bytes_open(&from);
    ck_assert_uint_eq(take_payload(r, taken), 0);
    record_reader_free(r);
    bytes_free(&b);
}
END_TEST

static long broken_read(void *opaque, void *buf, size_t room, struct error **errp)
{
    (void)opaque;
    (void)buf;
    (void)room;
    error_set(errp, "channel-closed", "it broke");
    return -1;
}

START_TEST(source_fails)
{
    struct record_reader *r =
        record_reader_new(&(struct record_source){.read = broken_read, .opaque = NULL});
    struct record rec;
    struct error *err = NULL;
    ck_assert(!record_read(r, &rec, &err));
    expect_error(err, "channel-closed", "it broke");
    record_reader_free(r);
}
END_TEST

/* ---- what is due ---- */

START_TEST(wrong_type)
{
    struct bytes b = {0};
    put_record(&b, RECORD_GO, 0, false);
    struct bytes_reader from = {.data = b.data, .length = b.length};
    struct record_reader *r = bytes_open(&from);
    struct record rec;
    struct error *err = NULL;
    ck_assert(!record_expect(r, RECORD_READY, &rec, &err));
    expect_error(err, "stream-order", "A GO record where READY was due");
    record_reader_free(r);
    bytes_free(&b);
}
END_TEST

START_TEST(fail_is_told)
{
    struct bytes b = {0};
    struct record_sink sink = bytes_sink(&b);
    record_write(&sink, RECORD_FAIL, "no \x1b[31mroom\n\xff", 14, NULL);
    struct bytes_reader from = {.data = b.data, .length = b.length};
    struct record_reader *r = bytes_open(&from);
    struct record rec;
    struct error *err = NULL;
    ck_assert(!record_expect(r, RECORD_READY, &rec, &err));
    expect_error(err, "peer-failed", "The peer gave up: no ?[31mroom??");
    record_reader_free(r);
    bytes_free(&b);
}
END_TEST

START_TEST(fail_text_fits)
{
    uint8_t body[1024];
    char text[16];
    memset(body, 'x', sizeof(body));
    for (uint64_t length = 0; length <= sizeof(body); length++) {
        struct record rec = {.type = RECORD_FAIL, .length = length, .body = body};
        memset(text, '#', sizeof(text));
        record_fail_text(&rec, text, sizeof(text));
        ck_assert_uint_eq(strlen(text), length < 15 ? length : 15);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ram/records");
    unit_add(suite, "ram/records/head-layout", head_layout);
    unit_add(suite, "ram/records/little-endian", little_endian);
    unit_add(suite, "ram/records/preamble", preamble);
    unit_add(suite, "ram/records/names", names);
    unit_add(suite, "ram/records/all-types", all_types);
    unit_add(suite, "ram/records/payload-in-units", payload_in_units);
    unit_add(suite, "ram/records/payload-left-over", payload_left_over);
    unit_add(suite, "ram/records/buffered", buffered);
    unit_add(suite, "ram/records/each-bit-of-a-head", each_bit_of_a_head);
    unit_add(suite, "ram/records/each-bit-of-a-body", each_bit_of_a_body);
    unit_add(suite, "ram/records/length-limits", length_limits);
    unit_add(suite, "ram/records/unknown-types", unknown_types);
    unit_add(suite, "ram/records/skippable", skippable);
    unit_add(suite, "ram/records/skippable-too-long", skippable_too_long);
    unit_add(suite, "ram/records/truncated-anywhere", truncated_anywhere);
    unit_add(suite, "ram/records/source-fails", source_fails);
    unit_add(suite, "ram/records/payload-past-the-buffer", payload_past_the_buffer);
    unit_add(suite, "ram/records/payload-through-the-buffer", payload_through_the_buffer);
    unit_add(suite, "ram/records/wrong-type", wrong_type);
    unit_add(suite, "ram/records/fail-is-told", fail_is_told);
    unit_add(suite, "ram/records/fail-text-fits", fail_text_fits);
    return unit_run(suite);
}
