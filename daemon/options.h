/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the daemon was told, on its command line and in its configuration files, which have the same
 * names: `name = value` is --name value.  In their order, later ones over earlier ones:
 *
 *   the defaults
 *   /etc/ferryd.conf, or what --config names; no file at all where that is empty
 *   that file's name with .d behind it: the *.conf in that folder, by name
 *   the command line
 *
 * A name that may be given several times adds to its list; an empty value empties it.  A list on
 * the command line takes the place of the files'.
 */
#ifndef FERRY_DAEMON_OPTIONS_H
#define FERRY_DAEMON_OPTIONS_H

#include "daemon/access.h"

#include <sys/stat.h>

#define EXIT_USAGE 2

/* A socket that the daemon listens on. */
struct socket_options {
    char *path; /* NULL: none */
    mode_t mode;
    gid_t group; /* (gid_t)-1: that of the daemon */
};

struct options {
    struct socket_options control, guests, read_only;
    struct socket_options metrics; /* its path: unix:PATH or HOST:PORT */
    char *state_dir;
    int log_level;
    struct access access;
};

/* A fault that was found, and where: PATH:LINE, PATH, or NULL for the command line. */
typedef void options_fault(void *opaque, const char *where, const char *what);

/*
 * Reads all of it anew.  False when there is a fault; each is told.  --help and --version end the
 * process, as does --check-config, when all is read.
 */
bool options_read(struct options *o, int argc, char **argv, options_fault *fault, void *opaque);
void options_free(struct options *o);

/*
 * Takes what can be changed alive from `fresh`: log-level and the allow- lists.  `kept` is told
 * each other option that differs.
 */
void options_update(struct options *o, struct options *fresh,
                    void (*kept)(void *opaque, const char *name), void *opaque);

#endif
