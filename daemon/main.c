/* SPDX-License-Identifier: BSD-3-Clause */
/* ferryd's start and end, as a list of steps, and the signals in between. */
#include "daemon/ferryd.h"

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "daemon/commands.h"
#include "daemon/metrics.h"
#include "daemon/options.h"
#include "daemon/service.h"
#include "daemon/sockets.h"
#include "protocol/qmp.h"
#include "ram/fault.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* Signs of life in each period of the watchdog. */
#define WATCHDOG_SIGNS 3

#define EVENTS_MAX     4u

/* The process: what it was told, and what it runs. */
struct process {
    int argc;
    char **argv;
    struct options options;
    struct ferryd d;
    struct event *events[EVENTS_MAX]; /* signals, watchdog */
    unsigned count;
    const char *bound[3]; /* paths of sockets that are ours to take away again */
    unsigned nbound;
};

/* Each guest holds descriptors: as many as are allowed. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* What the daemon was given is not for the commands that exec: runs. */
static void keep_capabilities_here(void)
{
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

/* 0, 1 and 2 stay reserved, whatever the daemon was started with. */
static void fill_standard_descriptors(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= 2);
    if (fd > 2) {
        close(fd);
    }
}

/* ---- while it runs ---- */

static void on_signal(evutil_socket_t sig, short events, void *arg)
{
    struct process *p = arg;
    (void)events;
    log_info("signal %d: ending", (int)sig);
    service_ends();
    jobs_quit(&p->d);
}

static void log_fault(void *opaque, const char *where, const char *what)
{
    (void)opaque;
    log_warning("%s%s%s", where ? where : "", where ? ": " : "", what);
}

static void log_kept(void *opaque, const char *name)
{
    (void)opaque;
    log_warning("the configuration changes %s, which counts when ferryd is started again", name);
}

static void on_reload(evutil_socket_t sig, short events, void *arg)
{
    struct process *p = arg;
    struct options fresh;
    (void)sig;
    (void)events;
    service_reloads();
    if (options_read(&fresh, p->argc, p->argv, log_fault, NULL)) {
        options_update(&p->options, &fresh, log_kept, NULL);
        log_set_level((enum log_level)p->options.log_level);
        log_info("the configuration was read again");
    } else {
        log_warning("the configuration has faults: nothing of it is changed");
    }
    options_free(&fresh);
    service_is_ready();
}

static void on_watchdog(evutil_socket_t fd, short events, void *arg)
{
    (void)fd;
    (void)events;
    (void)arg;
    service_is_alive();
}

static bool add_event(struct process *p, struct event *event, const struct timeval *period,
                      struct error **errp)
{
    if (!event || event_add(event, period) < 0) {
        error_set(errp, "system-error", "No events for signals");
        return false;
    }
    p->events[p->count++] = event;
    return true;
}

static bool add_events(struct process *p, struct error **errp)
{
    struct event_base *base = loop_base(p->d.loop);
    uint64_t us = service_watchdog_ns() / WATCHDOG_SIGNS / 1000;
    struct timeval period = {.tv_sec = (time_t)(us / 1000000), .tv_usec = (long)(us % 1000000)};
    return add_event(p, evsignal_new(base, SIGTERM, on_signal, p), NULL, errp) &&
           add_event(p, evsignal_new(base, SIGINT, on_signal, p), NULL, errp) &&
           add_event(p, evsignal_new(base, SIGHUP, on_reload, p), NULL, errp) &&
           (!us || add_event(p, event_new(base, -1, EV_PERSIST, on_watchdog, p), &period, errp));
}

/* ---- start and end ---- */

static bool admit(void *opaque, uid_t uid, bool read_only, struct error **errp)
{
    struct ferryd *d = opaque;
    return access_check_session(d->access, uid, read_only, errp);
}

static bool make_server(struct ferryd *d, struct error **errp)
{
    struct qmp_config config = {
        .base = loop_base(d->loop),
        .version = {FERRY_VERSION_MAJOR, FERRY_VERSION_MINOR, FERRY_VERSION_MICRO},
        .package = "ferryd " FERRY_VERSION,
        .commands = commands_all(),
        .opaque = d,
        .admit = admit,
    };
    d->qmp = qmp_server_new(&config, errp);
    return d->qmp != NULL;
}

static int open_socket(struct process *p, const char *name, const struct socket_options *o,
                       int type, struct error **errp)
{
    bool own;
    int fd = socket_take_or_listen(name, o, type, &own, errp);
    if (fd >= 0 && own) {
        p->bound[p->nbound++] = o->path;
    } else if (fd >= 0) {
        log_info("the socket '%s' was passed by a service manager", name);
    }
    return fd;
}

static bool open_control(struct process *p, const char *name, const struct socket_options *o,
                         bool read_only, struct error **errp)
{
    int fd = open_socket(p, name, o, SOCK_STREAM, errp);
    return fd >= 0 && qmp_server_listen(p->d.qmp, fd, read_only, errp);
}

/* The control socket last: whoever finds it finds the others. */
static bool open_sockets(struct process *p, struct error **errp)
{
    const struct options *o = &p->options;
    int guests = open_socket(p, "guests", &o->guests, SOCK_SEQPACKET, errp);
    return guests >= 0 && guests_init(&p->d, guests, errp) &&
           (!o->metrics.path || metrics_serve(&p->d, &o->metrics, errp)) &&
           ((!o->read_only.path && !service_has_socket("read-only")) ||
            open_control(p, "read-only", &o->read_only, true, errp)) &&
           open_control(p, "control", &o->control, false, errp);
}

static bool make_state_dir(const char *path, struct error **errp)
{
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        error_set(errp, "system-error", "%s: %s", path, strerror(errno));
        return false;
    }
    return true;
}

static bool serve(struct process *p, struct error **errp)
{
    struct ferryd *d = &p->d;
    d->loop = loop_new(errp);
    if (!d->loop || !make_state_dir(p->options.state_dir, errp) || !make_server(d, errp) ||
        !open_sockets(p, errp) || !add_events(p, errp)) {
        return false;
    }
    log_info("ferryd " FERRY_VERSION " listens on %s and %s", p->options.control.path,
             p->options.guests.path);
    service_is_ready();
    loop_run(d->loop);
    return true;
}

static void take_away_sockets(struct process *p)
{
    while (p->nbound) {
        unlink(p->bound[--p->nbound]);
    }
}

static void tear_down(struct process *p)
{
    struct ferryd *d = &p->d;
    while (p->count) {
        event_free(p->events[--p->count]);
    }
    if (d->deadline) {
        event_free(d->deadline);
    }
    metrics_end();
    guests_free(d);
    fds_free(d);
    if (d->qmp) {
        qmp_server_free(d->qmp);
    }
    if (d->loop) {
        loop_free(d->loop);
    }
    options_free(&p->options);
}

static void init(struct ferryd *d, const struct options *o)
{
    d->guests_fd = -1;
    d->access = &o->access;
    TAILQ_INIT(&d->entries);
    TAILQ_INIT(&d->live);
    TAILQ_INIT(&d->connections);
    TAILQ_INIT(&d->fds);
}

static void print_fault(void *opaque, const char *where, const char *what)
{
    (void)opaque;
    fprintf(stderr, "ferryd: %s%s%s\n", where ? where : "", where ? ": " : "", what);
}

int main(int argc, char **argv)
{
    static struct process p;
    struct error *err = NULL;
    fill_standard_descriptors();
    p.argc = argc;
    p.argv = argv;
    if (!options_read(&p.options, argc, argv, print_fault, NULL)) {
        return EXIT_USAGE;
    }
    service_open_log();
    log_set_level((enum log_level)p.options.log_level);
    raise_descriptor_limit();
    keep_capabilities_here();
    signal(SIGPIPE, SIG_IGN);
    fault_init();
    init(&p.d, &p.options);
    bool ok = serve(&p, &err);
    if (!ok) {
        log_error("%s", err->text);
        error_free(err);
    }
    take_away_sockets(&p);
    if (!TAILQ_EMPTY(&p.d.live)) {
        _exit(0); /* jobs that did not end in time still use what would be torn down */
    }
    tear_down(&p);
    return ok ? 0 : 1;
}
