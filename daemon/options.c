/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/options.h"

#include "common/log.h"
#include "daemon/config.h"
#include "daemon/metrics.h"

#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_CONFIG "/etc/ferryd.conf"

/* More than there are names, each given some dozen times. */
#define GIVEN_MAX 1024

/* ---- kinds of values ---- */

static bool set_text(void *field, const char *value, struct error **errp)
{
    char **text = field;
    (void)errp;
    free(*text);
    *text = *value ? strdup(value) : NULL;
    return true;
}

static bool set_metrics(void *field, const char *value, struct error **errp)
{
    return (!*value || metrics_check(value, errp)) && set_text(field, value, errp);
}

static bool set_mode(void *field, const char *value, struct error **errp)
{
    char *end;
    unsigned long mode = strtoul(value, &end, 8);
    if (!*value || *end || mode > 0777) {
        error_set(errp, "option-invalid", "'%s' is no file mode: octal, up to 0777", value);
        return false;
    }
    *(mode_t *)field = (mode_t)mode;
    return true;
}

static bool set_group(void *field, const char *value, struct error **errp)
{
    char *end;
    unsigned long number = strtoul(value, &end, 10);
    const struct group *found = getgrnam(value);
    if (!found && (value[0] < '0' || value[0] > '9' || *end || number >= (gid_t)-1)) {
        error_set(errp, "option-invalid", "there is no group '%s'", value);
        return false;
    }
    *(gid_t *)field = found ? found->gr_gid : (gid_t)number;
    return true;
}

static bool set_level(void *field, const char *value, struct error **errp)
{
    int level = log_level_from_name(value);
    if (level < 0) {
        error_set(errp, "option-invalid", "'%s' is none of error, warning, info and debug", value);
        return false;
    }
    *(int *)field = level;
    return true;
}

static bool add_user(void *field, const char *value, struct error **errp)
{
    return users_add(field, *value ? value : "none", errp);
}

static bool add_address(void *field, const char *value, struct error **errp)
{
    struct allow_list **list = field;
    if (!*value) {
        allow_list_unref(*list);
        *list = NULL;
        return true;
    }
    if (!*list) {
        *list = allow_list_new();
    }
    return allow_list_add(*list, value, errp);
}

/* ---- the table ---- */

enum option_use {
    USE_CONFIG, /* says where the others are; on the command line only */
    USE_START,  /* counts when the daemon starts */
    USE_LIVE,   /* and when it rereads */
    USE_LIST,   /* the same, and may be given several times */
    USE_FLAG,   /* takes no value, and is none of a file's */
};

struct row {
    const char *name;
    enum option_use use;
    bool (*set)(void *field, const char *value, struct error **errp);
    size_t field; /* in struct options */
    const char *value, *help;
};

#define FIELD(name) offsetof(struct options, name)

static const struct row rows[] = {
    {"config", USE_CONFIG, NULL, 0, "PATH",
     "configuration file (" DEFAULT_CONFIG "; then PATH.d/*.conf); '': none"},
    {"check-config", USE_FLAG, NULL, 0, NULL,
     "reads the configuration, tells its faults, and ends"},
    {"control", USE_START, set_text, FIELD(control.path), "PATH",
     "control socket (/run/ferryd/control.sock)"},
    {"control-mode", USE_START, set_mode, FIELD(control.mode), "MODE", "its mode (0660)"},
    {"control-group", USE_START, set_group, FIELD(control.group), "GROUP", "its group"},
    {"guests", USE_START, set_text, FIELD(guests.path), "PATH",
     "socket that libferry connects to (/run/ferryd/guests.sock)"},
    {"guests-mode", USE_START, set_mode, FIELD(guests.mode), "MODE", "its mode (0660)"},
    {"guests-group", USE_START, set_group, FIELD(guests.group), "GROUP", "its group"},
    {"read-only", USE_START, set_text, FIELD(read_only.path), "PATH",
     "control socket for pollers: it answers what changes nothing (none)"},
    {"read-only-mode", USE_START, set_mode, FIELD(read_only.mode), "MODE", "its mode (0660)"},
    {"read-only-group", USE_START, set_group, FIELD(read_only.group), "GROUP", "its group"},
    {"state-dir", USE_START, set_text, FIELD(state_dir), "DIR",
     "what must outlive the daemon (/var/lib/ferryd)"},
    {"log-level", USE_LIVE, set_level, FIELD(log_level), "NAME",
     "error, warning, info or debug (info)"},
    {"allow-user", USE_LIST, add_user, FIELD(access.control), "USER",
     "who may use the control socket, besides root and ferryd's own user (any)"},
    {"allow-exec", USE_LIST, add_user, FIELD(access.exec), "USER",
     "who may use exec: (root and ferryd's own user); any, none"},
    {"allow-fd", USE_LIST, add_user, FIELD(access.fd), "USER",
     "who may use fd: (root and ferryd's own user); any, none"},
    {"allow-listen", USE_LIST, add_address, FIELD(access.listen), "ADDRESS",
     "where migrations may come in: IP[/BITS] or unix:PREFIX (anywhere)"},
    {"metrics", USE_START, set_metrics, FIELD(metrics.path), "ADDRESS",
     "Prometheus text at unix:PATH or a loopback IP:PORT (none)"},
    {"metrics-mode", USE_START, set_mode, FIELD(metrics.mode), "MODE",
     "its mode, of a unix socket (0660)"},
    {"metrics-group", USE_START, set_group, FIELD(metrics.group), "GROUP", "its group"},
    {"help", USE_FLAG, NULL, 0, NULL, "this text"},
    {"version", USE_FLAG, NULL, 0, NULL, "the version"},
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static const struct row *find_row(const char *name)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (strcmp(rows[i].name, name) == 0) {
            return &rows[i];
        }
    }
    return NULL;
}

/* ---- reading ---- */

/* One option on the command line. */
struct given {
    const struct row *row;
    const char *value;
};

struct reading {
    struct options *o;
    options_fault *fault;
    void *opaque;
    bool ok;
    bool check;          /* it is to end when all is read */
    const char *config;  /* as named; NULL: it was not */
    bool replaced[ROWS]; /* lists: what is there is of the layer below */
    struct given given[GIVEN_MAX];
    unsigned count;
};

static void tell(struct reading *r, const char *where, const char *what)
{
    r->ok = false;
    r->fault(r->opaque, where, what);
}

static void clear_list(struct reading *r, const struct row *row)
{
    size_t i = (size_t)(row - rows);
    if (row->use == USE_LIST && !r->replaced[i]) {
        row->set((char *)r->o + row->field, "", NULL);
        r->replaced[i] = true;
    }
}

static void set_option(struct reading *r, const struct row *row, const char *where,
                       const char *value)
{
    struct error *err = NULL;
    clear_list(r, row);
    if (!row->set((char *)r->o + row->field, value, &err)) {
        char text[512];
        snprintf(text, sizeof(text), "%s: %s", row->name, err->text);
        tell(r, where, text);
        error_free(err);
    }
}

/* A line of a file; config_line. */
static void take_line(void *opaque, const char *where, const char *name, const char *value)
{
    struct reading *r = opaque;
    const struct row *row = find_row(name);
    char text[512];
    if (!row || !row->set) {
        snprintf(text, sizeof(text), "there is no option '%s'", name);
        tell(r, where, text);
        return;
    }
    set_option(r, row, where, value);
}

static void take_fault(void *opaque, const char *where, const char *what)
{
    tell(opaque, where, what);
}

static void print_help(void)
{
    puts("Usage: ferryd [OPTION]...\n"
         "Live-migrates KVM guests, driven by QMP commands on a unix socket.\n");
    for (size_t i = 0; i < ROWS; i++) {
        char option[64];
        snprintf(option, sizeof(option), "--%s%s%s", rows[i].name, rows[i].value ? " " : "",
                 rows[i].value ? rows[i].value : "");
        printf("  %-26s%s\n", option, rows[i].help);
    }
    puts("\nAll but --config, --check-config, --help and --version can stand in the configuration\n"
         "file, as `name = value`.  ferryd(8) says more.");
}

static void end_if_asked(const char *flag)
{
    if (strcmp(flag, "help") == 0) {
        print_help();
        exit(0);
    }
    if (strcmp(flag, "version") == 0) {
        puts("ferryd " FERRY_VERSION);
        exit(0);
    }
}

static void tell_usage(struct reading *r, const char *text, const char *argument)
{
    char what[512];
    snprintf(what, sizeof(what), "%s%s; see ferryd --help", text, argument);
    tell(r, NULL, what);
}

/* What getopt has stumbled over: it knows a short option by its letter alone. */
static void tell_unknown(struct reading *r, char **argv)
{
    char letter[] = {'-', (char)optopt, '\0'};
    tell_usage(r, "unknown option: ", optopt ? letter : argv[optind - 1]);
}

static void fill_long_options(struct option *options)
{
    for (size_t i = 0; i < ROWS; i++) {
        options[i] = (struct option){
            .name = rows[i].name,
            .has_arg = rows[i].use == USE_FLAG ? no_argument : required_argument,
        };
    }
}

/* Keeps an option for when the files have been read; false: it is one too many. */
static bool keep(struct reading *r, const struct row *row, const char *value)
{
    if (row->use == USE_CONFIG) {
        r->config = value;
        return true;
    }
    if (r->count == GIVEN_MAX) {
        tell_usage(r, "more options than can be read, from here on: --", row->name);
        return false;
    }
    r->given[r->count++] = (struct given){row, value};
    return true;
}

/* Up to the first fault. */
static void read_command_line(struct reading *r, int argc, char **argv)
{
    struct option long_options[ROWS + 1] = {0};
    int c, index = 0;
    fill_long_options(long_options);
    opterr = 0;
    optind = 0; /* from the start: it may be read again */
    while ((c = getopt_long(argc, argv, ":", long_options, &index)) != -1) {
        if (c == ':') {
            tell_usage(r, "an argument is missing to ", argv[optind - 1]);
            return;
        }
        if (c == '?') {
            tell_unknown(r, argv);
            return;
        }
        if (rows[index].use == USE_FLAG) {
            end_if_asked(rows[index].name);
            r->check = true;
        } else if (!keep(r, &rows[index], optarg)) {
            return;
        }
    }
    if (optind < argc) {
        tell_usage(r, "unexpected argument: ", argv[optind]);
    }
}

static void set_defaults(struct options *o)
{
    *o = (struct options){
        .control = {strdup("/run/ferryd/control.sock"), 0660, (gid_t)-1},
        .guests = {strdup("/run/ferryd/guests.sock"), 0660, (gid_t)-1},
        .read_only = {NULL, 0660, (gid_t)-1},
        .metrics = {NULL, 0660, (gid_t)-1},
        .state_dir = strdup("/var/lib/ferryd"),
        .log_level = LOG_LEVEL_INFO,
        .access.control.any = true,
        /* Neither gets more by it than it has: root can be whom it likes. */
        .access.exec = {.count = 2, .uids = {geteuid(), 0}},
        .access.fd = {.count = 2, .uids = {geteuid(), 0}},
    };
}

static void check_whole(struct reading *r)
{
    const struct options *o = r->o;
    if (!o->control.path || !o->guests.path || !o->state_dir) {
        tell(r, NULL, "control, guests and state-dir must not be empty");
    }
}

bool options_read(struct options *o, int argc, char **argv, options_fault *fault, void *opaque)
{
    struct reading *r = calloc(1, sizeof(*r));
    if (!r) {
        abort();
    }
    *r = (struct reading){.o = o, .fault = fault, .opaque = opaque, .ok = true};
    set_defaults(o);
    read_command_line(r, argc, argv);
    if (!r->config || *r->config) {
        config_read(r->config ? r->config : DEFAULT_CONFIG, r->config, take_line, take_fault, r);
    }
    memset(r->replaced, 0, sizeof(r->replaced));
    for (unsigned i = 0; i < r->count; i++) {
        set_option(r, r->given[i].row, NULL, r->given[i].value);
    }
    check_whole(r);
    bool ok = r->ok, check = r->check;
    free(r);
    if (check) {
        exit(ok ? 0 : EXIT_USAGE);
    }
    return ok;
}

void options_free(struct options *o)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (rows[i].set == set_text || rows[i].set == set_metrics || rows[i].set == add_address) {
            rows[i].set((char *)o + rows[i].field, "", NULL);
        }
    }
}

/* ---- rereading ---- */

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_field(const struct row *row, const struct options *a, const struct options *b)
{
    const void *in_a = (const char *)a + row->field, *in_b = (const char *)b + row->field;
    if (row->set == set_text || row->set == set_metrics) {
        return same_text(*(char *const *)in_a, *(char *const *)in_b);
    }
    return memcmp(in_a, in_b, sizeof(mode_t)) == 0; /* or gid_t, which is as large */
}
_Static_assert(sizeof(mode_t) == sizeof(gid_t), "compared as if they were one");

void options_update(struct options *o, struct options *fresh,
                    void (*kept)(void *opaque, const char *name), void *opaque)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (rows[i].use == USE_START && !same_field(&rows[i], o, fresh)) {
            kept(opaque, rows[i].name);
        }
    }
    struct access old = o->access;
    o->log_level = fresh->log_level;
    o->access = fresh->access;
    fresh->access = old;
}
