/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * /proc/PID/maps (proc_pid_maps(5)), entry by entry: what a process has mapped, and from which
 * file.  Looking at another process takes the right to (PTRACE_MODE_READ, ptrace(2)).
 *
 * The kernel writes it a page at a time: entries come in ascending order and don't overlap, but
 * those of a process that maps and unmaps meanwhile are not all of one moment.
 */
#ifndef FERRY_GUEST_MAPS_H
#define FERRY_GUEST_MAPS_H

#include "common/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct map_entry {
    uint64_t start, end; /* addresses, end exclusive */
    char perms[5];       /* "rw-s": readable, writable, executable; shared or private */
    uint64_t offset;     /* bytes into the file */
    dev_t dev;           /* st_dev of the file; not on file systems that give each volume its own */
    ino_t inode;         /* 0: no file */
    /*
     * "" without; a newline in it shows as \012, and a file that was removed has " (deleted)"
     * behind its name.  The process chose it.  Until the next maps_next.
     */
    const char *path;
};

struct maps;

/* Errors: guest-lost, no-permission, system-error.  NULL then. */
struct maps *maps_open(pid_t pid, struct error **errp);

/* False at the end, or with *errp set: system-error, guest-lost. */
bool maps_next(struct maps *maps, struct map_entry *entry, struct error **errp);

void maps_close(struct maps *maps); /* NULL is allowed */

#endif
