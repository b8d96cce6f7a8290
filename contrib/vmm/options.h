/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_OPTIONS_H
#define FERRY_VMM_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum fill_kind { FILL_NONE, FILL_RANDOM, FILL_TOUCH };

/* The command line, checked.  Strings point into argv. */
struct options {
    const char *name;
    const char *ferry_path; /* NULL: libferry's default */
    const char *guest_path; /* NULL only with `incoming` */
    const char *args;
    const char *disk_path;      /* NULL: no disk */
    const char *disk_base_path; /* NULL: it is no overlay */
    const char *console_path;   /* a unix socket to listen on; NULL: stdout */
    uint64_t memory;            /* bytes */
    uint64_t fill_bytes;
    enum fill_kind fill;
    unsigned cpus;
    bool incoming;
    bool paused;
    bool plain_log;
};

enum options_outcome { OPTIONS_RUN, OPTIONS_DONE, OPTIONS_WRONG };

enum options_outcome options_parse(struct options *options, int argc, char **argv);

#endif
