/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/incoming_disks.h"

#include "common/clock.h"
#include "disk/base.h"

#include <inttypes.h>
#include <string.h>

/* How often a source that waits for ACCEPT is told that there is still somebody. */
#define ALIVE_NS NS_PER_SEC

/* ---- introduction ---- */

struct preparing {
    struct incoming *in;
    uint64_t told_ns;
};

static bool beat(void *opaque, struct error **errp)
{
    struct preparing *p = opaque;
    struct wait w = {.cancel_fd = p->in->job->cancel_fd};
    uint64_t now = clock_ns();
    if (wait_cancelled(&w, errp)) {
        return false;
    }
    if (!p->in->peer.two_way || now - p->told_ns < ALIVE_NS) {
        return true;
    }
    p->told_ns = now;
    return stream_write(&p->in->stream, RECORD_ALIVE, NULL, 0, errp);
}

static bool check_layout(const struct disk_offer *offer, const struct guest_disk *mine,
                         struct error **errp)
{
    if (strcmp(offer->name, mine->name) != 0) {
        error_set(errp, "disk-layout-differs",
                  "The disks differ: '%s' at the source is '%s' at the destination", offer->name,
                  mine->name);
    } else if (offer->length != mine->length) {
        error_set(errp, "disk-layout-differs",
                  "The disks differ: '%s' has %" PRIu64 " bytes at the source and %" PRIu64
                  " at the destination",
                  offer->name, offer->length, mine->length);
    } else if (offer->inc && mine->base_fd < 0) {
        error_set(errp, "disk-layout-differs",
                  "The disks differ: '%s' has a base at the source and none at the destination",
                  offer->name);
    } else {
        return true;
    }
    return false;
}

static bool check_base(struct preparing *p, const struct disk_offer *offer, struct disk *d,
                       struct error **errp)
{
    const struct disk_beat alive = {.beat = beat, .opaque = p};
    if (offer->base_length != d->base_length) {
        error_set(errp, "disk-base-differs",
                  "The base of disk '%s' has %" PRIu64 " bytes at the source and %" PRIu64
                  " at the destination",
                  offer->name, offer->base_length, d->base_length);
        return false;
    }
    if (!disk_hash_base(d, p->in->disks.disks->buffer, &alive, errp)) {
        return false;
    }
    if (memcmp(offer->base_hash, d->base_hash, DISK_HASH_SIZE) != 0) {
        error_set(errp, "disk-base-differs",
                  "The base of disk '%s' has another content at the source than at the destination",
                  offer->name);
        return false;
    }
    return true;
}

static bool open_disk(struct preparing *p, const struct disk_offer *offer,
                      const struct guest_disk *mine, struct error **errp)
{
    struct disks *disks = p->in->disks.disks;
    const struct disk_source source = {
        .name = mine->name,
        .fd = mine->fd,
        .base_fd = mine->base_fd,
        .length = mine->length,
        .inc = offer->inc,
        .writable = true,
    };
    return check_layout(offer, mine, errp) && disks_add(disks, &source, errp) &&
           (!offer->inc || check_base(p, offer, &disks->list[disks->count - 1], errp));
}

static bool open_all(struct preparing *p, struct error **errp)
{
    const struct disk_offers *offers = &p->in->peer.disks;
    const struct guest *g = p->in->job->guest;
    if (offers->count != g->ndisks) {
        error_set(errp, "disk-layout-differs",
                  "The disks differ: the guest has %u at the source and %u at the destination",
                  offers->count, g->ndisks);
        return false;
    }
    for (unsigned i = 0; i < g->ndisks; i++) {
        if (!open_disk(p, &offers->list[i], &g->disks[i], errp)) {
            return false;
        }
    }
    return true;
}

static bool empty_all(struct preparing *p, struct error **errp)
{
    const struct disk_beat alive = {.beat = beat, .opaque = p};
    const struct disks *disks = p->in->disks.disks;
    for (unsigned i = 0; i < disks->count; i++) {
        if (!disk_empty(&disks->list[i], &alive, errp)) {
            return false;
        }
    }
    return true;
}

bool incoming_disks_open(struct incoming *in, struct error **errp)
{
    struct preparing p = {.in = in, .told_ns = clock_ns()};
    if (!in->peer.disks.count) {
        return true;
    }
    in->disks = (struct disk_loader){
        .disks = disks_new(),
        .zero_blocks = in->peer.capabilities[CAPABILITY_ZERO_BLOCKS],
        .counters = &in->job->counters.disk,
    };
    if (!open_all(&p, errp)) {
        return false;
    }
    atomic_store(&in->job->counters.disk.total, in->disks.disks->bytes);
    return empty_all(&p, errp);
}

/* ---- records ---- */

static bool due(const struct incoming *in, const struct record *rec, bool when, struct error **errp)
{
    if (!when || !in->disks.disks || in->disks_ended) {
        error_set(errp, "stream-order", "A %s record out of place", record_type_name(rec->type));
        return false;
    }
    return true;
}

bool incoming_disk_data(struct incoming *in, struct record *rec, struct error **errp)
{
    return due(in, rec, true, errp) && disk_load_data(&in->disks, in->stream.reader, rec, errp);
}

bool incoming_disk_zero(struct incoming *in, struct record *rec, struct error **errp)
{
    struct wait w = job_peer_wait(in->job);
    return due(in, rec, true, errp) && disk_load_zero(&in->disks, rec, &w, errp);
}

bool incoming_disk_end(struct incoming *in, struct record *rec, struct error **errp)
{
    in->disks_ended = due(in, rec, in->stopped, errp) && disk_load_end(&in->disks, rec, errp);
    return in->disks_ended;
}

bool incoming_disks_complete(const struct incoming *in)
{
    return !in->disks.disks || in->disks_ended;
}
