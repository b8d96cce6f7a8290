/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a VMM's open files tell of its disk images (proc_pid_fdinfo(5)).
 *
 * A QEMU whose guest came paused has not activated its images: it does so at the first `cont`.  No
 * command of QEMU before 10.0 tells, but each active image that is a local file is locked (an open
 * file description's lock on bytes from 100 on, one for each permission that is in use; read-only
 * images too), and no inactive one is (seen with 7.2).
 */
#include "qemu/internal.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

/* Images that are local files, by their block driver. */
static const char *const file_drivers[] = {"file", "host_device", "host_cdrom"};

/* The first byte of the locks: that of the permission to read, which each image in use has. */
#define LOCK_BYTE 100

/* ---- open files ---- */

static bool look_at_file(pid_t pid, const char *name, qemu_look *look, void *arg)
{
    char path[64], line[256];
    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.20s", (int)pid, name);
    FILE *info = fopen(path, "re");
    bool found = false;
    while (info && !found && fgets(line, sizeof(line), info)) {
        found = look(line, arg);
    }
    if (info) {
        fclose(info);
    }
    return found;
}

int qemu_look_at_files(const struct qemu *q, qemu_look *look, void *arg)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)q->guest.pid);
    DIR *fds = opendir(path);
    int found = fds ? 0 : -1;
    for (struct dirent *d; found == 0 && (d = readdir(fds));) {
        if (client_is_lost(q->client)) {
            found = -1;
        } else if (d->d_name[0] != '.') {
            found = look_at_file(q->guest.pid, d->d_name, look, arg);
        }
    }
    if (fds) {
        closedir(fds);
    }
    return found;
}

/* ---- images ---- */

/* Notes the locked file's device and inode, as "fe:00:10961208", in a set. */
static bool note_lock(const char *line, void *set)
{
    char file[64];
    long long start = 0;
    if (sscanf(line, "lock: %*d: OFDLCK ADVISORY READ %*d %63s %lld", file, &start) == 2 &&
        start == LOCK_BYTE) {
        json_object_set_new(set, file, json_true());
    }
    return false;
}

static bool is_local_file(const json_t *node)
{
    const char *driver = json_string_value(json_object_get(node, "drv"));
    bool is = false;
    for (size_t i = 0; driver && i < sizeof(file_drivers) / sizeof(file_drivers[0]); i++) {
        is = is || strcmp(driver, file_drivers[i]) == 0;
    }
    return is;
}

/* The names of the images that are local files, as a set. */
static json_t *local_images(const json_t *nodes)
{
    json_t *set = json_object();
    size_t i;
    json_t *node;
    json_array_foreach(nodes, i, node)
    {
        const char *file = json_string_value(json_object_get(node, "file"));
        if (file && is_local_file(node)) {
            json_object_set_new(set, file, json_true());
        }
    }
    return set;
}

/*
 * Whether any image may be inactive: a single one is enough for QEMU to abort, and images that were
 * added or exported since the guest came are active among others that are not.  Where no image is a
 * local file nothing tells.
 */
static bool may_be_inactive(const struct qemu *q, const json_t *nodes)
{
    json_t *images = local_images(nodes), *locked = json_object();
    qemu_look_at_files(q, note_lock, locked);
    size_t wanted = json_object_size(images), found = json_object_size(locked);
    json_decref(images);
    json_decref(locked);
    return json_array_size(nodes) && (!wanted || found < wanted);
}

bool qemu_find_images(struct qemu *q, const struct wait *w, struct error **errp)
{
    json_t *nodes = qemu_call(q, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), w, errp);
    atomic_store(&q->images_inactive, nodes && may_be_inactive(q, nodes));
    json_decref(nodes);
    return nodes;
}
