/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a VMM's open files tell of its disk images (proc_pid_fdinfo(5)).
 *
 * A QEMU whose guest came paused has not activated its images: it does so at the first `cont`.  No
 * command of QEMU before 10.0 tells, but each active image that is a file is locked (an open file
 * description's lock on bytes from 100 on, one for each permission that is in use; read-only images
 * too), and none that is inactive (seen with 7.2).
 */
#include "qemu/internal.h"

#include <dirent.h>
#include <stdio.h>

/* The first byte of the locks: that of the permission to read, which each image in use has. */
#define LOCK_BYTE 100

/* Whether a file's description has a line of that kind. */
static bool has_line(pid_t pid, const char *name, bool (*is)(const char *line))
{
    char path[64], line[256];
    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.20s", (int)pid, name);
    FILE *info = fopen(path, "re");
    bool found = false;
    while (info && !found && fgets(line, sizeof(line), info)) {
        found = is(line);
    }
    if (info) {
        fclose(info);
    }
    return found;
}

int qemu_has_file(const struct qemu *q, bool (*is)(const char *line))
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)q->guest.pid);
    DIR *fds = opendir(path);
    int found = fds ? 0 : -1;
    for (struct dirent *d; found == 0 && (d = readdir(fds));) {
        if (client_is_lost(q->client)) {
            found = -1;
        } else if (d->d_name[0] != '.') {
            found = has_line(q->guest.pid, d->d_name, is);
        }
    }
    if (fds) {
        closedir(fds);
    }
    return found;
}

static bool is_image_lock(const char *line)
{
    long long start = 0;
    return sscanf(line, "lock: %*d: OFDLCK ADVISORY READ %*d %*s %lld", &start) == 1 &&
           start == LOCK_BYTE;
}

static int has_images(struct qemu *q, const struct wait *w, struct error **errp)
{
    json_t *nodes = qemu_call(q, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), w, errp);
    int has = nodes ? json_array_size(nodes) > 0 : -1;
    json_decref(nodes);
    return has;
}

/* Images without locks (of a network, or with locking=off) count as inactive: that costs a `cont`,
 * the other mistake costs the guest. */
bool qemu_find_images(struct qemu *q, const struct wait *w, struct error **errp)
{
    int has = has_images(q, w, errp);
    atomic_store(&q->images_inactive, has > 0 && qemu_has_file(q, is_image_lock) != 1);
    return has >= 0;
}
