/* SPDX-License-Identifier: BSD-3-Clause */
/* Where QEMU's stream ends, and what its return path says, in whatever pieces they come. */
#include "common/cleanup.h"
#include "qemu/vmstate.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#define EMITTED_MAX (1u << 17)

/* ---- streams ---- */

struct emitted {
    uint8_t data[EMITTED_MAX];
    size_t length;
};

static void add(struct emitted *b, const void *data, size_t length)
{
    ck_assert_uint_le(length, EMITTED_MAX - b->length);
    memcpy(b->data + b->length, data, length);
    b->length += length;
}

static void add_be32(struct emitted *b, uint32_t value)
{
    uint8_t be[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8),
                     (uint8_t)value};
    add(b, be, sizeof(be));
}

/* The end mark and a description of `size` bytes. */
static void add_description(struct emitted *b, uint32_t size)
{
    static const char head[] = "{\"page_size\": 4096, \"devices\": [{\"name\": \"timer\"}]";
    add(b, "\0\6", 2);
    add_be32(b, size);
    size_t at = b->length;
    ck_assert_uint_le(size, EMITTED_MAX - at);
    memset(b->data + at, ' ', size);
    memcpy(b->data + at, head, size < sizeof(head) ? 1 : sizeof(head) - 1);
    b->data[at + size - 1] = '}';
    b->length += size;
}

/* Sections as QEMU writes them: the magic, RAM's set-up, then devices with bytes of all values. */
static void add_sections(struct emitted *b)
{
    uint64_t random = 7;
    add(b, "QEVM\0\0\0\3", 8);
    for (uint32_t section = 0; section < 40; section++) {
        add(b, "\4", 1);
        add_be32(b, section);
        add(b, "\6device\0\0\0\0\0\0\0\1", 15);
        for (int i = 0; i < 100; i++) {
            uint8_t byte = (uint8_t)(next_random(&random) % 8);
            add(b, &byte, 1);
        }
        add(b, "~", 1);
        add_be32(b, section);
    }
}

static bool is_complete(const struct emitted *b)
{
    return vmstate_is_complete(b->data, b->length);
}

START_TEST(truncated)
{
    static struct emitted b;
    b.length = 0;
    add_sections(&b);
    add_description(&b, 3000);
    for (size_t length = 0; length < b.length; length++) {
        ck_assert_msg(!vmstate_is_complete(b.data, length), "complete with %zu of %zu bytes",
                      length, b.length);
    }
    ck_assert(is_complete(&b));
    add(&b, "}", 1);
    ck_assert(!is_complete(&b));
}
END_TEST

/* The mark's value in each byte of the length, too. */
START_TEST(lengths)
{
    static const uint32_t sizes[] = {2,     3,      6,      0x106,  0x600,  0x606,
                                     0x6ff, 0x1606, 0x0602, 0x6060, 0x10006};
    static struct emitted b;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        b.length = 0;
        add_sections(&b);
        add_description(&b, sizes[i]);
        ck_assert_msg(is_complete(&b), "a description of %#x bytes", sizes[i]);
    }
}
END_TEST

START_TEST(length_of_marks)
{
    /* 0x06000000 bytes and more can't be in a test's stream: the bytes stand there all the same. */
    static const uint32_t wrong[] = {0x06000000, 0x06060606, 0x00060000, 0xffffffff, 0};
    static struct emitted b;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        b.length = 0;
        add(&b, "QEVM\0\6", 6);
        add_be32(&b, wrong[i]);
        add(&b, "{}", 2);
        ck_assert(!is_complete(&b));
    }
}
END_TEST

START_TEST(not_an_end)
{
    static const struct {
        const char *bytes;
        size_t length;
    } rows[] = {
        {"", 0},
        {"\6", 1},
        {"\0\6", 2},
        {"\6\0\0\0\2{}", 7},     /* no end mark */
        {"\1\6\0\0\0\2{}", 8},   /* another mark */
        {"\0\6\0\0\0\2[]", 8},   /* not an object */
        {"\0\6\0\0\0\2{]", 8},   /* nor here */
        {"\0\6\0\0\0\1{", 7},    /* half of one */
        {"\0\6\0\0\0\0", 6},     /* empty */
        {"\0\6\0\0\0\2{} ", 9},  /* goes on */
        {"\0\6\0\0\2{}", 7},     /* three bytes of length */
        {"\6\6\6\6\6\6\6\6", 8}, /* nothing but marks */
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        ck_assert_msg(!vmstate_is_complete((const uint8_t *)rows[i].bytes, rows[i].length),
                      "row %zu", i);
    }
}
END_TEST

/* ---- the return path ---- */

static enum vmstate_word word(const char *bytes, size_t length)
{
    return vmstate_word((const uint8_t *)bytes, length);
}

START_TEST(words)
{
    static const char loaded[] = "\0\1\0\4\0\0\0\0";
    static const char rejected[] = "\0\1\0\4\0\0\0\1";
    /* A PONG, and a request for pages with a name, before it. */
    static const char behind[] = "\0\2\0\4\0\0\0\1\0\3\0\5abcde\0\1\0\4\0\0\0\0";
    ck_assert_int_eq(word(loaded, 8), VMSTATE_LOADED);
    ck_assert_int_eq(word(rejected, 8), VMSTATE_REJECTED);
    for (size_t length = 0; length < sizeof(behind) - 1; length++) {
        ck_assert_int_eq(word(behind, length), VMSTATE_SILENT);
    }
    ck_assert_int_eq(word(behind, sizeof(behind) - 1), VMSTATE_LOADED);
}
END_TEST

START_TEST(strange_words)
{
    ck_assert_int_eq(word("", 0), VMSTATE_SILENT);
    ck_assert_int_eq(word("\0\1\0\0", 4), VMSTATE_REJECTED); /* says nothing */
    ck_assert_int_eq(word("\0\1\0\5\0\0\0\0\0", 9), VMSTATE_REJECTED);
    ck_assert_int_eq(word("\0\1\xff\xff\0\0\0\0", 8), VMSTATE_SILENT); /* 65,535 bytes follow */
    ck_assert_int_eq(word("\0\2\0\0\0\2\0\0\0\1\0\4\0\0\0\0", 16), VMSTATE_LOADED);
    ck_assert_int_eq(word("\1\1\0\4\0\0\0\0", 8), VMSTATE_SILENT); /* another type */
}
END_TEST

/* ---- the sockets ---- */

static void open_pair(struct vmstate *s, int *theirs)
{
    struct error *err = NULL;
    expect_ok(vmstate_open(s, 10, theirs, &err), err);
    ck_assert(!(fcntl(*theirs, F_GETFL) & O_NONBLOCK));
}

START_TEST(collected)
{
    struct error *err = NULL;
    struct vmstate s;
    int theirs;
    open_pair(&s, &theirs);
    expect_ok(vmstate_collect(&s, &err), err);
    ck_assert_uint_eq(s.length, 0);
    ck_assert_int_eq(send(theirs, "01234", 5, 0), 5);
    expect_ok(vmstate_collect(&s, &err), err);
    ck_assert_int_eq(send(theirs, "56789", 5, 0), 5);
    expect_ok(vmstate_collect(&s, &err), err);
    ck_assert(!s.ended);
    close(theirs);
    expect_ok(vmstate_collect(&s, &err), err);
    ck_assert(s.ended);
    ck_assert_uint_eq(s.length, 10);
    ck_assert_mem_eq(s.bytes, "0123456789", 10);
    vmstate_close(&s);
    ck_assert_int_eq(s.fd, -1);
    vmstate_close(&s);
}
END_TEST

START_TEST(too_much)
{
    struct error *err = NULL;
    struct vmstate s;
    int theirs;
    open_pair(&s, &theirs);
    ck_assert_int_eq(send(theirs, "0123456789a", 11, 0), 11);
    ck_assert(!vmstate_collect(&s, &err));
    expect_error(err, "state-too-large", "more than 10 bytes");
    vmstate_close(&s);
    close(theirs);
}
END_TEST

START_TEST(confirmed)
{
    struct vmstate s;
    int theirs;
    uint8_t got[16];
    open_pair(&s, &theirs);
    ck_assert(vmstate_confirm(&s));
    ssize_t n = recv(theirs, got, sizeof(got), 0);
    ck_assert_int_eq(vmstate_word(got, (size_t)n), VMSTATE_LOADED);
    close(theirs);
    ck_assert(!vmstate_confirm(&s)); /* nobody there, and no signal */
    vmstate_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qemu/vmstate");
    unit_add(suite, "qemu/vmstate/end/truncated", truncated);
    unit_add(suite, "qemu/vmstate/end/lengths", lengths);
    unit_add(suite, "qemu/vmstate/end/length-of-marks", length_of_marks);
    unit_add(suite, "qemu/vmstate/end/not-an-end", not_an_end);
    unit_add(suite, "qemu/vmstate/word/each", words);
    unit_add(suite, "qemu/vmstate/word/strange", strange_words);
    unit_add(suite, "qemu/vmstate/socket/collected", collected);
    unit_add(suite, "qemu/vmstate/socket/too-much", too_much);
    unit_add(suite, "qemu/vmstate/socket/confirmed", confirmed);
    return unit_run(suite);
}
