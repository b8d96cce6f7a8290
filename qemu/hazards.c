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

#include <dirent.h>
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

static bool check_device(struct qemu *q, const json_t *item, struct error **errp)
{
    static const char child[] = "child<";
    char words[CLIENT_WORDS];
    const char *type = client_words(json_object_get(item, "type"), words);
    if (strncmp(type, child, sizeof(child) - 1) != 0) {
        return true;
    }
    type += sizeof(child) - 1;
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

static bool check_devices(struct qemu *q, const char *folder, const struct wait *w,
                          struct error **errp)
{
    json_t *items = qemu_call(q, "qom-list", json_pack("{s:s}", "path", folder), w, errp);
    bool ok = items;
    size_t i;
    json_t *item;
    json_array_foreach(items, i, item)
    {
        ok = ok && check_device(q, item, errp);
    }
    json_decref(items);
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
 * Whether the open file `name` of the VMM has O_DIRECT (proc_pid_fdinfo(5)).  An io_uring without
 * it is none: what it reads through the page cache is copied, and seen; QEMU polls with one anyway.
 */
static bool file_is_direct(pid_t pid, const char *name)
{
    char path[64], text[256];
    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.20s", (int)pid, name);
    FILE *info = fopen(path, "re");
    unsigned flags = 0;
    while (info && fgets(text, sizeof(text), info)) {
        sscanf(text, "flags: %o", &flags);
    }
    if (info) {
        fclose(info);
    }
    return flags & O_DIRECT;
}

/* What the VMM has open is asked as well: helpers and drivers may open files of their own.  They
 * may be very many, and whoever has lost the monitor may be waiting for the end of this. */
static bool has_direct_file(const struct qemu *q)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)q->guest.pid);
    DIR *fds = opendir(path);
    bool direct = !fds; /* unknown: to be on the safe side */
    for (struct dirent *d; fds && !direct && (d = readdir(fds));) {
        direct = client_is_lost(q->client) ||
                 (d->d_name[0] != '.' && file_is_direct(q->guest.pid, d->d_name));
    }
    if (fds) {
        closedir(fds);
    }
    return direct;
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
    if (!check_devices(q, "/machine/peripheral", w, errp) ||
        !check_devices(q, "/machine/peripheral-anon", w, errp) || !check_networks(q, w, errp) ||
        !check_disks(q, w, errp)) {
        return false;
    }
    q->drains = q->drains || has_direct_file(q);
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
