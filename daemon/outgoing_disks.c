/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/outgoing_disks.h"

#include "disk/base.h"

static bool beat(void *opaque, struct error **errp)
{
    const struct outgoing *o = opaque;
    struct wait w = {.cancel_fd = o->job->cancel_fd};
    return !wait_cancelled(&w, errp);
}

static bool open_disk(struct outgoing *o, const struct guest_disk *g, struct error **errp)
{
    struct disks *disks = o->disks.disks;
    const struct disk_beat alive = {.beat = beat, .opaque = o};
    const struct disk_source source = {
        .name = g->name,
        .fd = g->fd,
        .base_fd = g->base_fd,
        .length = g->length,
        .inc = o->job->options.disks == JOB_DISKS_INCREMENTAL,
    };
    return disks_add(disks, &source, errp) &&
           (!source.inc ||
            disk_hash_base(&disks->list[disks->count - 1], disks->buffer, &alive, errp));
}

bool outgoing_disks_open(struct outgoing *o, struct error **errp)
{
    const struct guest *g = o->job->guest;
    if (o->job->options.disks == JOB_DISKS_NONE) {
        return true;
    }
    o->disks.disks = disks_new();
    for (unsigned i = 0; i < g->ndisks; i++) {
        if (!open_disk(o, &g->disks[i], errp)) {
            return false;
        }
    }
    return true;
}

void outgoing_disks_begin(struct outgoing *o)
{
    if (!o->disks.disks) {
        return;
    }
    o->disks.zero_blocks = o->job->capabilities[CAPABILITY_ZERO_BLOCKS];
    o->disks.pacer = pace_pacer(&o->pace);
    o->disks.sink = o->stream.sink;
    o->disks.counters = &o->job->counters.disk;
    disk_save_begin(&o->disks);
}

void outgoing_disks_sync(struct outgoing *o)
{
    uint64_t *dirty[DISKS_MAX];
    struct disks *disks = o->disks.disks;
    if (!disks) {
        return;
    }
    for (unsigned i = 0; i < disks->count; i++) {
        dirty[i] = disks->list[i].dirty;
    }
    o->job->guest->ops->disk_sync(o->job->guest, dirty);
    disk_save_count(&o->disks);
}

bool outgoing_disks_round(struct outgoing *o, enum ram_round kind, struct error **errp)
{
    if (!o->disks.disks) {
        return true;
    }
    return kind == RAM_ROUND_FIRST ? disk_save_first(&o->disks, errp)
                                   : disk_save_dirty(&o->disks, errp);
}

bool outgoing_disks_end(struct outgoing *o, struct error **errp)
{
    return !o->disks.disks || disk_save_end(&o->disks, errp);
}
