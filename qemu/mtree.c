/* SPDX-License-Identifier: BSD-3-Clause */
#include "qemu/mtree.h"

#include "common/cleanup.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
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
static const char *name_of(const char *region)
{
    static const char folder[] = "/objects/";
    return region +
           (begins_with(region, folder) && region[sizeof(folder) - 1] ? sizeof(folder) - 1 : 0);
}

/* Also what the guest may only read, and memory that keeps what it holds: "ram", "nv-ram", "rom".
 */
static bool is_memory(const char *type)
{
    return strcmp(type, "i/o") != 0;
}

/* What a line tells a part of: the region's name, which is cut out of it.  NULL: of no memory. */
static const char *read_line(char *line, struct mtree_place *place)
{
    int at = 0;
    char type[16];
    *place = (struct mtree_place){0};
    if (sscanf(line, " %16" SCNx64 "-%*16[0-9a-f] (prio %*d, %15[^)]): %n", &place->gpa, type,
               &at) < 2 ||
        !at || !is_memory(type)) {
        return NULL;
    }
    char *name = line + at;
    char *end = name + strcspn(name, " \r");
    sscanf(end, " @%16" SCNx64, &place->offset);
    *end = '\0';
    return *name ? name_of(name) : NULL;
}

/* ---- the regions that are looked for ---- */

static int compare(const void *a, const void *b)
{
    const struct mtree_region *const *first = a, *const *second = b;
    return strcmp((*first)->name, (*second)->name);
}

static struct mtree_region **sorted(struct mtree_region *regions, unsigned count)
{
    struct mtree_region **list = calloc(count + 1, sizeof(struct mtree_region *));
    if (!list) {
        abort();
    }
    for (unsigned i = 0; i < count; i++) {
        regions[i].found = false;
        list[i] = &regions[i];
    }
    qsort(list, count, sizeof(struct mtree_region *), compare);
    return list;
}

/* The first one that is called so, or the end. */
static struct mtree_region **look_up(struct mtree_region **list, unsigned count, const char *name)
{
    while (count) {
        unsigned half = count / 2;
        bool before = strcmp(list[half]->name, name) < 0;
        list += before ? half + 1 : 0;
        count = before ? count - half - 1 : half;
    }
    return list;
}

/* Views are in ascending order: the first part counts. */
static void note(struct mtree_region **at, const char *name, const struct mtree_place *place)
{
    for (; *at && !(*at)->found && strcmp((*at)->name, name) == 0; at++) {
        (*at)->found = true;
        (*at)->place = *place;
    }
}

void mtree_find(const char *text, struct mtree_region *regions, unsigned count)
{
    CLEANUP_FREE struct mtree_region **list = sorted(regions, count);
    char line[LINE_ROOM];
    bool in_system = false;
    while ((text = take_line(text, line))) {
        struct mtree_place place;
        const char *name;
        if (begins_with(line, HEADING)) {
            in_system = false;
        } else if (begins_with(line, SPACE)) {
            in_system = true;
        } else if (in_system && (name = read_line(line, &place))) {
            note(look_up(list, count, name), name, &place);
        }
    }
}
