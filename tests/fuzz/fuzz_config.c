/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Configuration files from anywhere.  What comes out is text without control of its own: names and
 * values without blanks around them, a place for each fault.  Addresses that are taken for
 * allow-listen are taken again.
 */
#include "daemon/config.h"
#include "transports/allow.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
    if (!ok) {
        abort();
    }
}

static bool is_trimmed(const char *text)
{
    size_t n = strlen(text);
    return !n || (!isspace((unsigned char)text[0]) && !isspace((unsigned char)text[n - 1]));
}

static void take_line(void *opaque, const char *where, const char *name, const char *value)
{
    struct allow_list *list = opaque;
    require(strchr(where, ':') && *name && is_trimmed(name) && is_trimmed(value));
    if (allow_list_add(list, value, NULL)) {
        require(allow_list_add(list, value, NULL));
        allow_list_has_path(list, value);
    }
}

static void take_fault(void *opaque, const char *where, const char *what)
{
    (void)opaque;
    require(*where && *what);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct allow_list *list = allow_list_new();
    int fd = memfd_create("config", MFD_CLOEXEC);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    config_read(path, true, take_line, take_fault, list);
    close(fd);
    allow_list_unref(list);
    return 0;
}
