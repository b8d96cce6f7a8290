/* SPDX-License-Identifier: BSD-3-Clause */
#include "qemu/mtree.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define HEADING "FlatView #"
#define SPACE   " AS \"memory\","

/* Longer lines are cut: the names of what is looked for are short. */
#define LINE_ROOM 512

/* Copies the line at `text`; where the next one begins, or NULL: there is none. */
static const char *take_line(const char *text, char line[LINE_ROOM])
{
    if (!*text) {
        return NULL;
    }
    size_t length = strcspn(text, "\n");
    size_t kept = length < LINE_ROOM ? length : LINE_ROOM - 1;
    memcpy(line, text, kept);
    line[kept] = '\0';
    return text + length + (text[length] == '\n');
}

static bool begins_with(const char *line, const char *prefix)
{
    return strncmp(line, prefix, strlen(prefix)) == 0;
}

/* Regions of backends are called by their ID, or by their path. */
static bool is_named(const char *name, size_t length, const char *backend)
{
    static const char folder[] = "/objects/";
    if (length > sizeof(folder) - 1 && memcmp(name, folder, sizeof(folder) - 1) == 0) {
        name += sizeof(folder) - 1;
        length -= sizeof(folder) - 1;
    }
    return strlen(backend) == length && memcmp(name, backend, length) == 0;
}

/* Also what the guest may only read, and memory that keeps what it holds: "ram", "nv-ram", "rom".
 */
static bool is_memory(const char *type)
{
    return strcmp(type, "i/o") != 0;
}

/* One line: whether it is a part of the backend's region. */
static bool read_line(const char *line, const char *backend, struct mtree_place *place)
{
    int at = 0;
    char type[16];
    *place = (struct mtree_place){0};
    if (sscanf(line, " %16" SCNx64 "-%*16[0-9a-f] (prio %*d, %15[^)]): %n", &place->gpa, type,
               &at) < 2 ||
        !at || !is_memory(type)) {
        return false;
    }
    const char *name = line + at;
    size_t length = strcspn(name, " \r");
    sscanf(name + length, " @%16" SCNx64, &place->offset);
    return is_named(name, length, backend);
}

bool mtree_find(const char *text, const char *backend, struct mtree_place *place)
{
    char line[LINE_ROOM];
    bool in_system = false;
    while ((text = take_line(text, line))) {
        if (begins_with(line, HEADING)) {
            in_system = false;
        } else if (begins_with(line, SPACE)) {
            in_system = true;
        } else if (in_system && read_line(line, backend, place)) {
            return true; /* views are in ascending order */
        }
    }
    return false;
}
