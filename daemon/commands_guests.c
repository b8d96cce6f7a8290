/* SPDX-License-Identifier: BSD-3-Clause */
/* Guests and their VMMs: attach, detach, stop, cont; descriptors; the daemon itself. */
#include "daemon/commands.h"

#include "common/cleanup.h"
#include "daemon/query.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- attach and detach ---- */

/* Back into sight: a guest that guest-detach has parked. */
static void unpark(struct ferryd *d, struct qmp_request *req, const char *name)
{
    struct entry *e = entry_find(d, name);
    if (!e || !e->guest) {
        qmp_fail(req, error_new("guest-unknown",
                                "No VMM with a guest named '%s' is connected: start it with this "
                                "daemon's guests socket, or pass its socket as 'fd'",
                                name));
    } else if (!e->parked || !e->guest->ops->comes_back) { /* or it is about to be dropped */
        qmp_fail(req, error_new("guest-exists", "A guest named '%s' is attached already", name));
    } else {
        e->parked = false;
        qmp_event(d->qmp, "GUEST_ATTACHED", json_pack("{s:s}", "guest", name));
        qmp_return(req, NULL);
    }
}

static bool is_seqpacket(int fd)
{
    int type = 0;
    socklen_t length = sizeof(type);
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_SEQPACKET;
}

/* A libferry by its socket, or one that has connected by itself. */
static bool attach_agent(struct ferryd *d, struct qmp_request *req, json_t *args,
                         struct error **errp)
{
    const char *name = json_string_value(json_object_get(args, "name"));
    const char *fdname = json_string_value(json_object_get(args, "fd"));
    if (!fdname) {
        unpark(d, req, name);
        return true;
    }
    int sock = fds_take(d, fdname, errp);
    if (sock >= 0 && !is_seqpacket(sock)) {
        error_set(errp, "fd-unsuitable",
                  "File descriptor '%s' is no SOCK_SEQPACKET unix socket to a libferry", fdname);
        close(sock);
        return false;
    }
    return sock >= 0 && guests_adopt(d, sock, name, req, errp);
}

/* A connected socket; a listener whose queue is full makes nobody wait. */
static int connect_monitor(const char *path, struct error **errp)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) {
        error_set(errp, "guest-invalid", "The path of a QMP socket has at most %zu bytes",
                  sizeof(address.sun_path) - 1);
        return -1;
    }
    strcpy(address.sun_path, path);
    CLEANUP_CLOSE int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0) {
        error_set(errp, "guest-unknown", "No QMP monitor at %s: %s", path, strerror(errno));
        return -1;
    }
    return fd_steal(&sock);
}

static bool attach_qemu(struct ferryd *d, struct qmp_request *req, json_t *args,
                        struct error **errp)
{
    const char *name = json_string_value(json_object_get(args, "name"));
    const struct entry *e = entry_find(d, name);
    if (e && e->guest) {
        error_set(errp, "guest-exists", "A guest named '%s' is attached already", name);
        return false;
    }
    int sock = connect_monitor(json_string_value(json_object_get(args, "qmp")), errp);
    return sock >= 0 && guests_adopt_qemu(d, sock, name, req, errp);
}

/* The drivers, and the argument that is each one's own. */
static const struct {
    const char *name, *argument;
    bool needed;
    bool (*attach)(struct ferryd *d, struct qmp_request *req, json_t *args, struct error **errp);
} drivers[] = {
    {"agent", "fd", false, attach_agent},
    {"qemu", "qmp", true, attach_qemu},
};

static bool check_arguments(size_t driver, json_t *args, struct error **errp)
{
    for (size_t i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++) {
        bool given = json_object_get(args, drivers[i].argument);
        if (given && i != driver) {
            error_set(errp, "driver-argument", "'%s' is for driver %s, and this is driver %s",
                      drivers[i].argument, drivers[i].name, drivers[driver].name);
            return false;
        }
        if (!given && i == driver && drivers[i].needed) {
            error_set(errp, "driver-argument", "Driver %s needs '%s'", drivers[i].name,
                      drivers[i].argument);
            return false;
        }
    }
    return true;
}

static size_t wanted_driver(json_t *args)
{
    const char *name = json_string_value(json_object_get(args, "driver"));
    size_t i = 0;
    while (name && i + 1 < sizeof(drivers) / sizeof(drivers[0]) &&
           strcmp(drivers[i].name, name) != 0) {
        i++; /* the schema lets no other name through */
    }
    return i;
}

static void cmd_guest_attach(struct qmp_request *req, json_t *args, void *opaque)
{
    struct ferryd *d = opaque;
    const char *name = json_string_value(json_object_get(args, "name"));
    size_t driver = wanted_driver(args);
    struct error *err = NULL;
    if (!guest_name_is_good(name)) {
        error_set(&err, "guest-invalid",
                  "A guest's name has 1 to %d printable characters, no spaces or quotes",
                  GUEST_NAME_SIZE - 1);
    }
    if (err || !check_arguments(driver, args, &err) ||
        !drivers[driver].attach(d, req, args, &err)) {
        qmp_fail(req, err);
    }
}

/* A VMM that is asked to be left, and whoever asked for it. */
struct leaving {
    struct ferryd *d;
    struct guest *guest;
    struct qmp_request *req;
};

/* Outside of whatever reads the connection: it ends here.  One that was lost has ended. */
static void end_leaving(void *arg)
{
    struct leaving *l = arg;
    struct entry *e = entry_find(l->d, l->guest->name);
    if (e && e->guest == l->guest) {
        guests_drop(l->d, e);
    }
    qmp_return(l->req, NULL);
    guest_unref(l->guest);
    free(l);
}

/* A VMM that did not answer is left all the same. */
static void left(void *opaque, struct error *err)
{
    struct leaving *l = opaque;
    error_free(err);
    loop_post(l->d->loop, end_leaving, l);
}

static void leave(struct ferryd *d, struct entry *e, struct qmp_request *req)
{
    struct leaving *l = malloc(sizeof(*l));
    if (!l) {
        abort();
    }
    *l = (struct leaving){.d = d, .guest = guest_ref(e->guest), .req = req};
    e->guest->ops->ask(e->guest, GUEST_ASK_LEAVE, (int)param_get(e->params, PARAM_GUEST_TIMEOUT),
                       left, l);
}

static void cmd_guest_detach(struct qmp_request *req, json_t *args, void *opaque)
{
    struct ferryd *d = opaque;
    struct entry *e = command_entry(d, req, args);
    if (!e) {
        return;
    }
    if (entry_is_busy(e)) {
        qmp_fail(req, error_new("migration-active", "There's a migration process in progress"));
        return;
    }
    e->parked = true; /* from now on nobody finds it */
    if (!e->guest->ops->comes_back) {
        leave(d, e, req);
        return;
    }
    qmp_event(d->qmp, "GUEST_DETACHED",
              json_pack("{s:s, s:s}", "guest", e->name, "reason", "guest-detach"));
    qmp_return(req, NULL);
}

static void cmd_query_guests(struct qmp_request *req, json_t *args, void *opaque)
{
    (void)args;
    qmp_return(req, query_all_guests(opaque));
}

/* ---- running and stopping ---- */

static void cmd_query_status(struct qmp_request *req, json_t *args, void *opaque)
{
    struct error *err = NULL;
    struct entry *e = entry_pick_record(opaque, command_guest(args), &err);
    if (e) {
        qmp_return(req, query_guest_status(e));
    } else {
        qmp_fail(req, err);
    }
}

/* What keeps an operator from stopping or continuing a guest in this state; NULL: nothing. */
static const char *obstacle(enum guest_state state)
{
    static const char *const obstacles[GUEST_STATES] = {
        [GUEST_STOPPED] = "is stopped by a migration; migrate_cancel resumes it",
        [GUEST_GIVEN_AWAY] = "was given away to its destination",
        [GUEST_INCOMING] = "waits for an incoming migration",
        [GUEST_SPENT] = "is what a failed migration left: end its VMM and start it anew",
    };
    return obstacles[state];
}

static void ask(struct ferryd *d, struct qmp_request *req, json_t *args, enum guest_request request)
{
    struct entry *e = command_entry(d, req, args);
    if (!e) {
        return;
    }
    enum guest_state state = guest_get_state(e->guest);
    /* Stopped by a migration that has ended since: its resume had failed. */
    if (state == GUEST_STOPPED && request == GUEST_ASK_CONTINUE && !entry_is_busy(e)) {
        request = GUEST_ASK_RESUME;
        state = GUEST_PAUSED;
    }
    const char *why = obstacle(state);
    if (why) {
        qmp_fail(req, error_new("guest-state", "Guest '%s' %s", e->name, why));
        return;
    }
    e->guest->ops->ask(e->guest, request, (int)param_get(e->params, PARAM_GUEST_TIMEOUT),
                       command_done, req);
}

static void cmd_stop(struct qmp_request *req, json_t *args, void *opaque)
{
    ask(opaque, req, args, GUEST_ASK_PAUSE);
}

static void cmd_cont(struct qmp_request *req, json_t *args, void *opaque)
{
    ask(opaque, req, args, GUEST_ASK_CONTINUE);
}

/* ---- descriptors, the daemon ---- */

static void cmd_getfd(struct qmp_request *req, json_t *args, void *opaque)
{
    struct error *err = NULL;
    int fd = qmp_request_take_fd(req);
    if (fd < 0) {
        error_set(&err, "fd-missing", "No file descriptor supplied via SCM_RIGHTS");
    } else {
        fds_add(opaque, json_string_value(json_object_get(args, "fdname")), fd, &err);
    }
    command_done(req, err);
}

static void cmd_closefd(struct qmp_request *req, json_t *args, void *opaque)
{
    struct error *err = NULL;
    fds_close(opaque, json_string_value(json_object_get(args, "fdname")), &err);
    command_done(req, err);
}

static void cmd_quit(struct qmp_request *req, json_t *args, void *opaque)
{
    (void)args;
    qmp_return(req, NULL);
    jobs_quit(opaque);
}

const struct qmp_command commands_guests[] = {
    {"guest-attach", cmd_guest_attach},
    {"guest-detach", cmd_guest_detach},
    {"query-guests", cmd_query_guests},
    {"query-status", cmd_query_status},
    {"stop", cmd_stop},
    {"cont", cmd_cont},
    {"getfd", cmd_getfd},
    {"closefd", cmd_closefd},
    {"quit", cmd_quit},
    {0},
};
