/* SPDX-License-Identifier: BSD-3-Clause */
#include "disk/save.h"

#include "common/bits.h"

#include <stdlib.h>
#include <sys/uio.h>

#define ZERO_BODY 24u
/* Runs in one buffer: each piece may be one. */
#define RUNS_MAX (DISK_BUFFER / DISK_PIECE)

/* The records of one buffer, for one writev. */
struct batch {
    struct iovec iov[2 * RUNS_MAX];
    uint8_t heads[RUNS_MAX][RECORD_HEAD_SIZE + ZERO_BODY];
    int iovcnt;
    unsigned records;
    uint64_t bytes;
};

/* One disk of a round. */
struct sweep {
    struct disk_saver *saver;
    const struct disk *disk;
    unsigned index;
    struct batch batch;
};

static void count_done(struct sweep *s, uint64_t bytes)
{
    atomic_fetch_sub(&s->saver->counters->remaining, bytes);
}

/* ---- records ---- */

static void batch_iov(struct batch *b, void *base, size_t length)
{
    b->iov[b->iovcnt++] = (struct iovec){.iov_base = base, .iov_len = length};
    b->bytes += length;
}

static bool batch_flush(struct sweep *s, struct error **errp)
{
    struct batch *b = &s->batch;
    const struct record_sink *sink = &s->saver->sink;
    bool ok = !b->iovcnt || sink->write(sink->opaque, b->iov, b->iovcnt, errp);
    if (ok) {
        atomic_fetch_add(&s->saver->counters->transferred, b->bytes);
    }
    b->iovcnt = 0;
    b->records = 0;
    b->bytes = 0;
    return ok;
}

static void put_data(struct sweep *s, uint8_t *bytes, uint64_t offset, size_t length)
{
    struct batch *b = &s->batch;
    uint8_t *head = b->heads[b->records++];
    uint8_t *fixed = head + RECORD_HEAD_SIZE;
    put_le32(fixed, s->index);
    put_le32(fixed + 4, 0);
    put_le64(fixed + 8, offset);
    record_head(head, RECORD_DISK_DATA, 16 + length, fixed, 16);
    batch_iov(b, head, RECORD_HEAD_SIZE + 16);
    batch_iov(b, bytes, length);
    s->saver->tally.data += length;
}

static void put_zero(struct sweep *s, enum disk_zero_kind kind, uint64_t offset, uint64_t length)
{
    struct batch *b = &s->batch;
    uint8_t *head = b->heads[b->records++];
    uint8_t *fixed = head + RECORD_HEAD_SIZE;
    put_le32(fixed, s->index);
    put_le32(fixed + 4, kind);
    put_le64(fixed + 8, offset);
    put_le64(fixed + 16, length);
    record_head(head, RECORD_DISK_ZERO, ZERO_BODY, fixed, ZERO_BODY);
    batch_iov(b, head, RECORD_HEAD_SIZE + ZERO_BODY);
    s->saver->tally.zeroes += length;
}

/* ---- content ---- */

/* How far from `at` on the buffer's pieces are all zero, or all are not. */
static size_t run_end(const uint8_t *buf, size_t at, size_t length, bool *zero)
{
    size_t start = at;
    while (at < length) {
        size_t piece = length - at < DISK_PIECE ? length - at : DISK_PIECE;
        bool is_zero = disk_is_zero(buf + at, piece);
        if (at > start && is_zero != *zero) {
            break;
        }
        *zero = is_zero;
        at += piece;
    }
    return at;
}

static void put_runs(struct sweep *s, uint8_t *buf, uint64_t offset, size_t length)
{
    for (size_t at = 0; at < length;) {
        bool zero = false;
        size_t stop = run_end(buf, at, length, &zero);
        if (zero) {
            put_zero(s, DISK_ZERO_ZEROES, offset + at, stop - at);
        } else {
            put_data(s, buf + at, offset + at, stop - at);
        }
        at = stop;
    }
}

/* Reads and sends as much of [first, last) as the pace allows; where that ends, 0 with an error. */
static uint64_t send_some(struct sweep *s, uint64_t first, uint64_t last, struct error **errp)
{
    const struct record_pacer *pacer = &s->saver->pacer;
    uint8_t *buf = s->saver->disks->buffer;
    size_t allowed = pacer->allow(pacer->opaque, DISK_BUFFER, errp);
    if (!allowed) {
        return 0;
    }
    allowed = allowed < DISK_PIECE ? DISK_PIECE : allowed / DISK_PIECE * DISK_PIECE;
    size_t n = last - first < allowed ? (size_t)(last - first) : allowed;
    if (!disk_read(s->disk, buf, first, n, errp)) {
        return 0;
    }
    if (s->saver->zero_blocks) {
        put_runs(s, buf, first, n);
    } else {
        put_data(s, buf, first, n);
    }
    count_done(s, n);
    return batch_flush(s, errp) ? first + n : 0;
}

static bool send_content(struct sweep *s, uint64_t first, uint64_t last, struct error **errp)
{
    while (first < last) {
        first = send_some(s, first, last, errp);
        if (!first) {
            return false;
        }
    }
    return true;
}

/* ---- rounds ---- */

/* The destination starts as a disk that is all hole: what the source does not have is passed over.
 */
static bool send_existing(struct sweep *s, struct error **errp)
{
    uint64_t at = 0, first, last;
    while (disk_next(s->disk, at, s->disk->length, &first, &last)) {
        count_done(s, first - at);
        if (!send_content(s, first, last, errp)) {
            return false;
        }
        at = last;
    }
    count_done(s, s->disk->length - at);
    return true;
}

/* A hole in a chunk that was written is news: the guest has discarded what was there. */
static bool send_hole(struct sweep *s, uint64_t first, uint64_t last, struct error **errp)
{
    if (first == last) {
        return true;
    }
    if (!s->disk->inc && !s->saver->zero_blocks) {
        return send_content(s, first, last, errp);
    }
    put_zero(s, s->disk->inc ? DISK_ZERO_BASE : DISK_ZERO_ZEROES, first, last - first);
    count_done(s, last - first);
    return batch_flush(s, errp);
}

static bool send_written(struct sweep *s, uint64_t at, uint64_t end, struct error **errp)
{
    uint64_t first, last;
    while (disk_next(s->disk, at, end, &first, &last)) {
        if (!send_hole(s, at, first, errp) || !send_content(s, first, last, errp)) {
            return false;
        }
        at = last;
    }
    return send_hole(s, at, end, errp);
}

static bool send_dirty(struct sweep *s, struct error **errp)
{
    const struct disk *d = s->disk;
    uint64_t at = 0;
    while ((at = bits_next_set(d->dirty, at, d->chunks)) < d->chunks) {
        uint64_t stop = bits_next_clear(d->dirty, at, d->chunks);
        uint64_t end = stop * DISK_CHUNK < d->length ? stop * DISK_CHUNK : d->length;
        if (!send_written(s, at * DISK_CHUNK, end, errp)) {
            return false;
        }
        bits_clear_range(d->dirty, at, stop);
        at = stop;
    }
    return true;
}

static bool sweep_disks(struct disk_saver *saver,
                        bool (*send)(struct sweep *s, struct error **errp), struct error **errp)
{
    struct sweep *s = calloc(1, sizeof(*s));
    if (!s) {
        abort();
    }
    s->saver = saver;
    bool ok = true;
    for (unsigned i = 0; ok && i < saver->disks->count; i++) {
        s->index = i;
        s->disk = &saver->disks->list[i];
        ok = send(s, errp);
    }
    free(s);
    return ok;
}

void disk_save_begin(struct disk_saver *saver)
{
    atomic_store(&saver->counters->total, saver->disks->bytes);
    atomic_store(&saver->counters->remaining, saver->disks->bytes);
}

bool disk_save_first(struct disk_saver *saver, struct error **errp)
{
    return sweep_disks(saver, send_existing, errp);
}

void disk_save_count(struct disk_saver *saver)
{
    atomic_store(&saver->counters->remaining, disks_count_dirty(saver->disks));
}

bool disk_save_dirty(struct disk_saver *saver, struct error **errp)
{
    return sweep_disks(saver, send_dirty, errp);
}

bool disk_save_end(struct disk_saver *saver, struct error **errp)
{
    uint8_t body[16];
    put_le64(body, saver->tally.data);
    put_le64(body + 8, saver->tally.zeroes);
    if (!record_write(&saver->sink, RECORD_DISK_END, body, sizeof(body), errp)) {
        return false;
    }
    atomic_fetch_add(&saver->counters->transferred, RECORD_HEAD_SIZE + sizeof(body));
    return true;
}
