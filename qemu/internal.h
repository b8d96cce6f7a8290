/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The qemu driver inside.  qemu.c has the guest and its life, attach.c what is done when it is
 * attached, discover.c its RAM (mtree.c what a monitor prints of it), hazards.c what can't be
 * migrated from outside, images.c its disk images, tracking.c, source.c and destination.c what jobs
 * ask, migration.c the VMM's own migration with its settings (settings.c), its stream (vmstate.c),
 * what a job leaves to be done (settle.c) and who does it if ferryd dies (guardian.c), client.c the
 * monitor.
 */
#ifndef FERRY_QEMU_INTERNAL_H
#define FERRY_QEMU_INTERNAL_H

#include "guest/vcpus.h"
#include "guest/wptrack.h"
#include "qemu/client.h"
#include "qemu/guardian.h"
#include "qemu/qemu.h"
#include "qemu/vmstate.h"

#include <pthread.h>
#include <sys/socket.h>

/* Older ones abort when a guest leaves that has arrived paused and was not told to run since: the
 * images that they would let go are not theirs yet (block-active.c of QEMU's migration tells). */
#define QEMU_INACTIVATES_TWICE CLIENT_VERSION(10, 0)

/* How the VMM's own migration goes, by its MIGRATION events. */
enum qemu_migration {
    QEMU_MIGRATION_NONE,
    QEMU_MIGRATION_RUNNING, /* anything that is none of the others */
    QEMU_MIGRATION_PRE_SWITCHOVER,
    QEMU_MIGRATION_DEVICE,
    QEMU_MIGRATION_COMPLETED,
    QEMU_MIGRATION_FAILED, /* or cancelled */
};

/* Whether the guest is to run again. */
enum qemu_resume {
    QEMU_RESUME_NONE,
    QEMU_RESUME_DUE,
    QEMU_RESUME_ASKED, /* it was told, and has not answered */
};

/* What a command's success makes of the guest. */
struct qemu_mark {
    struct qemu *qemu;
    enum guest_state state;
};

struct qemu {
    struct guest guest; /* first: qemu_of */
    struct guest_events events;
    struct client *client;
    struct ucred peer; /* of the socket */
    unsigned version;  /* CLIENT_VERSION; constant once attached, as what follows */
    uint64_t address[GUEST_BLOCKS_MAX]; /* where the VMM has its blocks */
    json_t *memory;                     /* what it says of its RAM */
    struct qemu_mark marks[GUEST_STATES];

    /* Attaching: the worker's until it ends. */
    pthread_t worker;
    bool has_worker; /* the main thread's */
    bool attached;   /* the main thread's */
    unsigned told;   /* events since it was looked at; the main thread's */
    _Atomic bool worker_done;
    struct error *error; /* why the guest is refused; the main thread's once worker_done */

    /* Written by the main thread as events come, but for the resets of a job that begins one. */
    _Atomic int migration;       /* enum qemu_migration */
    _Atomic uint64_t stopped_ns; /* when the guest stopped last; 0: it has not */
    _Atomic bool stopping;       /* by a migration: a STOP event is the job's */
    _Atomic bool announce_due;   /* at the next RESUME */
    _Atomic bool draining;       /* stopped for a moment, which nobody is told of */
    _Atomic bool stop_wanted;    /* an operator has asked for it, and it was not seen yet */
    _Atomic bool cancel_due;     /* its migration is to be cancelled as soon as that is safe */
    _Atomic bool migrating;      /* the VMM was told to migrate, and this was not undone */
    _Atomic bool busy;           /* a job has the guest's RAM */

    /* What the last job has left (settle.c). */
    _Atomic bool job_left;
    _Atomic bool put_back_due; /* the settings were sent, and not answered */
    _Atomic int resume;        /* enum qemu_resume */
    _Atomic bool stand_due;    /* a paused guest counts as stopped by its migration yet */
    _Atomic uint64_t resume_until_ns;

    _Atomic bool images_inactive; /* since the guest came, paused: it has not run here */

    pthread_mutex_t lock;      /* settings, announce, must_stand with the `stop` it brings about */
    struct settings *settings; /* to be put back; NULL: nothing was changed */
    struct guest_announce announce;
    bool must_stand; /* the state is loaded, and the guest is not ours to run yet */

    struct wptrack *track;
    struct vcpus *vcpus;     /* NULL: not throttled */
    json_t *devices;         /* types by path, as the job has found them; NULL: none has */
    bool drains;             /* direct I/O: what is in flight must land before a page is read */
    _Atomic bool was_paused; /* also for an operator, when it was about to be stopped */
    bool loaded;             /* an incoming guest's state; it is not to be run unless started */
    struct vmstate state;
    struct guardian guardian;
};

static inline struct qemu *qemu_of(struct guest *g)
{
    return (struct qemu *)g;
}

extern const struct guest_ops qemu_ops;

/* ---- qemu.c ---- */

/* Executes a command without arguments, or with (taken over). The job's thread, or the worker. */
json_t *qemu_call(struct qemu *q, const char *name, json_t *arguments, const struct wait *w,
                  struct error **errp);
/* The same for a command whose answer says nothing. */
bool qemu_do(struct qemu *q, const char *name, json_t *arguments, const struct wait *w,
             struct error **errp);
/* Without waiting, and without an answer.  Any thread. */
void qemu_tell(struct qemu *q, const char *name);
/* As qemu_do; once it is done the guest counts as being in `state`. */
bool qemu_do_state(struct qemu *q, const char *name, enum guest_state state, const struct wait *w,
                   struct error **errp);
/* The guest counts as being in `state` as soon as the monitor answers; without waiting. */
void qemu_tell_state(struct qemu *q, enum guest_state state);
/* How the guest is to be announced once it runs here.  Any thread. */
void qemu_set_announce(struct qemu *q, const struct guest_announce *how);
json_t *qemu_announce_arguments(struct qemu *q);
/* What the human monitor says, the caller's; NULL with an error. */
char *qemu_human(struct qemu *q, const char *line, const struct wait *w, struct error **errp);
void qemu_set_state(struct qemu *q, enum guest_state state); /* main thread */
/* A client_command's `seen`, whose opaque is one of q->marks. */
void qemu_seen(void *opaque, json_t *reply);

/* ---- settle.c ---- */

/*
 * Has the guardian give these commands, up to a NULL, close the stream's descriptor if QEMU has it
 * yet, and put the settings back, if ferryd ends.  QEMU takes settings only when its migration has
 * ended: qemu_announce_self, wherever it is in the list, is given after that.
 */
bool qemu_entrust(struct qemu *q, const char *const commands[], struct error **errp);
extern const char qemu_announce_self[];
extern const char *const qemu_only_settings[];

/* The job that posted the guardian is through with QEMU.  Waits for a moment, so that who sees the
 * job's end finds QEMU as it was; one that is not through itself is left to qemu_settle.  The job's
 * thread. */
void qemu_settle_begin(struct qemu *q, const struct wait *w);
/* The same for a guest that has come, or was given up. */
void qemu_settle_incoming(struct guest *g, bool started, const struct wait *w);
/* Puts the settings back, and ends the guardian behind that.  The job's thread, or the worker. */
void qemu_undo_settings(struct qemu *q, const struct wait *w);
/* Goes on with it: now and then, and when QEMU has told something.  Main thread. */
void qemu_settle(struct qemu *q);
/* The guest is to run again as soon as QEMU lets it. */
void qemu_resume_later(struct qemu *q);
/* It does, or is not to any more. */
void qemu_resume_is_off(struct qemu *q);
/* The guest, which was paused, is to be left so as soon as QEMU is through with it. */
void qemu_stand_later(struct qemu *q);
/* Whether a paused guest's images are to be taken back: QEMU has let go of them. */
bool qemu_images_are_due(const struct qemu *q);

/* ---- attach.c ---- */

/* Starts to attach; what comes of it is seen by the guest's `read`.  Main thread. */
bool qemu_attach_begin(struct qemu *q, struct error **errp);

/* The thread IDs of the vCPUs, at most `room`; -1 with an error. */
int qemu_vcpu_threads(struct qemu *q, pid_t *tids, unsigned room, const struct wait *w,
                      struct error **errp);

/* ---- discover.c ---- */

/* Finds the RAM blocks, their files and their addresses. */
bool qemu_discover_ram(struct qemu *q, const struct wait *w, struct error **errp);

/* Others may have the files of RAM from now on. */
void qemu_unlock_ram(const struct qemu *q);

/* Whether RAM was plugged or unplugged since. */
bool qemu_check_ram(struct qemu *q, const struct wait *w, struct error **errp);

/* ---- hazards.c ---- */

/* Refuses what can't be migrated from outside: devices whose writes nobody sees.  Finds out whether
 * I/O may land in RAM long after the kernel was told of the write (drains). */
bool qemu_check_hazards(struct qemu *q, const struct wait *w, struct error **errp);

/* The part of it that is quick: devices plugged or unplugged since it was asked last (q->devices).
 */
bool qemu_check_devices(struct qemu *q, const struct wait *w, struct error **errp);
void qemu_forget_devices(struct qemu *q);
/* And what copies a disk meanwhile. */
bool qemu_check_block_jobs(struct qemu *q, const struct wait *w, struct error **errp);

/* Refuses a guest that a migration of the VMM's own has. */
bool qemu_check_idle(struct qemu *q, const struct wait *w, struct error **errp);
/* Refuses a guest that the VMM does not let go, with its reasons. */
bool qemu_check_blockers(struct qemu *q, const struct wait *w, struct error **errp);

/* ---- images.c ---- */

/*
 * Calls `look` for each line of the descriptions of the VMM's open files, until it returns true: 1,
 * 0 when it never did, or -1 when not all could be read.  There may be very many files: this ends
 * early when the monitor is lost, for which the main thread may be waiting.
 */
typedef bool qemu_look(const char *line, void *arg);
int qemu_look_at_files(const struct qemu *q, qemu_look *look, void *arg);

/*
 * Finds out whether the images of a guest that came paused are inactive yet (images_inactive).
 * Where that is not known they count as inactive: the guest then needs a `cont` before it can be
 * migrated, where a wrong guess the other way makes QEMU abort.
 */
bool qemu_find_images(struct qemu *q, const struct wait *w, struct error **errp);

/* ---- settings.c ---- */

/* Remembers what is set. */
bool qemu_settings_read(struct qemu *q, bool outgoing, const struct wait *w, struct error **errp);
/* Sets what a migration of device state alone takes, after that. */
bool qemu_settings_set(struct qemu *q, bool outgoing, const struct wait *w, struct error **errp);
/* The commands that put back what is remembered; the caller's. */
json_t *qemu_settings_undone_by(struct qemu *q);

/* Puts the settings back, if they were changed; without waiting.  Any thread. */
void qemu_settings_restore(struct qemu *q);
/* The same, and waits until it is done, or for as long as the wait says: false.  The job's thread,
 * or the worker. */
bool qemu_settings_put_back(struct qemu *q, const struct wait *w);
/* Forgets them. */
void qemu_settings_drop(struct qemu *q);

/* ---- tracking.c, source.c, destination.c ---- */

bool qemu_log_start(struct guest *g, const struct wait *w, struct error **errp);
void qemu_log_stop(struct guest *g, const struct wait *w);
bool qemu_log_sync(struct guest *g, uint64_t *const dirty[], const struct wait *w,
                   struct error **errp);
bool qemu_log_settle(struct guest *g, const struct wait *w, struct error **errp);
bool qemu_log_clear(struct guest *g, unsigned block, uint64_t first, uint64_t count,
                    const struct wait *w, struct error **errp);
void qemu_disk_sync(struct guest *g, uint64_t *const dirty[]);
bool qemu_throttle(struct guest *g, unsigned percent, const struct wait *w, struct error **errp);

/* The throttle ends; a vCPU that is held would be long in stopping. */
void qemu_release_vcpus(struct qemu *q);

bool qemu_prepare(struct guest *g, const struct guest_announce *announce, const struct wait *w,
                  struct error **errp);
bool qemu_begin_stop(struct guest *g, const struct wait *w, struct error **errp);
bool qemu_stop(struct guest *g, bool *was_paused, uint64_t *stopped_ns, const struct wait *w,
               struct error **errp);
bool qemu_resume(struct guest *g, const struct wait *w, struct error **errp);
bool qemu_begin_save(struct guest *g, const struct wait *w, struct error **errp);
int qemu_save_state(struct guest *g, const struct wait *w, struct error **errp);
bool qemu_give_away(struct guest *g, const uint8_t job[GUEST_UUID_SIZE], const struct wait *w,
                    struct error **errp);
bool qemu_take_back(struct guest *g, const struct wait *w, struct error **errp);
bool qemu_release(struct guest *g, const struct wait *w, struct error **errp);

bool qemu_load_state(struct guest *g, int fd, const struct wait *w, struct error **errp);
bool qemu_start(struct guest *g, bool paused, const struct guest_announce *announce,
                const struct wait *w, struct error **errp);
/* The state that was loaded is not to be used: the guest stands still from here on, unless somebody
 * else has QEMU run it. */
void qemu_give_up(struct qemu *q);
void qemu_notify(struct guest *g, enum guest_migration status, bool outgoing);

/* ---- migration.c ---- */

/* What the stream's descriptor is called in the monitor. */
#define QEMU_STREAM_NAME "ferry-state"
#define QEMU_STREAM_URI  "fd:" QEMU_STREAM_NAME

/*
 * Makes q->state's pair and hands the VMM its end, which QEMU_STREAM_URI names.  QEMU may hold its
 * locks while it writes, and then answers no command before it is read: until qemu_close_stream
 * what comes is taken whatever is waited for, at most `max` bytes.
 */
bool qemu_open_stream(struct qemu *q, size_t max, const struct wait *w, struct error **errp);
/* Closes this end, and the VMM's if it has not used it. */
void qemu_close_stream(struct qemu *q);

/* Whether it has told of a migration since the stream was opened. */
bool qemu_migration_has_begun(const struct qemu *q);
/* Whether that has ended, well or not. */
bool qemu_migration_is_over(const struct qemu *q);
/*
 * Cancels the migration if cancel_due, and if it is paused, or past that.  A QEMU that is told to
 * when it has stopped its guest and is about to pause waits for ever: it takes that for cancelled,
 * and no word ends its pause (seen with 7.2: migration_maybe_pause).  Where it does not come to the
 * pause it fails by itself, for its stream is closed.  Any thread.
 */
void qemu_cancel_if_safe(struct qemu *q);
/* Waits for what the monitor's word brings about, or for the loss of the VMM.  `what` it did not do
 * in time, for the error. */
bool qemu_await(struct qemu *q, bool (*reached)(const struct qemu *q), const char *what,
                const struct wait *w, struct error **errp);
/* Waits for the migration's end, or for the loss of the VMM. */
bool qemu_await_end(struct qemu *q, const struct wait *w, struct error **errp);
/* Why it failed, in the VMM's words; `what` says of what, "did not ...". */
void qemu_set_failed(struct qemu *q, const char *what, struct error **errp);

#endif
