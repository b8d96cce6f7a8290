/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/config.h"

#include "common/cleanup.h"

#include <ctype.h>
#include <errno.h>
#include <glob.h>
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

/* One that is no plain file, or unreadable, is a fault. */
static FILE *open_plain(const char *path)
{
    struct stat st;
    FILE *file = fopen(path, "re");
    if (file && (fstat(fileno(file), &st) < 0 || !S_ISREG(st.st_mode))) {
        fclose(file);
        file = NULL;
        errno = EINVAL;
    }
    return file;
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
    free(text);
    fclose(file);
}

/* What glob would take for a pattern. */
static void quote(const char *path, char *quoted, size_t size)
{
    size_t n = 0;
    for (; *path && n + 3 < size; path++) {
        if (strchr("*?[\\", *path)) {
            quoted[n++] = '\\';
        }
        quoted[n++] = *path;
    }
    quoted[n] = '\0';
}

void config_read(const char *path, bool must, config_line *line, config_fault *fault, void *opaque)
{
    struct reader r = {.line = line, .fault = fault, .opaque = opaque};
    char quoted[2 * PATH_MAX], pattern[2 * PATH_MAX + 16];
    glob_t found = {0};
    read_file(&r, path, must);
    quote(path, quoted, sizeof(quoted));
    snprintf(pattern, sizeof(pattern), "%s.d/*.conf", quoted);
    if (glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++) {
            read_file(&r, found.gl_pathv[i], true);
        }
    }
    globfree(&found);
}
