/* SPDX-License-Identifier: BSD-3-Clause */
/* ferryd's start and end, as a list of steps. */
#include "daemon/ferryd.h"

#include "common/cleanup.h"
#include "common/log.h"
#include "daemon/commands.h"
#include "protocol/qmp.h"
#include "ram/fault.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define EXIT_USAGE 2

struct options {
    const char *control;
    const char *guests;
    const char *state_dir;
    int log_level;
};

static const struct option long_options[] = {
    {"control", required_argument, NULL, 'c'},
    {"guests", required_argument, NULL, 'g'},
    {"state-dir", required_argument, NULL, 's'},
    {"log-level", required_argument, NULL, 'l'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'v'},
    {0},
};

static const char usage[] =
    "Usage: ferryd [OPTION]...\n"
    "Live-migrates KVM guests, driven by QMP commands on a unix socket.\n"
    "\n"
    "  --control PATH    control socket (/run/ferryd/control.sock)\n"
    "  --guests PATH     socket that libferry connects to (/run/ferryd/guests.sock)\n"
    "  --state-dir DIR   what must outlive the daemon (/var/lib/ferryd)\n"
    "  --log-level NAME  error, warning, info or debug (info)\n"
    "  --help            this text\n"
    "  --version         the version\n";

static void usage_error(const char *text, const char *what)
{
    fprintf(stderr, "ferryd: %s%s; see ferryd --help\n", text, what);
    exit(EXIT_USAGE);
}

static void take_option(struct options *o, int c, char **argv)
{
    switch (c) {
    case 'c':
        o->control = optarg;
        break;
    case 'g':
        o->guests = optarg;
        break;
    case 's':
        o->state_dir = optarg;
        break;
    case 'l':
        o->log_level = log_level_from_name(optarg);
        if (o->log_level < 0) {
            usage_error("unknown log level: ", optarg);
        }
        break;
    case 'h':
        fputs(usage, stdout);
        exit(0);
    case 'v':
        puts("ferryd " FERRY_VERSION);
        exit(0);
    case ':':
        usage_error("an argument is missing to ", argv[optind - 1]);
        break;
    default:
        usage_error("unknown option: ", argv[optind - 1]);
    }
}

static void parse_options(struct options *o, int argc, char **argv)
{
    int c;
    *o = (struct options){.control = "/run/ferryd/control.sock",
                          .guests = "/run/ferryd/guests.sock",
                          .state_dir = "/var/lib/ferryd",
                          .log_level = LOG_LEVEL_INFO};
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
        take_option(o, c, argv);
    }
    if (optind < argc) {
        usage_error("unexpected argument: ", argv[optind]);
    }
}

/* A socket left by a daemon that is gone is in the way; one that answers belongs to another. */
static bool clear_path(const char *path, const struct sockaddr_un *addr, int type,
                       struct error **errp)
{
    struct stat st;
    if (lstat(path, &st) < 0) {
        return true;
    }
    CLEANUP_CLOSE int probe = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!S_ISSOCK(st.st_mode) ||
        connect(probe, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN) {
        error_set(errp, "listen-failed", "%s: %s", path,
                  S_ISSOCK(st.st_mode) ? "another daemon listens there" : "not a socket");
        return false;
    }
    unlink(path);
    return true;
}

/* Who may connect is the file mode's matter: the owner and the group. */
static int listen_unix(const char *path, int type, struct error **errp)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(addr.sun_path)) {
        error_set(errp, "listen-failed", "%s: a socket's path has at most %zu bytes", path,
                  sizeof(addr.sun_path) - 1);
        return -1;
    }
    strcpy(addr.sun_path, path);
    if (!clear_path(path, &addr, type, errp)) {
        return -1;
    }
    CLEANUP_CLOSE int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t mask = umask(0117);
    bool ok =
        fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 128) == 0;
    int err = errno;
    umask(mask);
    if (!ok) {
        error_set(errp, "listen-failed", "%s: %s", path, strerror(err));
        return -1;
    }
    return fd_steal(&fd);
}

/* Each guest holds descriptors: as many as are allowed. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
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

static void on_signal(evutil_socket_t sig, short events, void *arg)
{
    (void)events;
    log_info("signal %d: ending", (int)sig);
    jobs_quit(arg);
}

static bool make_server(struct ferryd *d, struct error **errp)
{
    struct qmp_config config = {
        .base = loop_base(d->loop),
        .version = {FERRY_VERSION_MAJOR, FERRY_VERSION_MINOR, FERRY_VERSION_MICRO},
        .package = "ferryd " FERRY_VERSION,
        .commands = commands_all(),
        .opaque = d,
    };
    d->qmp = qmp_server_new(&config, errp);
    return d->qmp != NULL;
}

static bool open_sockets(struct ferryd *d, const struct options *o, struct error **errp)
{
    int guests = listen_unix(o->guests, SOCK_SEQPACKET, errp);
    if (guests < 0 || !guests_init(d, guests, errp)) {
        return false;
    }
    int control = listen_unix(o->control, SOCK_STREAM, errp);
    return control >= 0 && qmp_server_listen(d->qmp, control, errp);
}

static bool make_state_dir(const char *path, struct error **errp)
{
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        error_set(errp, "system-error", "%s: %s", path, strerror(errno));
        return false;
    }
    return true;
}

static bool serve(struct ferryd *d, const struct options *o, struct error **errp)
{
    d->loop = loop_new(errp);
    if (!d->loop || !make_state_dir(o->state_dir, errp) || !make_server(d, errp) ||
        !open_sockets(d, o, errp)) {
        return false;
    }
    struct event *term = evsignal_new(loop_base(d->loop), SIGTERM, on_signal, d);
    struct event *interrupt = evsignal_new(loop_base(d->loop), SIGINT, on_signal, d);
    event_add(term, NULL);
    event_add(interrupt, NULL);
    log_info("ferryd " FERRY_VERSION " listens on %s and %s", o->control, o->guests);
    loop_run(d->loop);
    event_free(term);
    event_free(interrupt);
    unlink(o->control);
    unlink(o->guests);
    return true;
}

static void tear_down(struct ferryd *d)
{
    if (d->deadline) {
        event_free(d->deadline);
    }
    guests_free(d);
    fds_free(d);
    if (d->qmp) {
        qmp_server_free(d->qmp);
    }
    if (d->loop) {
        loop_free(d->loop);
    }
}

int main(int argc, char **argv)
{
    struct options options;
    struct ferryd d = {.guests_fd = -1};
    struct error *err = NULL;
    parse_options(&options, argc, argv);
    log_set_level((enum log_level)options.log_level);
    fill_standard_descriptors();
    raise_descriptor_limit();
    signal(SIGPIPE, SIG_IGN);
    fault_init();
    TAILQ_INIT(&d.entries);
    TAILQ_INIT(&d.live);
    TAILQ_INIT(&d.connections);
    TAILQ_INIT(&d.fds);
    bool ok = serve(&d, &options, &err);
    if (!ok) {
        log_error("%s", err->text);
        error_free(err);
    }
    if (!TAILQ_EMPTY(&d.live)) {
        _exit(0); /* jobs that did not end in time still use what would be torn down */
    }
    tear_down(&d);
    return ok ? 0 : 1;
}
