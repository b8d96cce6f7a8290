/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/config.h"

#include "common/cleanup.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct reader {
    config_line *line;
    config_fault *fault;
    void *opaque;
};

static char *trimmed(char *text)
{
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1])) {
        *--end = '\0';
    }
    while (isspace((unsigned char)*text)) {
        text++;
    }
    return text;
}

static void take_line(const struct reader *r, const char *where, char *text)
{
    char *line = trimmed(text);
    if (!*line || *line == '#') {
        return;
    }
    char *equals = strchr(line, '=');
    if (!equals || equals == line) {
        r->fault(r->opaque, where, "a line is `name = value`");
        return;
    }
    *equals = '\0';
    r->line(r->opaque, where, trimmed(line), trimmed(equals + 1));
}

/* Only a plain file is read: nothing that would have to be waited for. */
static FILE *open_plain(const char *path)
{
    struct stat st;
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0) {
        return NULL;
    }
    if (!S_ISREG(st.st_mode)) {
        errno = EINVAL;
        return NULL;
    }
    return fdopen(fd_steal(&fd), "r");
}

static void read_file(const struct reader *r, const char *path, bool must)
{
    FILE *file = open_plain(path);
    char where[PATH_MAX + 16];
    char *text = NULL;
    size_t size = 0;
    if (!file) {
        if (must || errno != ENOENT) {
            r->fault(r->opaque, path, strerror(errno));
        }
        return;
    }
    for (unsigned n = 1; getline(&text, &size, file) >= 0; n++) {
        snprintf(where, sizeof(where), "%s:%u", path, n);
        take_line(r, where, text);
    }
    if (ferror(file)) {
        r->fault(r->opaque, path, strerror(errno)); /* what was not read may forbid something */
    }
    free(text);
    fclose(file);
}

static int is_drop_in(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return entry->d_name[0] != '.' && dot && strcmp(dot, ".conf") == 0;
}

static void read_folder(const struct reader *r, const char *folder)
{
    struct dirent **found = NULL;
    char path[2 * PATH_MAX];
    int count = scandir(folder, &found, is_drop_in, alphasort);
    if (count < 0 && errno != ENOENT) {
        r->fault(r->opaque, folder, strerror(errno));
    }
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, found[i]->d_name);
        read_file(r, path, true);
        free(found[i]);
    }
    free(found);
}

void config_read(const char *path, bool must, config_line *line, config_fault *fault, void *opaque)
{
    struct reader r = {.line = line, .fault = fault, .opaque = opaque};
    char folder[PATH_MAX + 4];
    read_file(&r, path, must);
    snprintf(folder, sizeof(folder), "%s.d", path);
    read_folder(&r, folder);
}
