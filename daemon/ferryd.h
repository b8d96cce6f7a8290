/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The daemon: the guests it knows and what each is doing.  Everything here belongs to the main
 * thread; jobs' threads reach it by loop_post.
 */
#ifndef FERRY_DAEMON_FERRYD_H
#define FERRY_DAEMON_FERRYD_H

#include "daemon/access.h"
#include "daemon/job.h"
#include "daemon/loop.h"
#include "daemon/params.h"
#include "daemon/totals.h"
#include "guest/agent.h"

#include <sys/queue.h>

struct event;
struct qmp_request;
struct qmp_server;

/*
 * A guest by name.  It outlives the connection of its VMM while there is a job to tell about, and
 * the connection of its VMM outlives guest-detach (then it is parked: known, but not shown).
 */
struct entry {
    char name[GUEST_NAME_SIZE];
    struct guest *guest; /* NULL: its VMM is not connected */
    bool parked;         /* by guest-detach */
    struct params *params;
    bool capabilities[CAPABILITY_COUNT];
    struct job *job;              /* running, or the last one; NULL: none yet */
    struct qmp_request *incoming; /* a migrate-incoming that waits for its listener */
    TAILQ_ENTRY(entry) link;      /* those attached last come last */
};

TAILQ_HEAD(entries, entry);

/* A job whose thread has not ended. */
struct live_job {
    struct job *job;
    TAILQ_ENTRY(live_job) link;
};

struct connection;
struct named_fd;

struct ferryd {
    struct loop *loop;
    struct qmp_server *qmp;
    const struct access *access;
    struct totals totals;
    struct entries entries;
    TAILQ_HEAD(live_jobs, live_job) live;
    TAILQ_HEAD(connections, connection) connections;
    TAILQ_HEAD(named_fds, named_fd) fds;
    unsigned gone;      /* entries whose VMM is not connected */
    unsigned strangers; /* connections that have not introduced a guest */
    int guests_fd;
    struct event *guests_event;
    struct event *tick;
    struct event *deadline; /* of quitting */
    bool quitting;
};

/* ---- guests.c ---- */

/* Listens for VMMs on `fd` (taken over) and starts the timers. */
bool guests_init(struct ferryd *d, int fd, struct error **errp);
void guests_free(struct ferryd *d);

/*
 * Takes over a socket that is connected to a libferry, or to a QEMU's QMP monitor; `attach` (of the
 * first may be NULL) is answered when the guest is known.  False with an error: it is not taken up,
 * and `attach` is the caller's to answer.
 */
bool guests_adopt(struct ferryd *d, int sock, const char *name, struct qmp_request *attach,
                  struct error **errp);
bool guests_adopt_qemu(struct ferryd *d, int sock, const char *name, struct qmp_request *attach,
                       struct error **errp);

/* Ends the connection to a guest's VMM. */
void guests_drop(struct ferryd *d, struct entry *e);

/* ---- entries.c ---- */

struct entry *entry_find(struct ferryd *d, const char *name);

/* A guest that is known from now on, not attached yet. */
struct entry *entry_new(struct ferryd *d, const char *name);
void entry_free(struct ferryd *d, struct entry *e);

/* The guest's VMM has come; takes a reference. */
void entry_attach(struct ferryd *d, struct entry *e, struct guest *g);
/* The guest's VMM has gone: the entry, too, unless there is a job to tell about. */
void entry_detach(struct ferryd *d, struct entry *e);

/* The attached guest of that name; NULL: the only one.  Errors: "guest-unknown", "guest-ambiguous".
 */
struct entry *entry_pick(struct ferryd *d, const char *name, struct error **errp);

/* The same for questions: a guest that is gone still answers, alone the one that left last. */
struct entry *entry_pick_record(struct ferryd *d, const char *name, struct error **errp);

/* Whether a job of this guest has not reached its end. */
bool entry_is_busy(const struct entry *e);

/* Whether its guest was given away before this daemon started, and nobody knows if it arrived. */
bool entry_is_orphan(const struct entry *e);

/* ---- jobs.c ---- */

/* Starts a migration; takes over `endpoint`.  The entry must not be busy. */
bool jobs_start(struct ferryd *d, struct entry *e, enum job_direction direction,
                struct endpoint *endpoint, const struct job_options *options, struct error **errp);

/* Answers a migrate-incoming that waits, with what has become of its job. */
void jobs_answer_incoming(struct entry *e);

/* Cancels all jobs and ends the loop when they have ended, or after a while. */
void jobs_quit(struct ferryd *d);

/* ---- fds.c ---- */

bool fds_add(struct ferryd *d, const char *name, int fd, struct error **errp);
bool fds_close(struct ferryd *d, const char *name, struct error **errp);
/* For fd:NAME and fd:NUMBER; struct fd_finder. */
int fds_take(void *opaque, const char *name, struct error **errp);
void fds_free(struct ferryd *d);

#endif
