/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is done when a guest is attached: a dozen questions to its monitor and to /proc, in turn, on
 * a thread of its own.  The worker's last act makes the main thread look: it sends one command
 * more, or closes the connection.
 */
#include "qemu/internal.h"

#include "common/cleanup.h"
#include "guest/borrow.h"
#include "guest/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* For each answer: a monitor that is asked while QEMU is busy may take its time. */
#define ANSWER_MS 5000

/* Older ones were never tried. */
#define VERSION_MIN CLIENT_VERSION(7, 2)

/* ---- which process ---- */

int qemu_vcpu_threads(struct qemu *q, pid_t *tids, unsigned room, const struct wait *w,
                      struct error **errp)
{
    json_t *cpus = qemu_call(q, "query-cpus-fast", NULL, w, errp);
    if (!cpus) {
        return -1;
    }
    unsigned n = 0;
    size_t i;
    json_t *cpu;
    json_array_foreach(cpus, i, cpu)
    {
        if (n < room) {
            tids[n++] = (pid_t)json_integer_value(json_object_get(cpu, "thread-id"));
        }
    }
    json_decref(cpus);
    return (int)n;
}

/*
 * The process whose threads the vCPUs are.  As a rule it is the one that listens on the socket;
 * where that was made by somebody else for it (a manager that passes listening sockets on), the
 * threads say.  A monitor must not point at processes that are not its own user's.
 */
static bool find_process(struct qemu *q, const struct wait *w, struct error **errp)
{
    pid_t tid = 0;
    char path[64];
    struct stat st;
    if (qemu_vcpu_threads(q, &tid, 1, w, errp) < 0) {
        return false;
    }
    int64_t group = tid > 0 ? process_status(tid, tid, "Tgid:", 10) : 0;
    pid_t pid = group > 0 ? (pid_t)group : 0;
    snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    if (!pid || stat(path, &st) < 0 || (q->peer.uid != 0 && st.st_uid != q->peer.uid)) {
        error_set(errp, "guest-invalid",
                  "Guest '%s': QEMU's process can't be found: the QMP socket is of process %d, and "
                  "its vCPU is said to be thread %d. ferryd must see QEMU's process IDs (the same "
                  "PID namespace)",
                  q->guest.name, (int)q->peer.pid, (int)tid);
        return false;
    }
    q->guest.pid = pid;
    return true;
}

/* Whether `value` (NULL: anything) follows `option` on the process's command line
 * (proc_pid_cmdline(5)). */
static bool was_started_with(pid_t pid, const char *option, const char *value)
{
    char path[64];
    CLEANUP_FREE char *word = NULL;
    size_t room = 0;
    bool follows = false, found = false;
    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    FILE *words = fopen(path, "re");
    while (words && !found && getdelim(&word, &room, '\0', words) > 0) {
        found = follows && (!value || strcmp(word, value) == 0);
        follows = word[0] == '-' && strcmp(word + 1 + (word[1] == '-'), option) == 0;
    }
    if (words) {
        fclose(words);
    }
    return found;
}

/* ---- its state ---- */

static enum guest_state state_of(const char *status)
{
    static const struct {
        const char *status;
        enum guest_state state;
    } known[] = {
        {"running", GUEST_RUNNING},
        {"suspended", GUEST_RUNNING},
        {"inmigrate", GUEST_INCOMING},
        {"postmigrate", GUEST_GIVEN_AWAY},
    };
    for (size_t i = 0; status && i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(status, known[i].status) == 0) {
            return known[i].state;
        }
    }
    return GUEST_PAUSED;
}

static bool check_incoming(const struct qemu *q, struct error **errp)
{
    if (!was_started_with(q->guest.pid, "incoming", "defer")) {
        error_set(
            errp, "guest-unsuitable",
            "Guest '%s': QEMU waits for a migration of its own. Start it with -incoming defer",
            q->guest.name);
        return false;
    }
    return true;
}

/*
 * An incoming guest is not to run before it is told to, with or without -S.  What it needs to load
 * is set here already, not in the downtime.  It may wait for long, and who has it next must find
 * what was set before: a guardian sees to that.
 */
static bool hold_incoming(struct qemu *q, const struct wait *w, struct error **errp)
{
    return guest_get_state(&q->guest) != GUEST_INCOMING ||
           (qemu_do(q, "stop", NULL, w, errp) && qemu_settings_read(q, false, w, errp) &&
            guardian_post(&q->guardian, client_socket(q->client), errp) &&
            qemu_entrust(q, qemu_only_settings, errp) && qemu_settings_set(q, false, w, errp));
}

/* On the main thread, so that it stands in its place among the events. */
static void note_status(void *opaque, json_t *reply)
{
    struct qemu *q = opaque;
    enum guest_state state = state_of(json_string_value(json_object_get(reply, "status")));
    /* One that was handed over and runs here again, by an operator's word, was announced there. */
    atomic_store(&q->announce_due, state == GUEST_GIVEN_AWAY);
    qemu_set_state(q, state);
}

static bool find_state(struct qemu *q, const struct wait *w, struct error **errp)
{
    struct client_command command = {.name = "query-status", .seen = note_status, .opaque = q};
    json_t *reply = client_call(q->client, &command, w, errp);
    json_decref(reply);
    return reply && (guest_get_state(&q->guest) != GUEST_INCOMING || check_incoming(q, errp));
}

/* Whether a guest that stands still came here so: its ferryd may be another one than then. */
static bool find_images(struct qemu *q, const struct wait *w, struct error **errp)
{
    return q->version >= QEMU_INACTIVATES_TWICE || guest_get_state(&q->guest) != GUEST_PAUSED ||
           !was_started_with(q->guest.pid, "incoming", NULL) || qemu_find_images(q, w, errp);
}

/* ---- what it is ---- */

/* A monitor greets whoever it serves; others it lets connect, and says nothing. */
static unsigned read_greeting(struct qemu *q, const struct wait *w, struct error **errp)
{
    struct error *err = NULL;
    unsigned version = client_greet(q->client, w, &err);
    if (err && strcmp(err->code, "guest-timeout") == 0) {
        error_set(errp, "guest-timeout",
                  "Guest '%s': the QMP socket gave no greeting within %d ms. A QMP socket serves "
                  "one client at a time: give QEMU a second -qmp for ferryd, or end the other one",
                  q->guest.name, w->timeout_ms);
        error_free(err);
    } else if (err) {
        error_move(errp, err);
    }
    return version;
}

static bool check_version(struct qemu *q, const struct wait *w, struct error **errp)
{
    q->version = read_greeting(q, w, errp);
    if (q->version && q->version < VERSION_MIN) {
        error_set(errp, "guest-unsuitable", "Guest '%s': QEMU %u.%u is older than %u.%u",
                  q->guest.name, q->version / 1000, q->version % 1000, VERSION_MIN / 1000,
                  VERSION_MIN % 1000);
        return false;
    }
    return q->version;
}

static json_t *machine_property(struct qemu *q, const char *property, const struct wait *w,
                                struct error **errp)
{
    return qemu_call(q, "qom-get",
                     json_pack("{s:s, s:s}", "path", "/machine", "property", property), w, errp);
}

/* "pc-i440fx-7.2-machine" goes over as "qemu:pc-i440fx-7.2". */
static bool find_machine(struct qemu *q, const struct wait *w, struct error **errp)
{
    static const char suffix[] = "-machine";
    json_t *reply = machine_property(q, "type", w, errp);
    const char *type = json_string_value(reply);
    size_t length = type ? strlen(type) : 0;
    if (length > sizeof(suffix) - 1 && strcmp(type + length - (sizeof(suffix) - 1), suffix) == 0) {
        length -= sizeof(suffix) - 1;
    }
    if (type) {
        snprintf(q->guest.machine, sizeof(q->guest.machine), "qemu:%.*s", (int)length, type);
    }
    if (reply && !type) {
        error_set(errp, "guest-protocol", "Guest '%s': QEMU's machine has no type", q->guest.name);
    }
    json_decref(reply);
    if (type && !guest_name_is_good(q->guest.machine)) {
        error_set(errp, "guest-invalid", "Guest '%s': QEMU's machine has no printable name",
                  q->guest.name);
        return false;
    }
    return type;
}

/* The end of the device stream is found by the description that stands there. */
static bool check_description(struct qemu *q, const struct wait *w, struct error **errp)
{
    json_t *reply = machine_property(q, "suppress-vmdesc", w, errp);
    bool suppressed = json_is_true(reply);
    json_decref(reply);
    if (suppressed) {
        error_set(errp, "guest-unsuitable",
                  "Guest '%s': QEMU was told to leave the description of its state away. Start it "
                  "with -machine suppress-vmdesc=off",
                  q->guest.name);
    }
    return reply && !suppressed;
}

/* vCPUs can be held where the kernel runs them. */
static bool find_accelerator(struct qemu *q, const struct wait *w, struct error **errp)
{
    json_t *reply = qemu_call(q, "query-kvm", NULL, w, errp);
    q->guest.can_throttle = json_is_true(json_object_get(reply, "enabled"));
    json_decref(reply);
    return reply;
}

static bool negotiate(struct qemu *q, const struct wait *w, struct error **errp)
{
    return qemu_do(q, "qmp_capabilities", NULL, w, errp);
}

static bool check_tracking(struct qemu *q, const struct wait *w, struct error **errp)
{
    (void)w;
    return borrow_permitted(q->guest.pid, errp) && wptrack_supported(errp);
}

/* ---- the worker ---- */

static bool attach(struct qemu *q, struct error **errp)
{
    static bool (*const steps[])(struct qemu *, const struct wait *, struct error **) = {
        check_version,     negotiate,        find_process,  check_tracking,    find_state,
        find_images,       qemu_check_idle,  find_machine,  check_description, qemu_check_hazards,
        qemu_discover_ram, find_accelerator, hold_incoming,
    };
    struct wait w = {.cancel_fd = -1, .timeout_ms = ANSWER_MS, .what = "QEMU"};
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        if (!steps[i](q, &w, errp)) {
            return false;
        }
    }
    q->guest.can_announce = true;
    q->guest.tracking = "pagemap-scan";
    return true;
}

static void *work(void *arg)
{
    struct qemu *q = arg;
    struct client_command command = {.name = "query-status"};
    struct wait w = {.cancel_fd = -1, .timeout_ms = ANSWER_MS, .what = "QEMU"};
    bool ok = attach(q, &q->error);
    if (!ok) {
        qemu_undo_settings(q, &w);
    }
    if (!ok && (client_is_lost(q->client) || guardian_is_on(&q->guardian))) {
        return NULL; /* given up, or soon: what is not put back is the guardian's */
    }
    atomic_store(&q->worker_done, true);
    if (ok) {
        client_tell(q->client, &command);
    } else {
        client_hang_up(q->client);
    }
    return NULL;
}

bool qemu_attach_begin(struct qemu *q, struct error **errp)
{
    if (pthread_create(&q->worker, NULL, work, q) != 0) {
        error_set(errp, "system-error", "No thread to attach guest '%s'", q->guest.name);
        return false;
    }
    q->has_worker = true;
    return true;
}
