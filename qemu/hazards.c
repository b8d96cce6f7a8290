/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What can't be migrated from outside, or not now.
 *
 * The kernel reports what the VMM's own page tables were used to write.  Devices that write to RAM
 * by other ways (another process that has mapped it, an IOMMU, pages pinned for good) are not seen,
 * and a guest that has one would arrive damaged.  They are looked for when a guest is attached and
 * again in each round of a migration: devices can be plugged.
 *
 * Pages pinned for one I/O (O_DIRECT) are seen when the I/O begins, and written until it ends: for
 * those there is log_settle.  A disk that has gone since has been drained by that.
 */
#include "qemu/internal.h"

#include "common/cleanup.h"
#include "common/clock.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- devices ---- */

/* By the beginning of a device's type. */
static const struct {
    const char *prefix, *what;
} devices[] = {
    {"vfio-", "a VFIO device"},
    {"x-vfio-user-", "a VFIO device"},
    {"vhost-user-", "a vhost-user device"},
    {"vhost-vdpa-", "a vDPA device"},
    {"vhost-scsi", "a vhost-scsi device"},
    {"ivshmem-", "memory shared with other processes"},
    {"pvrdma", "an RDMA device"},
};

/* Of network backends, as `info network` prints them. */
static const struct {
    const char *text, *what;
} networks[] = {
    {"type=vhost-user", "a vhost-user network"},
    {"type=passt,vhost-user", "a vhost-user network"},
    {"type=vhost-vdpa", "a vDPA network"},
};

/* Of block drivers. */
static const struct {
    const char *driver, *what;
} drivers[] = {
    {"nvme", "an NVMe disk driven through VFIO"},
    {"nvme-io_uring", "a disk of libblkio"},
    {"virtio-blk-vfio-pci", "a disk driven through VFIO"},
    {"virtio-blk-vhost-user", "a vhost-user disk"},
    {"virtio-blk-vhost-vdpa", "a vDPA disk"},
};

static bool refuse(const struct qemu *q, const char *name, const char *what, struct error **errp)
{
    error_set(errp, "device-unseen",
              "Guest '%s' has %s (%s), whose writes to RAM can't be seen from outside QEMU: unplug "
              "it, or start QEMU without it",
              q->guest.name, what, name);
    return false;
}

/* By the beginning of a device's type: what these read, the host's disk writes to RAM by itself,
 * however the image was opened. */
static const char *const passing[] = {"scsi-block", "scsi-generic"};

static bool has_prefix(const char *type, const char *prefix)
{
    return strncmp(type, prefix, strlen(prefix)) == 0;
}

static bool check_type(struct qemu *q, const char *type, struct error **errp)
{
    for (size_t i = 0; i < COUNT(devices); i++) {
        if (has_prefix(type, devices[i].prefix)) {
            return refuse(q, type, devices[i].what, errp);
        }
    }
    for (size_t i = 0; i < COUNT(passing); i++) {
        q->drains = q->drains || has_prefix(type, passing[i]);
    }
    return true;
}

/*
 * A balloon whose guest may hint at free pages asks QEMU's migration to leave them out, for which
 * QEMU keeps no record where it leaves out all of RAM: it crashes (7.2, 10.0, 11.1), and the guest
 * with it.
 */
static bool check_hints(struct qemu *q, const char *path, const struct wait *w, struct error **errp)
{
    json_t *arguments = json_pack("{s:s, s:s}", "path", path, "property", "free-page-hint");
    json_t *reply = qemu_call(q, "qom-get", arguments, w, errp);
    bool hints = json_is_true(reply);
    json_decref(reply);
    if (hints) {
        error_set(
            errp, "guest-unsuitable",
            "Guest '%s' has a balloon (%s) with free-page-hint=on, which can crash QEMU "
            "during a migration: start QEMU with free-page-hint=off (free-page-reporting=on is "
            "supported)",
            q->guest.name, path);
    }
    return reply && !hints;
}

/* A device by its path; false: it is none. */
static bool read_device(const char *folder, const json_t *item, char path[CLIENT_WORDS],
                        char type[CLIENT_WORDS])
{
    static const char child[] = "child<";
    char name[CLIENT_WORDS], is[CLIENT_WORDS];
    client_words(json_object_get(item, "name"), name);
    client_words(json_object_get(item, "type"), is);
    if (!has_prefix(is, child)) {
        return false;
    }
    snprintf(path, CLIENT_WORDS, "%s/%.200s", folder, name);
    snprintf(type, CLIENT_WORDS, "%.*s", (int)strcspn(is + sizeof(child) - 1, ">"),
             is + sizeof(child) - 1);
    return true;
}

static bool set_device_changed(const struct qemu *q, const char *path, const char *type,
                               const char *how, struct error **errp)
{
    error_set(errp, "guest-changed",
              "Guest '%s': device %s (%s) was %s during the migration: migrate it again, with the "
              "same devices at the destination",
              q->guest.name, path, type, how);
    return false;
}

/* A device that is as it was has nothing new to tell. */
static bool check_plugged(struct qemu *q, const char *path, const char *type, const struct wait *w,
                          struct error **errp)
{
    const char *before = json_string_value(json_object_get(q->devices, path));
    if (before && strcmp(before, type) == 0) {
        return true;
    }
    return (!q->devices || set_device_changed(q, path, type, "plugged", errp)) &&
           (!has_prefix(type, "virtio-balloon") || check_hints(q, path, w, errp));
}

/* The devices of one folder are added to `found`, types by path. */
static bool check_folder(struct qemu *q, const char *folder, json_t *found, const struct wait *w,
                         struct error **errp)
{
    json_t *items = qemu_call(q, "qom-list", json_pack("{s:s}", "path", folder), w, errp);
    bool ok = items;
    size_t i;
    json_t *item;
    json_array_foreach(items, i, item)
    {
        char path[CLIENT_WORDS], type[CLIENT_WORDS];
        if (ok && read_device(folder, item, path, type)) {
            json_object_set_new(found, path, json_string(type));
            ok = check_type(q, type, errp) && check_plugged(q, path, type, w, errp);
        }
    }
    json_decref(items);
    return ok;
}

static bool check_unplugged(const struct qemu *q, const json_t *found, struct error **errp)
{
    const char *path;
    json_t *type;
    json_object_foreach(q->devices, path, type)
    {
        if (!json_object_get(found, path)) {
            return set_device_changed(q, path, json_string_value(type), "unplugged", errp);
        }
    }
    return true;
}

void qemu_forget_devices(struct qemu *q)
{
    json_decref(q->devices);
    q->devices = NULL;
}

/* During its own migration QEMU refuses to plug and unplug; in the rounds before, it can't know. */
bool qemu_check_devices(struct qemu *q, const struct wait *w, struct error **errp)
{
    json_t *found = json_object();
    bool ok = check_folder(q, "/machine/peripheral", found, w, errp) &&
              check_folder(q, "/machine/peripheral-anon", found, w, errp) &&
              check_unplugged(q, found, errp);
    if (ok) {
        qemu_forget_devices(q);
        q->devices = json_incref(found);
    }
    json_decref(found);
    return ok;
}

static bool check_networks(struct qemu *q, const struct wait *w, struct error **errp)
{
    CLEANUP_FREE char *text = qemu_human(q, "info network", w, errp);
    for (size_t i = 0; text && i < COUNT(networks); i++) {
        if (strstr(text, networks[i].text)) {
            return refuse(q, networks[i].text, networks[i].what, errp);
        }
    }
    return text;
}

/* ---- disks ---- */

static bool check_node(const struct qemu *q, const json_t *node, struct error **errp)
{
    const char *driver = json_string_value(json_object_get(node, "drv"));
    for (size_t i = 0; driver && i < COUNT(drivers); i++) {
        if (strcmp(driver, drivers[i].driver) == 0) {
            return refuse(q, driver, drivers[i].what, errp);
        }
    }
    return true;
}

/* ---- direct I/O ---- */

static bool node_is_direct(const json_t *node)
{
    return json_is_true(json_object_get(json_object_get(node, "cache"), "direct"));
}

/*
 * Whether a line of an open file's description shows O_DIRECT.  An io_uring without it is none:
 * what it reads through the page cache is copied, and seen; QEMU polls with one anyway.
 */
static bool is_direct(const char *line, void *arg)
{
    unsigned flags = 0;
    (void)arg;
    return sscanf(line, "flags: %o", &flags) == 1 && flags & O_DIRECT;
}

/* One that has concluded has let go of its images, and only waits for its client. */
static bool is_active(const json_t *job)
{
    const char *status = json_string_value(json_object_get(job, "status"));
    return !status || (strcmp(status, "concluded") != 0 && strcmp(status, "null") != 0);
}

/* A block job still has the images when QEMU's migration lets go of them: QEMU aborts. */
bool qemu_check_block_jobs(struct qemu *q, const struct wait *w, struct error **errp)
{
    uint64_t start = clock_ns();
    json_t *jobs = qemu_call(q, "query-block-jobs", NULL, w, errp);
    guest_note_request(&q->guest, clock_ns() - start);
    bool ok = jobs;
    size_t i;
    json_t *job;
    json_array_foreach(jobs, i, job)
    {
        char id[CLIENT_WORDS], type[CLIENT_WORDS];
        if (ok && is_active(job)) {
            error_set(errp, "migration-blocked",
                      "Guest '%s' can't be migrated while block job '%s' (%s) is active: let it "
                      "end, or end it with block-job-cancel in QEMU",
                      q->guest.name, client_words(json_object_get(job, "device"), id),
                      client_words(json_object_get(job, "type"), type));
            ok = false;
        }
    }
    json_decref(jobs);
    return ok;
}

static bool check_disks(struct qemu *q, const struct wait *w, struct error **errp)
{
    json_t *nodes = qemu_call(q, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), w, errp);
    bool ok = nodes;
    size_t i;
    json_t *node;
    json_array_foreach(nodes, i, node)
    {
        ok = ok && check_node(q, node, errp);
        q->drains = q->drains || node_is_direct(node);
    }
    json_decref(nodes);
    return ok;
}

bool qemu_check_hazards(struct qemu *q, const struct wait *w, struct error **errp)
{
    q->drains = false;
    if (!qemu_check_devices(q, w, errp) || !check_networks(q, w, errp) ||
        !check_disks(q, w, errp)) {
        return false;
    }
    /* What the VMM has open is asked as well: helpers and drivers may open files of their own. */
    q->drains = q->drains || qemu_look_at_files(q, is_direct, NULL) != 0;
    return true;
}

/* ---- other migrations ---- */

static void set_blocked(const struct qemu *q, const json_t *reasons, struct error **errp)
{
    char text[4 * CLIENT_WORDS] = "", words[CLIENT_WORDS];
    size_t i;
    json_t *reason;
    json_array_foreach(reasons, i, reason)
    {
        size_t n = strlen(text);
        snprintf(text + n, sizeof(text) - n, "%s%s", n ? "; " : "", client_words(reason, words));
    }
    error_set(errp, "migration-blocked", "Guest '%s' can't be migrated: %s", q->guest.name, text);
}

bool qemu_check_idle(struct qemu *q, const struct wait *w, struct error **errp)
{
    static const char *const over[] = {"none", "completed", "failed", "cancelled"};
    json_t *info = qemu_call(q, "query-migrate", NULL, w, errp);
    const json_t *said = json_object_get(info, "status");
    const char *status = json_string_value(said);
    char words[CLIENT_WORDS];
    bool idle = info && !status;
    for (size_t i = 0; status && i < COUNT(over); i++) {
        idle = idle || strcmp(status, over[i]) == 0;
    }
    if (status && !idle) {
        error_set(errp, "migration-active",
                  "Guest '%s': a migration of QEMU's own is %s: let it end, or end it with "
                  "migrate_cancel in QEMU",
                  q->guest.name, client_words(said, words));
    }
    json_decref(info);
    return idle;
}

bool qemu_check_blockers(struct qemu *q, const struct wait *w, struct error **errp)
{
    json_t *info = qemu_call(q, "query-migrate", NULL, w, errp);
    const json_t *reasons = json_object_get(info, "blocked-reasons");
    bool blocked = json_array_size(reasons) > 0;
    if (blocked) {
        set_blocked(q, reasons, errp);
    }
    json_decref(info);
    return info && !blocked;
}
