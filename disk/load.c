/* SPDX-License-Identifier: BSD-3-Clause */
#include "disk/load.h"

#include <inttypes.h>
#include <string.h>

/* Emptied between two looks at the cancel: tens of milliseconds where zeroes must be written. */
#define ZERO_PIECE (64ULL << 20)

static void count_record(struct disk_loader *loader, const struct record *rec)
{
    uint64_t bytes = RECORD_HEAD_SIZE + ((rec->length + 7) & ~7ULL);
    atomic_fetch_add(&loader->counters->transferred, bytes);
}

/* Finds a record's disk, as far as its range keeps to what was agreed: whole pieces inside of it.
 */
static const struct disk *find_range(const struct disk_loader *loader, uint32_t index,
                                     uint64_t offset, uint64_t length, struct error **errp)
{
    if (index >= loader->disks->count) {
        error_set(errp, "stream-corrupt", "Data for disk %u of %u", index, loader->disks->count);
        return NULL;
    }
    const struct disk *d = &loader->disks->list[index];
    bool inside = length && offset <= d->length && length <= d->length - offset;
    bool whole =
        offset % DISK_PIECE == 0 && (length % DISK_PIECE == 0 || length == d->length - offset);
    if (!inside || !whole) {
        error_set(errp, "stream-corrupt",
                  "Data at %" PRIu64 "+%" PRIu64 " of disk '%s', which has %" PRIu64 " bytes",
                  offset, length, d->name, d->length);
        return NULL;
    }
    return d;
}

static bool collect(struct record_reader *reader, struct record *rec, uint8_t *to,
                    struct error **errp)
{
    while (rec->payload) {
        size_t n;
        const uint8_t *bytes = record_payload(reader, rec, 1, DISK_BUFFER, &n, errp);
        if (!bytes) {
            return false;
        }
        memcpy(to, bytes, n);
        to += n;
    }
    return true;
}

bool disk_load_data(struct disk_loader *loader, struct record_reader *reader, struct record *rec,
                    struct error **errp)
{
    uint64_t offset = get_le64(rec->body + 8);
    size_t length = (size_t)rec->payload;
    uint8_t *buf = loader->disks->buffer;
    const struct disk *d = find_range(loader, get_le32(rec->body), offset, length, errp);
    if (!d || !collect(reader, rec, buf, errp) || !disk_write(d, buf, offset, length, errp)) {
        return false;
    }
    loader->tally.data += length;
    count_record(loader, rec);
    return true;
}

/* A range may be as long as the disk: piece by piece, so that a cancel is seen. */
static bool empty_range(const struct disk *d, uint32_t kind, uint64_t offset, uint64_t length,
                        const struct wait *w, struct error **errp)
{
    bool (*empty)(const struct disk *, uint64_t, uint64_t, struct error **) =
        kind == DISK_ZERO_BASE ? disk_punch : disk_zero;
    while (length) {
        uint64_t piece = length < ZERO_PIECE ? length : ZERO_PIECE;
        if (wait_cancelled(w, errp) || !empty(d, offset, piece, errp)) {
            return false;
        }
        offset += piece;
        length -= piece;
    }
    return true;
}

bool disk_load_zero(struct disk_loader *loader, const struct record *rec, const struct wait *w,
                    struct error **errp)
{
    uint32_t kind = get_le32(rec->body + 4);
    uint64_t offset = get_le64(rec->body + 8);
    uint64_t length = get_le64(rec->body + 16);
    const struct disk *d = find_range(loader, get_le32(rec->body), offset, length, errp);
    if (!d) {
        return false;
    }
    bool agreed = kind == DISK_ZERO_ZEROES ? loader->zero_blocks : kind == DISK_ZERO_BASE && d->inc;
    if (!agreed) {
        error_set(errp, "stream-corrupt", "A DISK_ZERO record of kind %u was not agreed on", kind);
        return false;
    }
    if (!empty_range(d, kind, offset, length, w, errp)) {
        return false;
    }
    loader->tally.zeroes += length;
    count_record(loader, rec);
    return true;
}

bool disk_load_end(struct disk_loader *loader, const struct record *rec, struct error **errp)
{
    const struct disk_tally *mine = &loader->tally;
    uint64_t data = get_le64(rec->body), zeroes = get_le64(rec->body + 8);
    count_record(loader, rec);
    if (data != mine->data || zeroes != mine->zeroes) {
        error_set(errp, "stream-corrupt",
                  "The source sent %" PRIu64 " bytes of disks and %" PRIu64 " zeroes, %" PRIu64
                  " and %" PRIu64 " arrived",
                  data, zeroes, mine->data, mine->zeroes);
        return false;
    }
    return true;
}
