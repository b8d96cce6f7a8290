/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The migration stream's records: their heads, their checks, and a buffered reader for them.
 * schema/stream.md describes the stream byte by byte; this file and it change together.
 *
 * A record is a 16-byte head {type, check, length}, `length` bytes of body, and zeroes up to the
 * next multiple of 8.  All numbers are little-endian.  `check` is XXH32 over the head (with check
 * as 0) and the body, except that of RAM_PAGES, STATE and DISK_DATA only the 16 bytes of fixed
 * body are covered: pages change under our hands while the guest runs (`verify` compares them once
 * it is stopped), and STATE_END carries a hash of the whole state.
 */
#ifndef FERRY_RAM_RECORDS_H
#define FERRY_RAM_RECORDS_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct iovec;

#define STREAM_MAGIC         0x47494d5952524546ULL /* "FERRYMIG" */
#define STREAM_VERSION       1u
#define STREAM_PREAMBLE_SIZE 16u
/* A reader that does not know a type with this bit skips the record; without it, it gives up. */
#define RECORD_SKIPPABLE 0x80000000u

#define RECORD_HEAD_SIZE 16u
/* Bodies that are read whole are no longer than this. */
#define RECORD_BODY_MAX 65536u
/* Bytes of a page's delta: fewer than the page has. */
#define RECORD_DELTA_MAX 4095u
/* Payload of one RAM_PAGES, STATE or DISK_DATA record. */
#define RECORD_PAYLOAD_MAX (1u << 20)
/* A skippable record that is longer than this is an attack on the reader's time. */
#define RECORD_SKIP_MAX (1ULL << 30)

enum record_type {
    /* source to destination */
    RECORD_HELLO = 1,      /* who comes, with how much RAM */
    RECORD_BLOCK = 2,      /* one RAM block */
    RECORD_CAPABILITY = 3, /* one capability that both ends need */
    RECORD_OPEN = 4,       /* the introduction is complete: ACCEPT or FAIL is due */
    RECORD_ROUND = 5,      /* a round begins */
    RECORD_RAM_PAGES = 6,
    RECORD_RAM_ZERO = 7,
    RECORD_STOPPED = 8, /* the guest is stopped, its last pages follow */
    RECORD_STATE = 9,   /* a piece of device state */
    RECORD_STATE_END = 10,
    RECORD_VERIFY = 11, /* hashes of a run of pages */
    RECORD_END = 12,    /* counts; READY or FAIL is due */
    RECORD_GO = 13,
    RECORD_ASK = 14,        /* instead of HELLO: what became of a job? */
    RECORD_DONE = 15,       /* RUNNING was seen: the destination may forget the job */
    RECORD_ALIVE = 16,      /* nothing to send for now; before ACCEPT from the destination, too */
    RECORD_RAM_DELTA = 17,  /* what has changed in one page, with the capability xbzrle */
    RECORD_RAM_PLACED = 18, /* pages that were put in their place, not sent in the stream */
    RECORD_DISK = 19,       /* one disk; in the introduction */
    RECORD_DISK_DATA = 20,
    RECORD_DISK_ZERO = 21,
    RECORD_DISK_END = 22, /* no more of the disks; counts */
    RECORD_MACHINE = 23,  /* what kind of device state it is; in the introduction */
    /* destination to source */
    RECORD_ACCEPT = 32,
    RECORD_READY = 33,
    RECORD_RUNNING = 34,
    RECORD_ANSWER = 35, /* to ASK */
    /* both ways */
    RECORD_FAIL = 48, /* why this end gives up, before it has given anything away */
};

/* A record as it was read: for whole bodies `body` holds all of it, else the fixed 16 bytes. */
struct record {
    uint32_t type;
    uint64_t length;  /* of the body */
    uint64_t payload; /* bytes of the body that are still to be read with record_payload */
    const uint8_t *body;
};

/* ---- little-endian fields ---- */

static inline uint32_t get_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t get_le64(const uint8_t *p)
{
    return (uint64_t)get_le32(p) | (uint64_t)get_le32(p + 4) << 32;
}

static inline void put_le32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(v >> (8 * i));
    }
}

static inline void put_le64(uint8_t *p, uint64_t v)
{
    put_le32(p, (uint32_t)v);
    put_le32(p + 4, (uint32_t)(v >> 32));
}

/* ---- writing ---- */

/* Where a stream goes; `write` takes everything or fails.  Called on the job's thread. */
struct record_sink {
    bool (*write)(void *opaque, struct iovec *iov, int iovcnt, struct error **errp);
    /*
     * Where the channel places memory at the peer: [offset, offset + length) of a RAM block, or as
     * many zeroes, is there when the peer reads what is written next.  NULL: it can't.
     */
    bool (*place)(void *opaque, unsigned block, uint64_t offset, uint64_t length, bool zeroes,
                  struct error **errp);
    void *opaque;
};

/* Keeps the rate: waits until something may be sent, answers how much (0: error), at most `want`.
 */
struct record_pacer {
    size_t (*allow)(void *opaque, size_t want, struct error **errp);
    /* What takes long and sends nothing asks now and then whether to go on; may write records. */
    bool (*check)(void *opaque, struct error **errp);
    void *opaque;
};

/* Fills `head` for a record whose checked part is `fixed`; `length` is that of the whole body. */
void record_head(uint8_t head[RECORD_HEAD_SIZE], uint32_t type, uint64_t length, const void *fixed,
                 size_t fixed_length);

/* Writes one record with a whole body (NULL when length is 0), padded. */
bool record_write(const struct record_sink *sink, uint32_t type, const void *body, size_t length,
                  struct error **errp);

/* The 16 bytes before all records; `flags` are STREAM_FLAG_*. */
#define STREAM_FLAG_TWO_WAY 1u
void stream_preamble(uint8_t out[STREAM_PREAMBLE_SIZE], uint32_t flags);
/* "not-a-stream" or "stream-version" when it is none that we read. */
bool stream_check_preamble(const uint8_t in[STREAM_PREAMBLE_SIZE], uint32_t *flags,
                           struct error **errp);

/* ---- reading ---- */

/*
 * Where a stream comes from: 1 to `room` bytes, 0 at its end, -1 with an error.  in_place: `buf`
 * may be memory that somebody takes away; "ram-vanished" then.
 */
struct record_source {
    long (*read)(void *opaque, void *buf, size_t room, struct error **errp);
    void *opaque;
    bool in_place;
};

struct record_reader;

struct record_reader *record_reader_new(const struct record_source *source);
void record_reader_free(struct record_reader *r);

/* Reads exactly `length` (at most RECORD_BODY_MAX) bytes; valid until the next read. */
const uint8_t *record_read_raw(struct record_reader *r, size_t length, struct error **errp);

/*
 * Reads the next record that this version knows, its head and fixed body checked; what was left of
 * the last one's payload is skipped.  At the end of the stream fails with "stream-truncated".
 */
bool record_read(struct record_reader *r, struct record *rec, struct error **errp);

/* Whether it is of that type, else "stream-order"; a FAIL is told as its text. */
bool record_is(const struct record *rec, uint32_t type, struct error **errp);

/* Reads the next record, which must be of that type. */
bool record_expect(struct record_reader *r, uint32_t type, struct record *rec, struct error **errp);

/*
 * The next piece of payload, in the reader's buffer: at most `max` bytes, a multiple of `unit`
 * unless it is the last.  NULL with an error.
 */
const uint8_t *record_payload(struct record_reader *r, struct record *rec, size_t unit, size_t max,
                              size_t *length, struct error **errp);

/*
 * Whether so much of the payload is still to come that it is worth its own way past the buffer: the
 * caller then takes it with record_payload_to.
 */
bool record_payload_is_ahead(const struct record_reader *r, const struct record *rec);

/* Some of such a payload, put to `to`, where all of it has room: how many bytes; 0 with an error.
 */
size_t record_payload_to(struct record_reader *r, struct record *rec, void *to,
                         struct error **errp);

/* Whether bytes are already in the buffer: a poll on the descriptor would not tell. */
bool record_reader_buffered(const struct record_reader *r);

/* Bytes taken from the source so far. */
uint64_t record_reader_bytes(const struct record_reader *r);

const char *record_type_name(uint32_t type);

/* Sets the error "peer-failed" from a FAIL record. */
void record_set_failed(const struct record *rec, struct error **errp);

/* The text of a FAIL record, into `text` (size bytes), made printable. */
void record_fail_text(const struct record *rec, char *text, size_t size);

#endif
