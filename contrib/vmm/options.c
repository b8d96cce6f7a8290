/* SPDX-License-Identifier: BSD-3-Clause */
/* The command line: a table of options, each with the function that takes its value. */
#include "options.h"

#include "guest_abi.h"
#include "log.h"

#include <errno.h>
#include <getopt.h>
#include <libferry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB             (1ull << 20)
#define MEMORY_MIB_MIN  17 /* the image's part below the heap, and a heap */
#define MEMORY_MIB_MAX  65536
#define DEFAULT_MEMORY  (64 * MIB)
#define PATH_LENGTH_MAX 107 /* of a unix socket */

static bool parse_number(const char *text, uint64_t low, uint64_t high, uint64_t *value)
{
    char *end = NULL;

    if (text[0] < '0' || text[0] > '9') {
        return false;
    }
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || number < low || number > high) {
        return false;
    }
    *value = number;
    return true;
}

static bool take_name(struct options *o, const char *value)
{
    o->name = value;
    return value[0] != '\0' && strlen(value) <= FERRY_NAME_MAX;
}

static bool take_ferry(struct options *o, const char *value)
{
    o->ferry_path = value;
    return value[0] != '\0' && strlen(value) <= PATH_LENGTH_MAX;
}

static bool take_memory(struct options *o, const char *value)
{
    uint64_t mib = 0;

    if (!parse_number(value, MEMORY_MIB_MIN, MEMORY_MIB_MAX, &mib)) {
        return false;
    }
    o->memory = mib * MIB;
    return true;
}

static bool take_cpus(struct options *o, const char *value)
{
    uint64_t cpus = 0;

    if (!parse_number(value, 1, GUEST_CPUS_MAX, &cpus)) {
        return false;
    }
    o->cpus = (unsigned)cpus;
    return true;
}

static bool take_guest(struct options *o, const char *value)
{
    o->guest_path = value;
    return value[0] != '\0';
}

static bool take_args(struct options *o, const char *value)
{
    o->args = value;
    return strlen(value) < GUEST_ARGS_SIZE;
}

static bool take_disk(struct options *o, const char *value)
{
    o->disk_path = value;
    return value[0] != '\0';
}

static bool take_disk_base(struct options *o, const char *value)
{
    o->disk_base_path = value;
    return value[0] != '\0';
}

static bool take_console(struct options *o, const char *value)
{
    if (strcmp(value, "stdio") == 0) {
        o->console_path = NULL;
        return true;
    }
    o->console_path = value + strlen("unix:");
    return strncmp(value, "unix:", strlen("unix:")) == 0 && o->console_path[0] != '\0' &&
           strlen(o->console_path) <= PATH_LENGTH_MAX;
}

static bool take_fill(struct options *o, const char *value)
{
    static const struct {
        const char *prefix;
        enum fill_kind kind;
    } kinds[] = {{"random:", FILL_RANDOM}, {"touch:", FILL_TOUCH}};
    uint64_t mib = 0;

    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        size_t length = strlen(kinds[i].prefix);
        if (strncmp(value, kinds[i].prefix, length) == 0) {
            o->fill = kinds[i].kind;
            bool good = parse_number(value + length, 0, MEMORY_MIB_MAX, &mib);
            o->fill_bytes = mib * MIB;
            return good;
        }
    }
    return false;
}

static bool take_incoming(struct options *o, const char *value)
{
    (void)value;
    o->incoming = true;
    return true;
}

static bool take_plain_log(struct options *o, const char *value)
{
    (void)value;
    o->plain_log = true;
    return true;
}

static bool take_paused(struct options *o, const char *value)
{
    (void)value;
    o->paused = true;
    return true;
}

static bool take_log_level(struct options *o, const char *value)
{
    (void)o;
    return log_set_level(value);
}

static const struct {
    const char *name;
    const char *value; /* what the usage calls it; NULL: the option has none */
    const char *help;
    bool (*take)(struct options *o, const char *value);
} table[] = {
    {"name", "NAME", "the guest's name (default guest)", take_name},
    {"ferry", "PATH", "ferryd's guests socket", take_ferry},
    {"memory", "MIB", "guest RAM (default 64)", take_memory},
    {"cpus", "N", "vCPUs, 1 to 8 (default 1)", take_cpus},
    {"guest", "FILE", "flat image to boot", take_guest},
    {"args", "ARGS", "\"key=value ...\" for the guest", take_args},
    {"disk", "FILE", "a disk; its size is the file's", take_disk},
    {"disk-base", "FILE", "what that disk is an overlay over", take_disk_base},
    {"console", "WHERE", "stdio (default) or unix:PATH", take_console},
    {"incoming", NULL, "wait for a migration to bring the guest", take_incoming},
    {"memory-fill", "WHAT", "random:MIB or touch:MIB, written before the start", take_fill},
    {"plain-log", NULL, "do without KVM's manual dirty-log protection", take_plain_log},
    {"paused", NULL, "do not run the guest until it is resumed", take_paused},
    {"log-level", "LEVEL", "error, warning (default), info or debug", take_log_level},
};

#define TABLE_SIZE (sizeof(table) / sizeof(table[0]))

/* Values of the options that are not in the table, in getopt's numbering. */
enum { CHOICE_HELP = 1000, CHOICE_VERSION };

static void print_help(void)
{
    printf("Usage: ferry-vmm [OPTION]...\nA small KVM VMM that ferryd can migrate.\n\n");
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        printf("  --%-11s %-6s %s\n", table[i].name, table[i].value ? table[i].value : "",
               table[i].help);
    }
    printf("  --help, --version\n\n"
           "Exit: 0 after the guest's shutdown, its release to another host, or SIGTERM;\n"
           "77 without a usable /dev/kvm; 2 for a wrong command line; 1 for other failures.\n"
           "SIGUSR1 prints the guest's report page; SIGUSR2 pauses or resumes the guest.\n");
}

static enum options_outcome wrong(const char *what, const char *value)
{
    log_message(LOG_ERROR, "%s%s%s; see --help", what, value ? " " : "", value ? value : "");
    return OPTIONS_WRONG;
}

static enum options_outcome check_together(const struct options *o)
{
    if (!o->incoming && o->guest_path == NULL) {
        return wrong("--guest is needed without --incoming", NULL);
    }
    if (o->incoming && (o->guest_path != NULL || o->fill != FILL_NONE || o->paused)) {
        return wrong("--incoming brings its memory: no --guest, --memory-fill, --paused", NULL);
    }
    if (o->disk_base_path != NULL && o->disk_path == NULL) {
        return wrong("--disk-base needs a --disk", NULL);
    }
    if (o->fill_bytes > o->memory - GUEST_HEAP_GPA) {
        return wrong("--memory-fill is larger than --memory less 16 MiB", NULL);
    }
    return OPTIONS_RUN;
}

static void build_long_options(struct option *list)
{
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        list[i] = (struct option){
            .name = table[i].name,
            .has_arg = table[i].value ? required_argument : no_argument,
            .val = (int)i,
        };
    }
    list[TABLE_SIZE] = (struct option){.name = "help", .val = CHOICE_HELP};
    list[TABLE_SIZE + 1] = (struct option){.name = "version", .val = CHOICE_VERSION};
}

enum options_outcome options_parse(struct options *options, int argc, char **argv)
{
    struct option list[TABLE_SIZE + 3] = {{0}};
    int choice = 0;

    *options = (struct options){
        .name = "guest",
        .args = "",
        .memory = DEFAULT_MEMORY,
        .cpus = 1,
    };
    build_long_options(list);
    while ((choice = getopt_long(argc, argv, "", list, NULL)) != -1) {
        if (choice == CHOICE_HELP) {
            print_help();
            return OPTIONS_DONE;
        }
        if (choice == CHOICE_VERSION) {
            printf("ferry-vmm %s\n", ferry_version());
            return OPTIONS_DONE;
        }
        if (choice == '?') {
            return OPTIONS_WRONG;
        }
        if (!table[choice].take(options, optarg)) {
            return wrong(table[choice].name, optarg);
        }
    }
    if (optind < argc) {
        return wrong("not an option:", argv[optind]);
    }
    return check_together(options);
}
