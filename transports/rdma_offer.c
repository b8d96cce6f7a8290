/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The destination's side of direct placement: its memory is registered a unit at a time when the
 * source asks, or all of it at once, and the source is told the keys.  Nothing that a source sends
 * reaches beyond the regions that were shared, and nothing at all once they are unshared.
 *
 * Registering allocates what was a hole.  Those of the pages that nothing was placed into are for
 * the sharer to free, after unsharing.
 */
#include "transports/rdma_internal.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#define ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)

struct rdma_offer {
    struct rdma_regions regions;
    struct ibv_mr ***units; /* of each region */
    bool pin_all;
    bool open;                      /* all is offered: keys may be asked for */
    uint64_t unit;                  /* bytes registered together; 0: the source was not heard yet */
    struct rdma_key due[RDMA_ASKS]; /* to be told */
    unsigned due_count;
};

static uint64_t unit_count(const struct rdma_offer *o, unsigned region)
{
    return (o->regions.list[region].length + o->unit - 1) / o->unit;
}

/* ---- registering ---- */

static bool register_unit(struct rdma_channel *c, unsigned region, uint64_t unit,
                          struct error **errp)
{
    struct rdma_offer *o = c->offer;
    uint64_t from = unit * o->unit;
    uint64_t left = o->regions.list[region].length - from;
    struct ibv_mr *mr =
        rdma_register(c, &o->regions, region, from, left < o->unit ? left : o->unit, ACCESS, errp);
    if (!mr) {
        return false;
    }
    o->units[region][unit] = mr;
    o->due[o->due_count++] = (struct rdma_key){
        .region = htole32(region), .rkey = htole32(mr->rkey), .unit = htole64(unit)};
    return true;
}

void rdma_offer_answer(struct rdma_channel *c)
{
    struct rdma_offer *o = c->offer;
    if (o && o->due_count && rdma_can_post(c, 0)) {
        rdma_post(c, RDMA_KEYS, o->due, o->due_count * sizeof(o->due[0]));
        o->due_count = 0;
    }
}

static bool take_ask(struct rdma_channel *c, const struct rdma_ask *ask)
{
    struct rdma_offer *o = c->offer;
    struct error *err = NULL;
    uint32_t region = le32toh(ask->region);
    uint64_t unit = le64toh(ask->unit);
    if (region >= o->regions.count || unit >= unit_count(o, region) || o->units[region][unit] ||
        o->due_count == RDMA_ASKS) {
        return false;
    }
    if (!register_unit(c, region, unit, &err)) {
        rdma_give_up(c, err);
    }
    return true;
}

void rdma_on_ask(struct rdma_channel *c, const void *body, size_t length)
{
    const struct rdma_ask *asks = body;
    bool fits = c->offer && c->offer->open && !c->offer->pin_all && length % sizeof(*asks) == 0;
    for (size_t i = 0; fits && !c->refusal && i < length / sizeof(*asks); i++) {
        fits = take_ask(c, &asks[i]);
    }
    if (!fits) {
        rdma_refuse(c, "%s: a key was asked for that can't be had", c->peer);
    }
}

/* ---- sharing ---- */

void rdma_on_share(struct rdma_channel *c, const void *body, size_t length)
{
    if (length != sizeof(c->wish) || c->wished) {
        rdma_refuse(c, "%s: memory is to be shared twice, or in an unknown way", c->peer);
        return;
    }
    memcpy(&c->wish, body, length);
    c->wished = true;
}

/* A source that gives up before it says so in the stream. */
static bool is_wished_or_told(const struct rdma_channel *c, uint64_t unused)
{
    (void)unused;
    return c->wished || c->received_count || c->ended;
}

static bool check_wish(const struct rdma_channel *c, struct error **errp)
{
    struct rdma_offer *o = c->offer;
    if (!c->wished) {
        error_set(errp, "channel-closed", "%s: the source shares no memory", c->peer);
        return false;
    }
    uint64_t chunk = le64toh(c->wish.chunk);
    if (chunk < RDMA_CHUNK_MIN || chunk > RDMA_CHUNK_MAX || (chunk & (chunk - 1)) ||
        le32toh(c->wish.regions) != o->regions.count ||
        le32toh(c->wish.pin_all) != (uint32_t)o->pin_all) {
        error_set(errp, "stream-corrupt",
                  "%s: memory is to be shared in a way that was not agreed on", c->peer);
        return false;
    }
    o->unit = o->pin_all && chunk < RDMA_PIN_PIECE ? RDMA_PIN_PIECE : chunk;
    return true;
}

static bool key_fits(const struct rdma_channel *c, uint64_t unused)
{
    (void)unused;
    return c->offer->due_count < RDMA_ASKS;
}

static bool pin_region(struct rdma_channel *c, unsigned region, const struct wait *w,
                       struct error **errp)
{
    for (uint64_t unit = 0; unit < unit_count(c->offer, region); unit++) {
        if (wait_cancelled(w, errp) || !rdma_await(c, key_fits, 0, w, errp) ||
            !register_unit(c, region, unit, errp)) {
            return false;
        }
        rdma_offer_answer(c);
    }
    return true;
}

static bool offer_region(struct rdma_channel *c, unsigned region, const struct wait *w,
                         struct error **errp)
{
    struct rdma_offer *o = c->offer;
    const struct rdma_region *r = &o->regions.list[region];
    struct rdma_region_offer offer = {.region = htole32(region),
                                      .unit = htole64(o->unit),
                                      .base = htole64((uintptr_t)r->map),
                                      .length = htole64(r->length)};
    o->units[region] = calloc(unit_count(o, region), sizeof(*o->units[region]));
    if (!o->units[region]) {
        abort();
    }
    return rdma_send(c, RDMA_REGION, &offer, sizeof(offer), w, errp) &&
           (!o->pin_all || pin_region(c, region, w, errp));
}

bool rdma_offer_share(struct rdma_channel *c, const struct channel_sharing *sharing,
                      const struct wait *w, struct error **errp)
{
    struct rdma_offer *o = c->offer = calloc(1, sizeof(*o));
    if (!o || !(o->units = calloc(sharing->count, sizeof(*o->units)))) {
        abort();
    }
    o->pin_all = sharing->pin_all;
    if (!rdma_regions_map(&o->regions, sharing, errp) ||
        !rdma_await(c, is_wished_or_told, 0, w, errp) || !check_wish(c, errp)) {
        return false;
    }
    for (unsigned i = 0; i < o->regions.count; i++) {
        if (!offer_region(c, i, w, errp)) {
            return false;
        }
    }
    o->open = true;
    return rdma_send(c, RDMA_SHARED, NULL, 0, w, errp);
}

void rdma_offer_free(struct rdma_channel *c)
{
    struct rdma_offer *o = c->offer;
    if (!o) {
        return;
    }
    for (unsigned i = 0; i < o->regions.count; i++) {
        for (uint64_t unit = 0; o->units[i] && unit < unit_count(o, i); unit++) {
            if (o->units[i][unit]) {
                rdma_deregister(&o->regions, o->units[i][unit]);
            }
        }
        free(o->units[i]);
    }
    rdma_regions_unmap(&o->regions);
    free(o->units);
    free(o);
    c->offer = NULL;
}
