/* SPDX-License-Identifier: BSD-3-Clause */
#include "disk/base.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct hashing {
    const struct disk *disk;
    uint8_t *buffer;
    const struct disk_beat *beat;
    XXH3_state_t *state;
};

static bool hash_hole(struct hashing *h, uint64_t length, struct error **errp)
{
    memset(h->buffer, 0, length < DISK_BUFFER ? (size_t)length : DISK_BUFFER);
    for (uint64_t at = 0; at < length; at += DISK_BUFFER) {
        size_t n = length - at < DISK_BUFFER ? (size_t)(length - at) : DISK_BUFFER;
        XXH3_128bits_update(h->state, h->buffer, n);
        if (!h->beat->beat(h->beat->opaque, errp)) {
            return false;
        }
    }
    return true;
}

static bool hash_data(struct hashing *h, uint64_t first, uint64_t last, struct error **errp)
{
    for (uint64_t at = first; at < last; at += DISK_BUFFER) {
        size_t n = last - at < DISK_BUFFER ? (size_t)(last - at) : DISK_BUFFER;
        if (!disk_read_file(h->disk, h->disk->base_fd, h->buffer, at, n, errp) ||
            !h->beat->beat(h->beat->opaque, errp)) {
            return false;
        }
        XXH3_128bits_update(h->state, h->buffer, n);
    }
    return true;
}

static bool hash_all(struct hashing *h, struct error **errp)
{
    uint64_t end = h->disk->base_length;
    for (uint64_t at = 0; at < end;) {
        uint64_t first = end, last = end;
        disk_extent(h->disk->base_fd, at, end, &first, &last);
        if (!hash_hole(h, first - at, errp) || !hash_data(h, first, last, errp)) {
            return false;
        }
        at = last;
    }
    return true;
}

bool disk_hash_base(struct disk *d, uint8_t *buffer, const struct disk_beat *beat,
                    struct error **errp)
{
    XXH128_canonical_t digest;
    struct hashing h = {.disk = d, .buffer = buffer, .beat = beat, .state = XXH3_createState()};
    if (!h.state) {
        abort();
    }
    XXH3_128bits_reset(h.state);
    bool ok = hash_all(&h, errp);
    XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(h.state));
    memcpy(d->base_hash, &digest, DISK_HASH_SIZE);
    XXH3_freeState(h.state);
    return ok;
}
