/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Configuration files: lines `name = value`, empty lines, and comments, which begin with #.  A
 * value goes to the end of its line, without the blanks around it.
 */
#ifndef FERRY_DAEMON_CONFIG_H
#define FERRY_DAEMON_CONFIG_H

#include <stdbool.h>

/* `where` is PATH:LINE, or PATH. */
typedef void config_line(void *opaque, const char *where, const char *name, const char *value);
typedef void config_fault(void *opaque, const char *where, const char *what);

/*
 * Reads the file, then the *.conf in the folder PATH.d by name.  A folder, and unless it `must` be
 * there the file, may be missing.
 */
void config_read(const char *path, bool must, config_line *line, config_fault *fault, void *opaque);

#endif
