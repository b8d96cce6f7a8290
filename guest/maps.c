/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/maps.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

struct maps {
    pid_t pid;
    FILE *file;
    char *line;
    size_t room;
};

static void set_failed(pid_t pid, int err, struct error **errp)
{
    if (err == ENOENT || err == ESRCH) {
        error_set(errp, "guest-lost", "There is no process %d any more", pid);
    } else if (err == EACCES || err == EPERM) {
        error_set(errp, "no-permission",
                  "The memory map of process %d can't be read: run ferryd as the same user as the "
                  "process, or with CAP_SYS_PTRACE",
                  pid);
    } else {
        error_set(errp, "system-error", "/proc/%d/maps: %s", pid, strerror(err));
    }
}

struct maps *maps_open(pid_t pid, struct error **errp)
{
    char path[40];
    snprintf(path, sizeof(path), "/proc/%d/maps", pid);
    FILE *file = fopen(path, "re");
    if (!file) {
        set_failed(pid, errno, errp);
        return NULL;
    }
    struct maps *maps = calloc(1, sizeof(*maps));
    if (!maps) {
        abort();
    }
    *maps = (struct maps){.pid = pid, .file = file};
    return maps;
}

void maps_close(struct maps *maps)
{
    if (maps) {
        fclose(maps->file);
        free(maps->line);
        free(maps);
    }
}

/* "START-END PERMS OFFSET MAJOR:MINOR INODE", blanks, and a path where there is one. */
static bool parse(char *line, struct map_entry *entry)
{
    unsigned major_number, minor_number;
    uint64_t inode;
    int path = -1;
    line[strcspn(line, "\n")] = '\0';
    int fields = sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n",
                        &entry->start, &entry->end, entry->perms, &entry->offset, &major_number,
                        &minor_number, &inode, &path);
    if (fields != 7 || path < 0) {
        return false;
    }
    entry->dev = makedev(major_number, minor_number);
    entry->inode = inode;
    entry->path = line + path;
    return true;
}

bool maps_next(struct maps *maps, struct map_entry *entry, struct error **errp)
{
    errno = 0;
    if (getline(&maps->line, &maps->room, maps->file) < 0) {
        if (errno) {
            set_failed(maps->pid, errno, errp);
        }
        return false;
    }
    if (!parse(maps->line, entry)) {
        error_set(errp, "system-error", "/proc/%d/maps has a line that is none of its kind: %s",
                  maps->pid, maps->line);
        return false;
    }
    return true;
}
