/* SPDX-License-Identifier: BSD-3-Clause */
#include "protocol/framing.h"
#include "tests/unit/unit.h"

#include <stdio.h>
#include <string.h>

/* What a stream came to: a letter per request or error, as in "ccd". */
struct outcome {
    char events[64];
    size_t count;
    size_t last_length; /* of the last complete request */
};

static const char letters[] = {
    [FRAMING_COMPLETE] = 'c',
    [FRAMING_INVALID] = 'i',
    [FRAMING_TOO_DEEP] = 'd',
    [FRAMING_TOO_LARGE] = 'l',
};

/* Feeds a piece of the stream. */
static void feed(struct framing *framing, const char *bytes, size_t len, struct outcome *outcome)
{
    while (len > 0) {
        size_t used = 0;
        size_t before = framing->length;
        enum framing_result result = framing_scan(framing, bytes, len, &used);
        ck_assert_uint_gt(used, 0);
        ck_assert_uint_le(used, len);
        if (result == FRAMING_PARTIAL) {
            ck_assert_uint_eq(used, len);
            ck_assert_uint_eq(framing->length, before + used);
        } else if (result != FRAMING_SKIPPED) {
            ck_assert_uint_lt(outcome->count, sizeof(outcome->events) - 1);
            outcome->events[outcome->count++] = letters[result];
            outcome->last_length = before + used;
            ck_assert_uint_eq(framing->length, 0);
        }
        bytes += used;
        len -= used;
    }
}

static struct outcome feed_limited(const char *text, size_t limit)
{
    struct framing framing = {.limit = limit};
    struct outcome outcome = {0};
    feed(&framing, text, strlen(text), &outcome);
    ck_assert_uint_eq(framing.limit, limit);
    return outcome;
}

static struct outcome feed_all(const char *text)
{
    return feed_limited(text, 0);
}

static void expect(const char *text, const char *events)
{
    struct outcome outcome = feed_all(text);
    ck_assert_msg(strcmp(outcome.events, events) == 0, "%s gave %s, not %s", text, outcome.events,
                  events);
}

START_TEST(split_anywhere)
{
    static const char stream[] = "  {\"a\": \"}{\\\"\\\\\"}{\"b\":[{},[1, 2.5e+3]]}\r\n[]\nbad\n"
                                 "{\"c\": tru\x01\n{\"d\": \"\xc3\xa9\"}";
    struct outcome whole = feed_all(stream);
    ck_assert_str_eq(whole.events, "ccciic");
    size_t len = strlen(stream);
    for (size_t first = 0; first <= len; first++) {
        for (size_t second = first; second <= len; second++) {
            struct framing framing = {0};
            struct outcome outcome = {0};
            feed(&framing, stream, first, &outcome);
            feed(&framing, stream + first, second - first, &outcome);
            feed(&framing, stream + second, len - second, &outcome);
            ck_assert_str_eq(outcome.events, whole.events);
            ck_assert_uint_eq(outcome.last_length, whole.last_length);
        }
    }
}
END_TEST

START_TEST(one_byte_at_a_time)
{
    static const char stream[] = "{\"execute\": \"stop\"} {\"execute\": \"cont\"}";
    struct framing framing = {0};
    struct outcome outcome = {0};
    for (size_t i = 0; i < strlen(stream); i++) {
        feed(&framing, stream + i, 1, &outcome);
    }
    ck_assert_str_eq(outcome.events, "cc");
    ck_assert_uint_eq(outcome.last_length, strlen("{\"execute\": \"cont\"}"));
}
END_TEST

START_TEST(brackets_in_strings)
{
    expect("{\"a\": \"}\"}", "c");
    expect("{\"a\": \"\\\"}\"}", "c");
    expect("{\"a\": \"\\\\\"}", "c");
    expect("{\"[\": {\"]\": \"{\"}}", "c");
}
END_TEST

START_TEST(invalid)
{
    static const char *const streams[] = {
        "}\n",
        "{]\n",
        "[}\n",
        "x\n",
        "\"a\"\n",
        "12\n",
        "{\x01}\n",
        "{'a'\n",
        "{\"a\": #}\n",
        "{\"a\": \"\x7\"}\n",
        "{\"a\": \"\n",
        "{\"a\": \"\\\n",
        "\xff\n",
        "{\"\xff\"}\n",
        "{\"\xc0\x80\"}\n",
        "{\"a\": \"\n",
        "{\xe2\x80\n",
        "[[[}}\n",
        "\xef\xbb\xbf\n",
    };
    for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) {
        char text[64];
        snprintf(text, sizeof(text), "%s{}", streams[i]);
        expect(text, "ic");
    }
}
END_TEST

START_TEST(nul_byte)
{
    static const char stream[] = "{\"a\":\0}{}\n{}";
    struct framing framing = {0};
    struct outcome outcome = {0};
    feed(&framing, stream, sizeof(stream) - 1, &outcome);
    ck_assert_str_eq(outcome.events, "ic");
}
END_TEST

START_TEST(resynchronises_at_newline)
{
    expect("junk {} {} {}\n{}{}", "icc");
    expect("junk\n\n\njunk\n{}", "iic");
    expect("junk", "i");
}
END_TEST

static void expect_depth(int depth, const char *open, const char *close, const char *events)
{
    char text[4 * FRAMING_MAX_DEPTH * 4] = "";
    for (int i = 0; i < depth; i++) {
        strcat(text, open);
    }
    for (int i = 0; i < depth; i++) {
        strcat(text, close);
    }
    strcat(text, "\n{}");
    expect(text, events);
}

START_TEST(depth)
{
    expect_depth(FRAMING_MAX_DEPTH, "[", "]", "cc");
    expect_depth(FRAMING_MAX_DEPTH + 1, "[", "]", "dc");
    expect_depth(FRAMING_MAX_DEPTH / 2, "{\"a\":[", "]}", "cc");
    expect_depth(FRAMING_MAX_DEPTH / 2 + 1, "{\"a\":[", "]}", "dc");
}
END_TEST

/* A request of just `size` bytes, then a newline and an empty one. */
static void expect_size(size_t size, size_t limit, const char *events)
{
    char *text = malloc(size + sizeof("\n{}"));
    ck_assert_ptr_nonnull(text);
    memset(text, 'a', size);
    memcpy(text, "{\"", 2);
    memcpy(text + size - 2, "\"}", 2);
    memcpy(text + size, "\n{}", sizeof("\n{}"));
    struct outcome outcome = feed_limited(text, limit);
    free(text);
    ck_assert_str_eq(outcome.events, events);
}

START_TEST(size)
{
    static const size_t limits[] = {16, FRAMING_MAX_REQUEST, 4 * FRAMING_MAX_REQUEST};
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        expect_size(limits[i], limits[i], "cc");
        expect_size(limits[i] + 1, limits[i], "lc");
        expect_size(4 * limits[i], limits[i], "lc");
    }
    expect_size(FRAMING_MAX_REQUEST, 0, "cc");
    expect_size(FRAMING_MAX_REQUEST + 1, 0, "lc");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("protocol/framing");
    unit_add(suite, "protocol/framing/split-anywhere", split_anywhere);
    unit_add(suite, "protocol/framing/one-byte-at-a-time", one_byte_at_a_time);
    unit_add(suite, "protocol/framing/brackets-in-strings", brackets_in_strings);
    unit_add(suite, "protocol/framing/invalid", invalid);
    unit_add(suite, "protocol/framing/nul-byte", nul_byte);
    unit_add(suite, "protocol/framing/resynchronises-at-newline", resynchronises_at_newline);
    unit_add(suite, "protocol/framing/depth", depth);
    unit_add(suite, "protocol/framing/size", size);
    return unit_run(suite);
}
