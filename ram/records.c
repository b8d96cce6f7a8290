/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/records.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <xxhash.h>

/* Large enough that one read and one write to memory move a good piece, small enough for L2. */
#define READER_SIZE (1u << 20)

/* A payload of which this much is still to come is read into its place; and behind one that was,
 * the next record's head is read with little more, since what comes with it would be copied. */
#define IN_PLACE_MIN    (64u << 10)
#define BEHIND_IN_PLACE 4096u

/* What a reader holds a record of each type to. */
struct record_rule {
    const char *name;
    uint64_t min, max; /* bytes of body */
    bool streamed;     /* 16 bytes of fixed body, the rest is payload */
};

static const struct record_rule rules[] = {
    [RECORD_HELLO] = {"HELLO", 48, RECORD_BODY_MAX, false},
    [RECORD_BLOCK] = {"BLOCK", 24, 256, false},
    [RECORD_CAPABILITY] = {"CAPABILITY", 1, 64, false},
    [RECORD_OPEN] = {"OPEN", 0, 0, false},
    [RECORD_ROUND] = {"ROUND", 16, 16, false},
    [RECORD_RAM_PAGES] = {"RAM_PAGES", 16, 16 + RECORD_PAYLOAD_MAX, true},
    [RECORD_RAM_ZERO] = {"RAM_ZERO", 24, 24, false},
    [RECORD_STOPPED] = {"STOPPED", 8, 8, false},
    [RECORD_STATE] = {"STATE", 16, 16 + RECORD_PAYLOAD_MAX, true},
    [RECORD_STATE_END] = {"STATE_END", 16, 16, false},
    [RECORD_VERIFY] = {"VERIFY", 24, RECORD_BODY_MAX, false},
    [RECORD_END] = {"END", 24, 24, false},
    [RECORD_GO] = {"GO", 0, 0, false},
    [RECORD_ASK] = {"ASK", 16, 16, false},
    [RECORD_DONE] = {"DONE", 0, 0, false},
    [RECORD_ALIVE] = {"ALIVE", 0, 0, false},
    [RECORD_RAM_DELTA] = {"RAM_DELTA", 16 + 3, 16 + RECORD_DELTA_MAX, false},
    [RECORD_RAM_PLACED] = {"RAM_PLACED", 24, 24, false},
    [RECORD_DISK] = {"DISK", 40, 256, false},
    [RECORD_DISK_DATA] = {"DISK_DATA", 16, 16 + RECORD_PAYLOAD_MAX, true},
    [RECORD_DISK_ZERO] = {"DISK_ZERO", 24, 24, false},
    [RECORD_DISK_END] = {"DISK_END", 16, 16, false},
    [RECORD_MACHINE] = {"MACHINE", 1, 64, false},
    [RECORD_ACCEPT] = {"ACCEPT", 8, 8, false},
    [RECORD_READY] = {"READY", 8, 8, false},
    [RECORD_RUNNING] = {"RUNNING", 8, 8, false},
    [RECORD_ANSWER] = {"ANSWER", 8, 8, false},
    [RECORD_FAIL] = {"FAIL", 0, 1024, false},
};

static const struct record_rule *rule_of(uint32_t type)
{
    bool known = type < sizeof(rules) / sizeof(rules[0]) && rules[type].name;
    return known ? &rules[type] : NULL;
}

const char *record_type_name(uint32_t type)
{
    const struct record_rule *rule = rule_of(type);
    return rule ? rule->name : "unknown";
}

static size_t padding(uint64_t length)
{
    return (size_t)(-length & 7);
}

/* ---- writing ---- */

static uint32_t checksum(const uint8_t head[RECORD_HEAD_SIZE], const void *fixed, size_t length)
{
    uint8_t plain[RECORD_HEAD_SIZE];
    memcpy(plain, head, sizeof(plain));
    put_le32(plain + 4, 0);
    uint32_t seed = XXH32(plain, sizeof(plain), 0);
    return length ? XXH32(fixed, length, seed) : seed;
}

void record_head(uint8_t head[RECORD_HEAD_SIZE], uint32_t type, uint64_t length, const void *fixed,
                 size_t fixed_length)
{
    put_le32(head, type);
    put_le32(head + 4, 0);
    put_le64(head + 8, length);
    put_le32(head + 4, checksum(head, fixed, fixed_length));
}

bool record_write(const struct record_sink *sink, uint32_t type, const void *body, size_t length,
                  struct error **errp)
{
    static const uint8_t zeroes[8];
    uint8_t head[RECORD_HEAD_SIZE];
    record_head(head, type, length, body, length);
    struct iovec iov[3] = {
        {.iov_base = head, .iov_len = sizeof(head)},
        {.iov_base = (void *)body, .iov_len = length},
        {.iov_base = (void *)zeroes, .iov_len = padding(length)},
    };
    return sink->write(sink->opaque, iov, 3, errp);
}

void stream_preamble(uint8_t out[STREAM_PREAMBLE_SIZE], uint32_t flags)
{
    put_le64(out, STREAM_MAGIC);
    put_le32(out + 8, STREAM_VERSION);
    put_le32(out + 12, flags);
}

bool stream_check_preamble(const uint8_t in[STREAM_PREAMBLE_SIZE], uint32_t *flags,
                           struct error **errp)
{
    if (get_le64(in) != STREAM_MAGIC) {
        error_set(errp, "not-a-stream", "The peer sends no ferry migration stream (wrong magic)");
        return false;
    }
    uint32_t version = get_le32(in + 8);
    if (version != STREAM_VERSION) {
        error_set(errp, "stream-version", "The stream has version %u, this ferryd reads %u",
                  version, STREAM_VERSION);
        return false;
    }
    *flags = get_le32(in + 12);
    return true;
}

/* ---- reading ---- */

struct record_reader {
    struct record_source source;
    size_t start, end; /* of what is buffered */
    uint64_t taken;
    uint64_t skip; /* bytes of the last record that were not read: payload and padding */
    size_t ahead;  /* what the next read into the buffer asks for at most, unless more is needed */
    uint8_t buf[READER_SIZE];
};

struct record_reader *record_reader_new(const struct record_source *source)
{
    struct record_reader *r = malloc(sizeof(*r));
    if (!r) {
        abort();
    }
    r->source = *source;
    r->start = r->end = 0;
    r->taken = r->skip = 0;
    r->ahead = READER_SIZE;
    return r;
}

void record_reader_free(struct record_reader *r)
{
    free(r);
}

bool record_reader_buffered(const struct record_reader *r)
{
    return r->end > r->start;
}

uint64_t record_reader_bytes(const struct record_reader *r)
{
    return r->taken;
}

/* 1 to `room` bytes to `to`; 0 with an error. */
static size_t take(struct record_reader *r, void *to, size_t room, struct error **errp)
{
    long n = r->source.read(r->source.opaque, to, room, errp);
    if (n == 0) {
        error_set(errp, "stream-truncated",
                  "The stream ended in the middle, after %" PRIu64 " bytes", r->taken);
    }
    if (n <= 0) {
        return 0;
    }
    r->taken += (uint64_t)n;
    return (size_t)n;
}

/* How much to read when `missing` bytes are needed and the buffer has room for `room`. */
static size_t read_size(struct record_reader *r, size_t missing, size_t room)
{
    size_t most = r->ahead > missing ? r->ahead : missing;
    r->ahead = READER_SIZE;
    return most < room ? most : room;
}

/* Makes at least `need` bytes available, in one piece. */
static bool fill(struct record_reader *r, size_t need, struct error **errp)
{
    if (r->end - r->start >= need) {
        return true;
    }
    if (r->start + need > READER_SIZE || r->start == r->end) {
        memmove(r->buf, r->buf + r->start, r->end - r->start);
        r->end -= r->start;
        r->start = 0;
    }
    while (r->end - r->start < need) {
        size_t room = read_size(r, need - (r->end - r->start), READER_SIZE - r->end);
        size_t n = take(r, r->buf + r->end, room, errp);
        if (!n) {
            return false;
        }
        r->end += n;
    }
    return true;
}

const uint8_t *record_read_raw(struct record_reader *r, size_t length, struct error **errp)
{
    if (!fill(r, length, errp)) {
        return NULL;
    }
    const uint8_t *at = r->buf + r->start;
    r->start += length;
    return at;
}

static bool skip_rest(struct record_reader *r, struct error **errp)
{
    while (r->skip) {
        if (!fill(r, 1, errp)) {
            return false;
        }
        size_t have = r->end - r->start;
        size_t n = r->skip < have ? (size_t)r->skip : have;
        r->start += n;
        r->skip -= n;
    }
    return true;
}

/* The fixed part of a record of a known type, its length checked before anything is read. */
static bool fixed_length(uint32_t type, uint64_t length, size_t *fixed, struct error **errp)
{
    const struct record_rule *rule = rule_of(type);
    if (!rule) {
        error_set(errp, "stream-corrupt", "The stream holds a record of unknown type %u", type);
        return false;
    }
    if (length < rule->min || length > rule->max) {
        error_set(errp, "stream-corrupt",
                  "A %s record of %" PRIu64 " bytes; it may have %" PRIu64 " to %" PRIu64,
                  rule->name, length, rule->min, rule->max);
        return false;
    }
    *fixed = rule->streamed ? 16 : (size_t)length;
    return true;
}

/* Takes one record's head and fixed body; false in *known for one to be skipped. */
static bool read_one(struct record_reader *r, struct record *rec, bool *known, struct error **errp)
{
    uint8_t head[RECORD_HEAD_SIZE];
    const uint8_t *in = skip_rest(r, errp) ? record_read_raw(r, sizeof(head), errp) : NULL;
    if (!in) {
        return false;
    }
    memcpy(head, in, sizeof(head));
    uint32_t type = get_le32(head);
    uint64_t length = get_le64(head + 8);
    *known = rule_of(type) || !(type & RECORD_SKIPPABLE);
    if (!*known) {
        if (length > RECORD_SKIP_MAX) {
            error_set(errp, "stream-corrupt", "An unknown record of %" PRIu64 " bytes", length);
            return false;
        }
        r->skip = length + padding(length);
        return true;
    }
    size_t fixed;
    if (!fixed_length(type, length, &fixed, errp)) {
        return false;
    }
    const uint8_t *body = record_read_raw(r, fixed, errp);
    if (!body) {
        return false;
    }
    if (checksum(head, body, fixed) != get_le32(head + 4)) {
        error_set(errp, "stream-corrupt", "A %s record's checksum is wrong",
                  record_type_name(type));
        return false;
    }
    *rec = (struct record){.type = type, .length = length, .payload = length - fixed, .body = body};
    r->skip = rec->payload + padding(length);
    return true;
}

bool record_read(struct record_reader *r, struct record *rec, struct error **errp)
{
    bool known;
    do {
        if (!read_one(r, rec, &known, errp)) {
            return false;
        }
    } while (!known);
    return true;
}

void record_set_failed(const struct record *rec, struct error **errp)
{
    char text[256];
    record_fail_text(rec, text, sizeof(text));
    error_set(errp, "peer-failed", "The peer gave up: %s", text);
}

bool record_is(const struct record *rec, uint32_t type, struct error **errp)
{
    if (rec->type == RECORD_FAIL) {
        record_set_failed(rec, errp);
        return false;
    }
    if (rec->type != type) {
        error_set(errp, "stream-order", "A %s record where %s was due", record_type_name(rec->type),
                  record_type_name(type));
        return false;
    }
    return true;
}

bool record_expect(struct record_reader *r, uint32_t type, struct record *rec, struct error **errp)
{
    return record_read(r, rec, errp) && record_is(rec, type, errp);
}

const uint8_t *record_payload(struct record_reader *r, struct record *rec, size_t unit, size_t max,
                              size_t *length, struct error **errp)
{
    size_t want = rec->payload < unit ? (size_t)rec->payload : unit;
    if (!fill(r, want, errp)) {
        return NULL;
    }
    size_t n = r->end - r->start;
    n = n < max ? n : max;
    n = n < rec->payload ? n / unit * unit : (size_t)rec->payload;
    const uint8_t *at = r->buf + r->start;
    r->start += n;
    rec->payload -= n;
    r->skip -= n;
    *length = n;
    return at;
}

bool record_payload_is_ahead(const struct record_reader *r, const struct record *rec)
{
    bool goes_on = r->ahead == BEHIND_IN_PLACE;
    return r->source.in_place && !record_reader_buffered(r) && rec->payload &&
           (goes_on || rec->payload >= IN_PLACE_MIN);
}

size_t record_payload_to(struct record_reader *r, struct record *rec, void *to, struct error **errp)
{
    size_t n = take(r, to, (size_t)rec->payload, errp);
    rec->payload -= n;
    r->skip -= n;
    r->ahead = BEHIND_IN_PLACE;
    return n;
}

void record_fail_text(const struct record *rec, char *text, size_t size)
{
    size_t n = rec->length < size ? (size_t)rec->length : size - 1;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = rec->body[i];
        text[i] = (char)(c >= 0x20 && c < 0x7f ? c : '?');
    }
    text[n] = '\0';
}
