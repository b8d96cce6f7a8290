/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/handshake_disks.h"

#include "daemon/handshake.h"

#include <string.h>

#define DISK_SIZE 40u
#define FLAG_INC  1u

static bool offer_disk(struct stream *s, const struct disk *d, struct error **errp)
{
    uint8_t body[DISK_SIZE + DISK_NAME_MAX] = {0};
    size_t name = strlen(d->name);
    put_le64(body, d->length);
    if (d->inc) {
        put_le64(body + 8, d->base_length);
        memcpy(body + 16, d->base_hash, DISK_HASH_SIZE);
    }
    put_le32(body + 32, d->inc ? FLAG_INC : 0);
    put_le32(body + 36, (uint32_t)name);
    memcpy(body + DISK_SIZE, d->name, name);
    return stream_write(s, RECORD_DISK, body, DISK_SIZE + name, errp);
}

bool handshake_offer_disks(struct stream *s, const struct disks *disks, struct error **errp)
{
    for (unsigned i = 0; i < disks->count; i++) {
        if (!offer_disk(s, &disks->list[i], errp)) {
            return false;
        }
    }
    return true;
}

static bool take_disk(const struct record *rec, struct disk_offer *offer, struct error **errp)
{
    uint32_t flags = get_le32(rec->body + 32);
    if (!handshake_take_name(rec, DISK_SIZE, get_le32(rec->body + 36), offer->name,
                             sizeof(offer->name)) ||
        (flags & ~FLAG_INC)) {
        error_set(errp, "stream-corrupt", "A DISK record has no name, or unknown flags");
        return false;
    }
    offer->length = get_le64(rec->body);
    offer->inc = flags & FLAG_INC;
    offer->base_length = get_le64(rec->body + 8);
    memcpy(offer->base_hash, rec->body + 16, DISK_HASH_SIZE);
    return true;
}

bool handshake_receive_disks(struct stream *s, uint32_t count, struct disk_offers *offers,
                             struct error **errp)
{
    struct record rec;
    if (count > DISKS_MAX) {
        error_set(errp, "stream-corrupt", "The source sends %u disks; at most %u are taken", count,
                  DISKS_MAX);
        return false;
    }
    for (offers->count = 0; offers->count < count; offers->count++) {
        if (!record_expect(s->reader, RECORD_DISK, &rec, errp) ||
            !take_disk(&rec, &offers->list[offers->count], errp)) {
            return false;
        }
    }
    return true;
}
