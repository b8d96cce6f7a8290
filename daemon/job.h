/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A job is one migration of one guest, outgoing or incoming, with a thread of its own.
 *
 * The thread is the only writer of the job's status and counters.  Others read them, and reach the
 * thread through its mailbox: a request to cancel, to abort (the guest was lost), to go on from
 * pre-switchover, to settle an undecided handover.  Status changes go through job_set_status, which
 * holds them to the transition table, tells the VMM and posts the event.  The terminal status is
 * set when all is cleaned up: whoever sees `failed` finds the guest running again.
 *
 * A job lives until its last reference is dropped: the thread has one, the guest's entry another,
 * for query-migrate keeps answering after the end.
 */
#ifndef FERRY_DAEMON_JOB_H
#define FERRY_DAEMON_JOB_H

#include "common/error.h"
#include "common/log.h"
#include "common/wait.h"
#include "daemon/history.h"
#include "daemon/loop.h"
#include "daemon/params.h"
#include "disk/save.h"
#include "guest/guest.h"
#include "ram/load.h"
#include "ram/save.h"
#include "transports/transport.h"

#include <pthread.h>
#include <stdatomic.h>

enum job_status {
    JOB_NONE,           /* made, not started */
    JOB_SETUP,          /* connecting or listening, handshake, attaching */
    JOB_ACTIVE,         /* rounds; the guest runs at the source */
    JOB_PRE_SWITCHOVER, /* stopped, waits for migrate-continue */
    JOB_DEVICE,         /* stopped: last pages, device state, handover */
    JOB_COMPLETED,
    JOB_FAILED,
    JOB_CANCELLING,
    JOB_CANCELLED,
    JOB_STATUS_COUNT,
};

enum job_direction { JOB_OUTGOING, JOB_INCOMING };

#define JOB_UUID_TEXT 37 /* with its NUL */

/* Who may run the guest, where that is not plain from the status. */
enum job_handover { HANDOVER_NONE, HANDOVER_UNDECIDED, HANDOVER_SOURCE, HANDOVER_DESTINATION };

/* What an operator decides about an undecided handover. */
enum job_resolution { RESOLVE_NONE, RESOLVE_SOURCE, RESOLVE_DESTINATION };

/* What an outgoing job does with the guest's disks; an incoming one learns it from the source. */
enum job_disks {
    JOB_DISKS_NONE,
    JOB_DISKS_WHOLE,       /* blk */
    JOB_DISKS_INCREMENTAL, /* inc: what overlays hold over their bases */
};

/* Nanoseconds since the job's start; 0: not reached. */
struct job_times {
    _Atomic uint64_t start; /* CLOCK_MONOTONIC, the others relative to it */
    _Atomic uint64_t setup; /* the end of setup */
    _Atomic uint64_t stop;  /* outgoing: the guest was stopped */
    _Atomic uint64_t end;
};

/* Durations in nanoseconds. */
struct job_downtime {
    _Atomic uint64_t total, stop, ram, state, load, start;
};

struct job_counters {
    struct ram_counters ram;
    struct ram_load_counters load;
    struct disk_counters disk;
    _Atomic uint64_t total;          /* bytes of RAM */
    _Atomic uint64_t transferred;    /* bytes on the wire: records, pages, disks */
    _Atomic uint64_t placed;         /* outgoing: of these, placed at the destination, confirmed */
    _Atomic uint64_t downtime_bytes; /* of these, without disks, while the guest was stopped */
    _Atomic uint64_t rounds;         /* dirty bitmap synchronisations */
    _Atomic uint64_t dirty_rate;     /* pages/s between the last two */
    /* Of the last 100 ms window; doubles, published as their bits. */
    _Atomic uint64_t mbps_bits, pages_per_second_bits, expected_downtime_bits;
    /* Of the last round in which pages could go as deltas; doubles, too. */
    _Atomic uint64_t miss_rate_bits, encoding_rate_bits;
    _Atomic unsigned throttle; /* percent of the time that the guest is kept from running */
    _Atomic bool verified;     /* both sides hashed the same */
};

/* What the command that starts a job says of it. */
struct job_options {
    enum job_disks disks; /* outgoing */
    bool stay_paused;     /* incoming: the guest does not run when it has arrived */
};

struct job;

/* What the job's owner wants to know; called on the job's thread, must not block. */
struct job_hooks {
    void (*status)(void *opaque, struct job *job, enum job_status status);
    void (*pass)(void *opaque, struct job *job, uint64_t pass);
    void (*listening)(void *opaque, struct job *job);
    void (*finished)(void *opaque, struct job *job); /* the thread is about to end */
    void *opaque;
};

struct job {
    _Atomic int refs;
    /* Constant once started. */
    enum job_direction direction;
    struct guest *guest; /* the thread's, which drops it: a job's record holds no guest's memory */
    char guest_name[GUEST_NAME_SIZE];
    struct params *params; /* shared with the guest's entry, which changes them */
    bool capabilities[CAPABILITY_COUNT];
    struct job_options options;
    struct endpoint *endpoint; /* NULL: restored to ask for a resolution only */
    struct job_hooks hooks;
    pthread_t thread;

    /* The mailbox: eventfds, readable for good once asked. */
    int cancel_fd;
    int continue_fd;
    int resolve_fd;
    int quit_fd;            /* the daemon ends: what has outlived the job's end stops */
    _Atomic int resolution; /* enum job_resolution */

    pthread_mutex_t lock;          /* uuid, error, abort_error, address */
    uint8_t uuid[GUEST_UUID_SIZE]; /* the source's; an incoming job learns it in the handshake */
    struct error *error;           /* why it failed */
    struct error *abort_error;     /* from the main thread: fail with this instead of cancelling */
    char *address;                 /* where an incoming job listens */

    /* The job's thread writes, anybody reads. */
    _Atomic int status;       /* enum job_status */
    _Atomic int handover;     /* enum job_handover */
    _Atomic bool pass_posted; /* a MIGRATION_PASS is on its way to the main thread */
    struct job_times times;
    struct job_downtime downtime;
    struct job_counters counters;
    struct history history; /* outgoing */
};

/* Takes over `endpoint`; takes references to the guest.  NULL: out of descriptors. */
struct job *job_new(enum job_direction direction, struct guest *guest, struct params *params,
                    const bool capabilities[CAPABILITY_COUNT], struct endpoint *endpoint,
                    const struct job_hooks *hooks, struct error **errp);

/* Starts the thread with `run`, which ends in a terminal status. */
bool job_start(struct job *job, void (*run)(struct job *job), struct error **errp);

struct job *job_ref(struct job *job);
void job_unref(struct job *job); /* NULL is allowed */

/* ---- any thread ---- */

void job_cancel(struct job *job);
/* Like cancel, but the job fails with `err`, which is taken over. */
void job_abort(struct job *job, struct error *err);
void job_continue(struct job *job);
void job_resolve(struct job *job, enum job_resolution resolution);
void job_quit(struct job *job);

static inline enum job_status job_get_status(struct job *job)
{
    return (enum job_status)atomic_load(&job->status);
}

bool job_status_is_terminal(enum job_status status);
const char *job_status_name(enum job_status status);
const char *job_direction_name(enum job_direction direction);

/* A copy of why it failed, or NULL. */
struct error *job_get_error(struct job *job);
void job_get_uuid(struct job *job, uint8_t uuid[GUEST_UUID_SIZE]);
/* The same as text. */
void job_format_uuid(struct job *job, char text[JOB_UUID_TEXT]);
/* A copy of where it listens, or NULL. */
char *job_get_address(struct job *job);

/* ---- the job's thread ---- */

void job_set_status(struct job *job, enum job_status status);

/* Logs what happens in the job; `message_id` and `code` may be NULL.  Any thread. */
void job_log(struct job *job, enum log_level level, const char *message_id, const char *code,
             const char *format, ...) __attribute__((format(printf, 5, 6)));

/*
 * The end of a job that did not complete, before it is cleaned up: decides whether it fails or is
 * cancelled (and then says `cancelling`).  Takes over `err`, why its work stopped; the answer is
 * the reason to tell, and to give to job_end.
 */
struct error *job_begin_end(struct job *job, struct error *err);

/* The end, cleaned up before.  `err` is taken over; NULL: completed. */
void job_end(struct job *job, struct error *err);

void job_set_uuid(struct job *job, const uint8_t uuid[GUEST_UUID_SIZE]);
void job_set_address(struct job *job, const char *address);
void job_set_handover(struct job *job, enum job_handover handover);

/* A UUID as text, in the form of RFC 4122. */
void job_uuid_text(const uint8_t uuid[GUEST_UUID_SIZE], char text[JOB_UUID_TEXT]);

/* Fills an empty `ram` with the guest's blocks. */
bool job_map_ram(struct job *job, struct ram *ram, struct error **errp);

/* Pages sent so far, in whatever form; and those with which nothing had to be done. */
uint64_t job_pages_sent(struct job *job);
uint64_t job_pages_done(struct job *job);

/* Nanoseconds since the job was started. */
uint64_t job_elapsed(struct job *job);

/* Waiting for the VMM and for the peer, woken by cancel. */
struct wait job_guest_wait(struct job *job);
struct wait job_peer_wait(struct job *job);
/* The same for a peer that may itself be waiting for its VMM. */
struct wait job_patient_wait(struct job *job);

static inline void job_store_double(_Atomic uint64_t *to, double value)
{
    uint64_t bits;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    atomic_store_explicit(to, bits, memory_order_relaxed);
}

static inline double job_load_double(_Atomic uint64_t *from)
{
    uint64_t bits = atomic_load_explicit(from, memory_order_relaxed);
    double value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
}

#endif
