/* SPDX-License-Identifier: BSD-3-Clause */
/* Starting, watching and ending migrations. */
#include "daemon/commands.h"
#include "daemon/query.h"

#include <stdio.h>
#include <string.h>

static void set_busy(struct error **errp)
{
    error_set(errp, "migration-active", "There's a migration process in progress");
}

/* inc includes blk, as in the reference. */
static enum job_disks wanted_disks(json_t *args)
{
    if (json_is_true(json_object_get(args, "inc"))) {
        return JOB_DISKS_INCREMENTAL;
    }
    return json_is_true(json_object_get(args, "blk")) ? JOB_DISKS_WHOLE : JOB_DISKS_NONE;
}

static bool check_disks(const struct guest *g, enum job_disks wanted, struct error **errp)
{
    static const char *const names[] = {[JOB_DISKS_WHOLE] = "blk", [JOB_DISKS_INCREMENTAL] = "inc"};
    if (wanted != JOB_DISKS_NONE && !g->ndisks) {
        error_set(errp, "no-disks", "'%s' asks to migrate disks, and the guest has registered none",
                  names[wanted]);
        return false;
    }
    for (unsigned i = 0; wanted == JOB_DISKS_INCREMENTAL && i < g->ndisks; i++) {
        if (g->disks[i].base_fd < 0) {
            error_set(errp, "disk-no-base",
                      "'inc' asks for what differs from a base, and disk '%s' has none",
                      g->disks[i].name);
            return false;
        }
    }
    return true;
}

/* The VMM has the last word: it refuses a migration that its blocker overtakes. */
static bool check_blockers(const struct guest *g, struct error **errp)
{
    char reasons[GUEST_BLOCKERS_MAX * (GUEST_TEXT_SIZE + 2)] = "";
    for (unsigned i = 0; i < g->nblockers; i++) {
        size_t n = strlen(reasons);
        snprintf(reasons + n, sizeof(reasons) - n, "%s%s", n ? "; " : "", g->blockers[i].reason);
    }
    if (g->nblockers) {
        error_set(errp, "migration-blocked", "Guest '%s' can't be migrated: %s", g->name, reasons);
    }
    return !g->nblockers;
}

static bool check_outgoing(const struct entry *e, json_t *args, struct error **errp)
{
    enum guest_state state = guest_get_state(e->guest);
    if (entry_is_busy(e)) {
        set_busy(errp);
        return false;
    }
    if (state == GUEST_INCOMING) {
        error_set(errp, "guest-incoming", "Guest is waiting for an incoming migration");
        return false;
    }
    if (state == GUEST_SPENT) {
        error_set(errp, "guest-state",
                  "Guest '%s' is what a failed migration left: end its VMM and start it anew",
                  e->name);
        return false;
    }
    if (state == GUEST_GIVEN_AWAY) {
        error_set(errp, "guest-given-away", "Guest '%s' was given away by an earlier migration",
                  e->name);
        return false;
    }
    if (e->capabilities[CAPABILITY_AUTO_CONVERGE] && !e->guest->can_throttle) {
        error_set(errp, "no-throttle",
                  "The VMM of guest '%s' can't throttle it: turn auto-converge off", e->name);
        return false;
    }
    return check_blockers(e->guest, errp) && check_disks(e->guest, wanted_disks(args), errp);
}

static struct endpoint *parse_uri(struct ferryd *d, const struct qmp_request *req, json_t *args,
                                  struct error **errp)
{
    const char *uri = json_string_value(json_object_get(args, "uri"));
    struct fd_finder fds = {.take = fds_take, .opaque = d};
    if (!access_check_uri(d->access, qmp_request_uid(req), uri, errp)) {
        return NULL;
    }
    struct endpoint *endpoint = endpoint_parse(uri, &fds, errp);
    if (endpoint) {
        endpoint_restrict(endpoint, d->access->listen);
    }
    return endpoint;
}

static bool start(struct ferryd *d, struct entry *e, const struct qmp_request *req, json_t *args,
                  enum job_direction direction, struct error **errp)
{
    struct job_options options = {
        .disks = direction == JOB_OUTGOING ? wanted_disks(args) : JOB_DISKS_NONE,
        .stay_paused = json_is_false(json_object_get(args, "autostart")),
    };
    struct endpoint *endpoint = parse_uri(d, req, args, errp);
    return endpoint && jobs_start(d, e, direction, endpoint, &options, errp);
}

static void cmd_migrate(struct qmp_request *req, json_t *args, void *opaque)
{
    struct ferryd *d = opaque;
    struct entry *e = command_entry(d, req, args);
    struct error *err = NULL;
    if (!e) {
        return;
    }
    if (check_outgoing(e, args, &err) && start(d, e, req, args, JOB_OUTGOING, &err)) {
        qmp_return(req, NULL);
    } else {
        qmp_fail(req, err);
    }
}

static void cmd_migrate_incoming(struct qmp_request *req, json_t *args, void *opaque)
{
    struct ferryd *d = opaque;
    struct entry *e = command_entry(d, req, args);
    struct error *err = NULL;
    if (!e) {
        return;
    }
    if (entry_is_busy(e)) {
        set_busy(&err);
    } else if (guest_get_state(e->guest) != GUEST_INCOMING) {
        error_set(&err, "guest-not-incoming",
                  "Guest '%s' does not wait for a migration: its VMM was not started for one",
                  e->name);
    }
    if (!err) {
        jobs_answer_incoming(e); /* the last one's end may not have been heard of yet */
    }
    if (err || !start(d, e, req, args, JOB_INCOMING, &err)) {
        qmp_fail(req, err);
        return;
    }
    e->incoming = req;
}

/* Idle, ended or past the point of no return: all of it is no error to the reference's clients. */
static void cmd_migrate_cancel(struct qmp_request *req, json_t *args, void *opaque)
{
    struct ferryd *d = opaque;
    const char *name = command_guest(args);
    struct error *err = NULL;
    struct entry *e = entry_pick_record(d, name, &err);
    if (!e && (name || strcmp(err->code, "guest-none") != 0)) {
        qmp_fail(req, err);
        return;
    }
    error_free(err);
    if (e && entry_is_busy(e)) {
        job_cancel(e->job);
    }
    qmp_return(req, NULL);
}

static void cmd_migrate_continue(struct qmp_request *req, json_t *args, void *opaque)
{
    struct ferryd *d = opaque;
    const char *state = json_string_value(json_object_get(args, "state"));
    struct entry *e = command_entry(d, req, args); /* without one, args are gone */
    if (!e) {
        return;
    }
    enum job_status status = e->job ? job_get_status(e->job) : JOB_NONE;
    if (strcmp(state, job_status_name(status)) != 0 || status != JOB_PRE_SWITCHOVER) {
        qmp_fail(req, error_new("migration-state", "Migration not in expected state: %s",
                                job_status_name(status)));
        return;
    }
    job_continue(e->job);
    qmp_return(req, NULL);
}

/* Answers for a guest that may be gone. */
static void answer_record(struct qmp_request *req, json_t *args, struct ferryd *d,
                          json_t *(*query)(struct entry *e))
{
    struct error *err = NULL;
    struct entry *e = entry_pick_record(d, command_guest(args), &err);
    if (e) {
        qmp_return(req, query(e));
    } else {
        qmp_fail(req, err);
    }
}

static void cmd_query_migrate(struct qmp_request *req, json_t *args, void *opaque)
{
    answer_record(req, args, opaque, query_migration);
}

static void cmd_query_migrate_history(struct qmp_request *req, json_t *args, void *opaque)
{
    answer_record(req, args, opaque, query_history);
}

/* ---- migrate-resolve ---- */

/*
 * A guest given away before this daemon started: no job knows of it, the VMM is told directly.  The
 * requests that this takes are sent at once, so that nothing can come between them.
 */
struct resolve {
    struct qmp_request *req;
    struct guest *guest;
    unsigned due; /* answers */
    bool release;
    struct error *err; /* the first */
};

static void resolve_done(void *opaque, struct error *err)
{
    struct resolve *r = opaque;
    if (err) {
        error_move(&r->err, err);
    }
    if (--r->due) {
        return;
    }
    if (r->err) {
        qmp_fail(r->req, r->err);
    } else {
        r->guest->released = r->release;
        qmp_return(r->req, NULL);
    }
    guest_unref(r->guest);
    free(r);
}

static void resolve_orphan(struct entry *e, struct qmp_request *req, bool to_source)
{
    int timeout_ms = (int)param_get(e->params, PARAM_GUEST_TIMEOUT);
    struct resolve *r = malloc(sizeof(*r));
    if (!r) {
        abort();
    }
    *r = (struct resolve){
        .req = req, .guest = guest_ref(e->guest), .due = to_source ? 2 : 1, .release = !to_source};
    if (to_source) {
        e->guest->ops->ask(e->guest, GUEST_ASK_TAKE_BACK, timeout_ms, resolve_done, r);
        e->guest->ops->ask(e->guest, GUEST_ASK_RESUME, timeout_ms, resolve_done, r);
    } else {
        e->guest->ops->ask(e->guest, GUEST_ASK_RELEASE, timeout_ms, resolve_done, r);
    }
}

static void cmd_migrate_resolve(struct qmp_request *req, json_t *args, void *opaque)
{
    struct ferryd *d = opaque;
    struct error *err = NULL;
    struct entry *e = entry_pick_record(d, command_guest(args), &err);
    const char *outcome = json_string_value(json_object_get(args, "outcome"));
    bool to_source = strcmp(outcome, "source") == 0;
    if (!e) {
        qmp_fail(req, err);
    } else if (entry_is_orphan(e)) {
        resolve_orphan(e, req, to_source);
    } else if (e->job && entry_is_busy(e) && atomic_load(&e->job->handover) == HANDOVER_UNDECIDED) {
        job_resolve(e->job, to_source ? RESOLVE_SOURCE : RESOLVE_DESTINATION);
        qmp_return(req, NULL);
    } else {
        qmp_fail(req, error_new("handover-decided", "The handover of guest '%s' is not undecided",
                                e->name));
    }
}

const struct qmp_command commands_migration[] = {
    {"migrate", cmd_migrate},
    {"migrate-incoming", cmd_migrate_incoming},
    {"migrate_cancel", cmd_migrate_cancel},
    {"migrate-continue", cmd_migrate_continue},
    {"migrate-resolve", cmd_migrate_resolve},
    {"query-migrate", cmd_query_migrate},
    {"query-migrate-history", cmd_query_migrate_history},
    {0},
};
