/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/query.h"

#include "common/clock.h"
#include "ram/block.h"

#include <math.h>

/* ---- query-migrate ---- */

static void set_int(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new_nocheck(object, key, json_integer((json_int_t)value));
}

static void set_real(json_t *object, const char *key, double value)
{
    json_object_set_new_nocheck(object, key, json_real(isfinite(value) ? value : 0));
}

static void set_text(json_t *object, const char *key, const char *text)
{
    json_object_set_new_nocheck(object, key, json_string(text));
}

static uint64_t to_ms(uint64_t ns)
{
    return (ns + NS_PER_MS / 2) / NS_PER_MS;
}

static void set_ms_real(json_t *object, const char *key, _Atomic uint64_t *ns)
{
    set_real(object, key, ns_to_ms(atomic_load(ns)));
}

/* Of a job that has ended, per second since its setup: its last window may have been empty. */
static double whole_rate(struct job *job, uint64_t value)
{
    uint64_t setup = atomic_load(&job->times.setup), end = atomic_load(&job->times.end);
    return setup && end > setup ? (double)value * (double)NS_PER_SEC / (double)(end - setup) : 0;
}

static void set_rates(json_t *ram, struct job *job, enum job_status status, uint64_t pages)
{
    struct job_counters *c = &job->counters;
    bool ended = job_status_is_terminal(status);
    double mbps = ended ? whole_rate(job, atomic_load(&c->transferred)) * 8 / 1e6
                        : job_load_double(&c->mbps_bits);
    double per_second = ended ? whole_rate(job, pages) : job_load_double(&c->pages_per_second_bits);
    set_real(ram, "mbps", mbps);
    set_int(ram, "pages-per-second", (uint64_t)per_second);
}

/* `normal` and `duplicate`: an outgoing job counts what it sent, an incoming what it put in place.
 */
static json_t *ram_info(struct job *job, enum job_status status)
{
    struct job_counters *c = &job->counters;
    bool outgoing = job->direction == JOB_OUTGOING;
    uint64_t normal = atomic_load(outgoing ? &c->ram.normal : &c->load.normal);
    uint64_t duplicate = atomic_load(outgoing ? &c->ram.duplicate : &c->load.duplicate);
    uint64_t delta = atomic_load(outgoing ? &c->ram.delta : &c->load.delta);
    uint64_t remaining = atomic_load(&c->ram.remaining) << RAM_PAGE_SHIFT;
    /* Those of disks are counted after they were counted here: read before. */
    uint64_t of_disks = atomic_load(&c->disk.transferred);
    uint64_t transferred = atomic_load(&c->transferred) - of_disks;
    uint64_t in_downtime = atomic_load(&c->downtime_bytes);
    bool completed = status == JOB_COMPLETED;
    json_t *ram = json_object();
    set_int(ram, "transferred", transferred);
    set_int(ram, "remaining", completed ? 0 : remaining);
    set_int(ram, "total", atomic_load(&c->total));
    set_int(ram, "duplicate", duplicate);
    set_int(ram, "skipped", atomic_load(&c->ram.skipped));
    set_int(ram, "normal", normal);
    set_int(ram, "normal-bytes", normal << RAM_PAGE_SHIFT);
    set_int(ram, "dirty-pages-rate", completed ? 0 : atomic_load(&c->dirty_rate));
    set_rates(ram, job, status, normal + duplicate + delta);
    set_int(ram, "dirty-sync-count", atomic_load(&c->rounds));
    set_int(ram, "page-size", RAM_PAGE_SIZE);
    set_int(ram, "precopy-bytes", transferred - in_downtime);
    set_int(ram, "downtime-bytes", in_downtime);
    uint64_t placed = atomic_load(outgoing ? &c->placed : &c->load.placed);
    if (placed) {
        set_int(ram, "placed-bytes", placed);
    }
    return ram;
}

static json_t *disk_info(struct job_counters *c, enum job_status status)
{
    json_t *disk = json_object();
    set_int(disk, "transferred", atomic_load(&c->disk.transferred));
    set_int(disk, "remaining", status == JOB_COMPLETED ? 0 : atomic_load(&c->disk.remaining));
    set_int(disk, "total", atomic_load(&c->disk.total));
    return disk;
}

static json_t *cache_info(struct job *job)
{
    struct job_counters *c = &job->counters;
    json_t *cache = json_object();
    set_int(cache, "cache-size", atomic_load(&c->ram.cache_bytes));
    set_int(cache, "bytes", atomic_load(&c->ram.delta_bytes));
    set_int(cache, "pages", atomic_load(&c->ram.delta));
    set_int(cache, "cache-miss", atomic_load(&c->ram.cache_misses));
    set_real(cache, "cache-miss-rate", job_load_double(&c->miss_rate_bits));
    set_real(cache, "encoding-rate", job_load_double(&c->encoding_rate_bits));
    set_int(cache, "overflow", atomic_load(&c->ram.overflows));
    return cache;
}

json_t *query_downtime_parts(struct job *job)
{
    struct job_downtime *d = &job->downtime;
    json_t *parts = json_object();
    set_ms_real(parts, "stop", &d->stop);
    set_ms_real(parts, "ram", &d->ram);
    set_ms_real(parts, "state", &d->state);
    set_ms_real(parts, "load", &d->load);
    set_ms_real(parts, "start", &d->start);
    return parts;
}

/* Before anything is measured the limit is what is expected, as in the reference. */
static uint64_t expected_downtime(struct job *job)
{
    double expected = job_load_double(&job->counters.expected_downtime_bits);
    if (expected <= 0) {
        return param_get(job->params, PARAM_DOWNTIME_LIMIT);
    }
    return expected < (double)INT64_MAX ? (uint64_t)ceil(expected) : INT64_MAX;
}

static void add_progress(json_t *info, struct job *job, enum job_status status)
{
    set_int(info, "setup-time", to_ms(atomic_load(&job->times.setup)));
    json_object_set_new_nocheck(info, "ram", ram_info(job, status));
    if (atomic_load(&job->counters.disk.total)) {
        json_object_set_new_nocheck(info, "disk", disk_info(&job->counters, status));
    }
    if (atomic_load(&job->counters.ram.cache_bytes)) {
        json_object_set_new_nocheck(info, "xbzrle-cache", cache_info(job));
    }
    if (status == JOB_COMPLETED) {
        if (job->direction == JOB_OUTGOING) {
            set_int(info, "downtime", to_ms(atomic_load(&job->downtime.total)));
        }
        json_object_set_new_nocheck(info, "downtime-parts", query_downtime_parts(job));
    } else if (job->direction == JOB_OUTGOING) {
        unsigned throttle = atomic_load(&job->counters.throttle);
        if (throttle) {
            set_int(info, "cpu-throttle-percentage", throttle);
        }
        set_int(info, "expected-downtime", expected_downtime(job));
    }
}

static void add_handover(json_t *info, struct job *job)
{
    static const char *const names[] = {
        [HANDOVER_UNDECIDED] = "undecided",
        [HANDOVER_SOURCE] = "source",
        [HANDOVER_DESTINATION] = "destination",
    };
    int handover = atomic_load(&job->handover);
    if (handover != HANDOVER_NONE) {
        set_text(info, "handover", names[handover]);
    }
}

static void add_identity(json_t *info, struct job *job)
{
    char uuid[JOB_UUID_TEXT];
    job_format_uuid(job, uuid);
    set_text(info, "job", uuid);
    set_text(info, "direction", job_direction_name(job->direction));
    char *address = job_get_address(job);
    if (address) {
        set_text(info, "listening", address);
        free(address);
    }
}

static void add_error(json_t *info, struct job *job)
{
    struct error *err = job_get_error(job);
    if (err) {
        set_text(info, "error-desc", err->text);
        set_text(info, "error-code", err->code);
        error_free(err);
    }
}

static json_t *job_info(struct job *job)
{
    /* Read first: what is added below is at least as new as the status. */
    enum job_status status = job_get_status(job);
    uint64_t end = atomic_load(&job->times.end);
    json_t *info = json_object();
    set_text(info, "status", job_status_name(status));
    add_identity(info, job);
    set_int(info, "total-time", to_ms(end ? end : job_elapsed(job)));
    if (atomic_load(&job->times.setup)) {
        add_progress(info, job, status);
    }
    if (status == JOB_FAILED) {
        add_error(info, job);
    }
    if (job->capabilities[CAPABILITY_VERIFY] || atomic_load(&job->counters.verified)) {
        json_object_set_new_nocheck(info, "verified",
                                    json_boolean(atomic_load(&job->counters.verified)));
    }
    add_handover(info, job);
    return info;
}

/*
 * A guest that was given away before this daemon started: all that is known is that it was. Pollers
 * of a guest in `device` find the members that they expect there.
 */
static json_t *orphan_info(const struct guest *g)
{
    struct job unknown = {.direction = JOB_OUTGOING, .counters = {.total = g->ram}};
    char uuid[JOB_UUID_TEXT];
    job_uuid_text(g->job, uuid);
    return json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:o}", "status", "device", "direction",
                     "outgoing", "job", uuid, "handover", "undecided", "total-time", 0,
                     "setup-time", 0, "expected-downtime", 0, "ram",
                     ram_info(&unknown, JOB_DEVICE));
}

static void add_blockers(json_t *info, const struct guest *g)
{
    json_t *reasons = json_array();
    for (unsigned i = 0; i < g->nblockers; i++) {
        json_array_append_new(reasons, json_string(g->blockers[i].reason));
    }
    json_object_set_new_nocheck(info, "blocked-reasons", reasons);
}

/* Its job has ended, and the guest comes back, but does not run yet: pollers see that end. */
static bool is_coming_back(const struct entry *e)
{
    return e->job && atomic_load(&e->job->handover) == HANDOVER_SOURCE;
}

static json_t *last_migration(struct entry *e)
{
    if (entry_is_orphan(e) && !is_coming_back(e)) {
        return orphan_info(e->guest);
    }
    return e->job ? job_info(e->job) : json_object();
}

json_t *query_migration(struct entry *e)
{
    json_t *info = last_migration(e);
    if (e->guest && e->guest->nblockers) {
        add_blockers(info, e->guest);
    }
    return info;
}

/* ---- query-status, query-guests ---- */

static const char *run_state(const struct entry *e)
{
    static const char *const names[] = {
        [GUEST_RUNNING] = "running",        [GUEST_PAUSED] = "paused",
        [GUEST_STOPPED] = "finish-migrate", [GUEST_GIVEN_AWAY] = "postmigrate",
        [GUEST_INCOMING] = "inmigrate",     [GUEST_SPENT] = "internal-error",
    };
    return e->guest ? names[guest_get_state(e->guest)] : "shutdown";
}

json_t *query_guest_status(struct entry *e)
{
    bool running = e->guest && guest_get_state(e->guest) == GUEST_RUNNING;
    return json_pack("{s:b, s:b, s:s}", "running", running, "singlestep", 0, "status",
                     run_state(e));
}

static json_t *blocks_info(const struct guest *g)
{
    json_t *blocks = json_array();
    for (unsigned i = 0; i < g->nblocks; i++) {
        const struct guest_block *b = &g->blocks[i];
        json_array_append_new(blocks, json_pack("{s:s, s:I, s:I}", "name", b->name, "length",
                                                (json_int_t)b->length, "gpa", (json_int_t)b->gpa));
    }
    return blocks;
}

static json_t *disks_info(const struct guest *g)
{
    json_t *disks = json_array();
    for (unsigned i = 0; i < g->ndisks; i++) {
        const struct guest_disk *disk = &g->disks[i];
        json_array_append_new(disks,
                              json_pack("{s:s, s:I, s:b}", "name", disk->name, "length",
                                        (json_int_t)disk->length, "base", disk->base_fd >= 0));
    }
    return disks;
}

static json_t *guest_info(const struct entry *e)
{
    const struct guest *g = e->guest;
    return json_pack("{s:s, s:s, s:b, s:s, s:i, s:I, s:o, s:o, s:[s]}", "name", e->name, "driver",
                     g->ops->driver, "attached", 1, "status", run_state(e), "pid", (int)g->pid,
                     "ram", (json_int_t)g->ram, "blocks", blocks_info(g), "disks", disks_info(g),
                     "tracking", g->tracking);
}

json_t *query_all_guests(struct ferryd *d)
{
    json_t *all = json_array();
    struct entry *e;
    TAILQ_FOREACH(e, &d->entries, link)
    {
        if (e->guest && !e->parked) {
            json_array_append_new(all, guest_info(e));
        }
    }
    return all;
}
