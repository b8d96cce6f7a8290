/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest as the daemon reaches it, whatever its VMM is: facts, and a driver's functions.
 *
 * Most functions of guest_ops are called by the one job that works on the guest, on its thread;
 * they block for at most the wait's timeout.  What changes without a job asking (state, loss) is
 * told through guest_events on the main thread.  A guest lives until its last reference is dropped.
 */
#ifndef FERRY_GUEST_GUEST_H
#define FERRY_GUEST_GUEST_H

#include "common/error.h"
#include "common/wait.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define GUEST_NAME_SIZE    65 /* with the final NUL */
#define GUEST_BLOCKS_MAX   64u
#define GUEST_DISKS_MAX    16u
#define GUEST_UUID_SIZE    16
#define GUEST_BLOCKERS_MAX 16u
#define GUEST_TEXT_SIZE    256 /* with the final NUL */
#define GUEST_PAGE_SIZE    4096u
/* More is a mistake, and keeps sums of sizes far from overflow; bytes. */
#define GUEST_RAM_MAX (1ULL << 46)

/* The order is libferry's enum ferry_guest_state, which the wire carries; GUEST_SPENT is ours. */
enum guest_state {
    GUEST_RUNNING,
    GUEST_PAUSED,
    GUEST_STOPPED,    /* by a migration */
    GUEST_GIVEN_AWAY, /* may run elsewhere */
    GUEST_INCOMING,   /* waits for a migration */
    GUEST_SPENT,      /* holds what a failed migration left: never to be run */
    GUEST_STATES,
};

/* How a migration goes; the values are libferry's enum ferry_migration_status. */
enum guest_migration {
    GUEST_MIGRATION_SETUP = 1,
    GUEST_MIGRATION_ACTIVE = 2,
    GUEST_MIGRATION_PRE_SWITCHOVER = 3,
    GUEST_MIGRATION_DEVICE = 4,
    GUEST_MIGRATION_COMPLETED = 5,
    GUEST_MIGRATION_FAILED = 6,
    GUEST_MIGRATION_CANCELLING = 7,
    GUEST_MIGRATION_CANCELLED = 8,
};

struct guest_block {
    char name[GUEST_NAME_SIZE];
    int fd;
    uint64_t offset, length, gpa; /* bytes */
};

/* A disk that can move with the guest; libferry.h says what the files are. */
struct guest_disk {
    char name[GUEST_NAME_SIZE];
    int fd;
    int base_fd;     /* -1: none */
    uint64_t length; /* bytes, a multiple of 512 */
};

/* Why a guest may not leave, in its VMM's words, made printable. */
struct guest_blocker {
    uint64_t id;
    char reason[GUEST_TEXT_SIZE];
};

/* Rounds of announcing a guest to its networks: `initial` behind the first, `step` more behind each
 * other one, at most `max`; milliseconds. */
struct guest_announce {
    uint32_t initial, max, rounds, step;
};

/* The defaults of the parameters announce-*. */
#define GUEST_ANNOUNCE_INITIAL 50
#define GUEST_ANNOUNCE_MAX     550
#define GUEST_ANNOUNCE_ROUNDS  5
#define GUEST_ANNOUNCE_STEP    100
#define GUEST_ANNOUNCE_DEFAULT                                                                     \
    ((struct guest_announce){.initial = GUEST_ANNOUNCE_INITIAL,                                    \
                             .max = GUEST_ANNOUNCE_MAX,                                            \
                             .rounds = GUEST_ANNOUNCE_ROUNDS,                                      \
                             .step = GUEST_ANNOUNCE_STEP})

struct guest;

/* What a driver tells its owner; all on the main thread, from within guest_ops.read. */
struct guest_events {
    /* attached: the VMM has introduced a valid guest.  False with an error refuses it. */
    bool (*attached)(void *opaque, struct guest *g, struct error **errp);
    /* welcomed (may be NULL): the VMM was told that it is attached; from now on it can be asked
     * things. */
    void (*welcomed)(void *opaque, struct guest *g);
    void (*state_changed)(void *opaque, struct guest *g, enum guest_state from);
    /* `by_guest`: it has done so itself; `reason`: printable, in the reference's words. */
    void (*shut_down)(void *opaque, struct guest *g, bool by_guest, const char *reason);
    void *opaque;
};

/* What the main thread asks of a VMM, without waiting. */
enum guest_request {
    GUEST_ASK_PAUSE,     /* an operator's stop */
    GUEST_ASK_CONTINUE,  /* an operator's cont */
    GUEST_ASK_TAKE_BACK, /* a guest given away, by an operator's word */
    GUEST_ASK_RESUME,    /* after TAKE_BACK */
    GUEST_ASK_RELEASE,   /* a guest given away runs at its destination, by an operator's word */
    GUEST_ASK_LEAVE,     /* the connection is to be ended: what was set in the VMM is put back */
};

/* The outcome of such a request, on the main thread; err NULL: done. */
typedef void guest_done(void *opaque, struct error *err);

/*
 * What a driver can do.  Errors: "guest-lost", "guest-timeout" (the deadline, with what was asked),
 * "guest-refused" (the VMM's own words).
 */
struct guest_ops {
    const char *driver;
    bool comes_back; /* the VMM connects by itself, so that guest-detach only hides it */
    /* ---- the main thread's ---- */
    /*
     * read: handles what has come from the VMM.  False with an error when the connection is over:
     * the VMM closed it, broke the protocol, or was refused.
     */
    bool (*read)(struct guest *g, struct error **errp);
    /* lost: the connection is over; every waiting request fails with "guest-lost". */
    void (*lost)(struct guest *g);
    /* expire: ends requests of the main thread that are past their deadline; called now and then.
     */
    void (*expire)(struct guest *g);
    /* ask, announce: `done` is called later, or at once where it can't be asked. */
    void (*ask)(struct guest *g, enum guest_request request, int timeout_ms, guest_done *done,
                void *opaque);
    void (*announce)(struct guest *g, const struct guest_announce *how, int timeout_ms,
                     guest_done *done, void *opaque);
    /* ---- the job's thread's ---- */
    /*
     * log_start, log_stop: dirty logging on and off.  All pages count as clean at the start.  What
     * was set in the VMM for the job is put back with log_stop, or later where the VMM has not
     * answered by the wait's end: it may be busy.
     */
    bool (*log_start)(struct guest *g, const struct wait *w, struct error **errp);
    void (*log_stop)(struct guest *g, const struct wait *w);
    /* log_sync: adds what was written to dirty[block], bitmaps of the blocks' pages. */
    bool (*log_sync)(struct guest *g, uint64_t *const dirty[], const struct wait *w,
                     struct error **errp);
    /*
     * log_settle: returns when what a sync before it has reported may be read: I/O that the kernel
     * had begun to put into these pages has landed in them.
     */
    bool (*log_settle)(struct guest *g, const struct wait *w, struct error **errp);
    /* log_clear: writes to these pages, from now on, are reported by the next sync. */
    bool (*log_clear)(struct guest *g, unsigned block, uint64_t first, uint64_t count,
                      const struct wait *w, struct error **errp);
    /*
     * disk_sync: adds what was written to dirty[disk], bitmaps of the disks' chunks of 64 KiB.  The
     * VMM is not asked: it marks as it writes, and from stop's success on all its writes are
     * marked.
     */
    void (*disk_sync)(struct guest *g, uint64_t *const dirty[]);
    /*
     * throttle: keeps the vCPUs out for `percent` (0 to 99) of the time; only where the guest says
     * can_throttle.  0, stop and the loss of the daemon end it.
     */
    bool (*throttle)(struct guest *g, unsigned percent, const struct wait *w, struct error **errp);
    /*
     * prepare: what has to be done before stop, some time before, and can be done while the guest
     * runs; log_stop undoes it.  `announce`: how a guest is announced that comes back although the
     * destination's VMM may have announced it.
     */
    bool (*prepare)(struct guest *g, const struct guest_announce *announce, const struct wait *w,
                    struct error **errp);
    /*
     * begin_stop: asks the VMM to stop its guest, which may run on until stop has succeeded; NULL
     * where that takes no time worth using.
     */
    bool (*begin_stop)(struct guest *g, const struct wait *w, struct error **errp);
    /*
     * stop: for a migration; *was_paused tells whether the guest ran.  *stopped_ns (clock_ns) is
     * set before to the time of the call, and may be moved to when the guest really stopped, before
     * or after it.
     */
    bool (*stop)(struct guest *g, bool *was_paused, uint64_t *stopped_ns, const struct wait *w,
                 struct error **errp);
    /* resume: undoes stop.  Queued behind what the VMM is busy with, so a timeout loses nothing. */
    bool (*resume)(struct guest *g, const struct wait *w, struct error **errp);
    /*
     * begin_save: the VMM goes on to save its state while others work, until save_state; it has
     * written RAM for the last time.  NULL: it may still write as it saves.
     */
    bool (*begin_save)(struct guest *g, const struct wait *w, struct error **errp);
    /* save_state: the state in a memory file, the caller's; -1 on failure. */
    int (*save_state)(struct guest *g, const struct wait *w, struct error **errp);
    bool (*load_state)(struct guest *g, int fd, const struct wait *w, struct error **errp);
    /*
     * start: an incoming guest after load_state; paused leaves it standing.  Once it runs it is
     * announced.  "guest-in-doubt": the VMM was asked, and it is not known whether the guest runs;
     * any other error: it does not.
     */
    bool (*start)(struct guest *g, bool paused, const struct guest_announce *announce,
                  const struct wait *w, struct error **errp);
    /* settle: the same for an incoming guest, once it is started, or given up; NULL: nothing was
     * set. */
    void (*settle)(struct guest *g, bool started, const struct wait *w);
    /* give_away: from its success on the VMM never resumes by itself; take_back undoes it. */
    bool (*give_away)(struct guest *g, const uint8_t job[GUEST_UUID_SIZE], const struct wait *w,
                      struct error **errp);
    bool (*take_back)(struct guest *g, const struct wait *w, struct error **errp);
    /* release: the guest runs at its destination for sure. */
    bool (*release)(struct guest *g, const struct wait *w, struct error **errp);
    /*
     * notify: tells the VMM how its guest's migration goes.  Never blocks; what the VMM has no room
     * for is lost.  Also called on the main thread, before the job's has begun.
     */
    void (*notify)(struct guest *g, enum guest_migration status, bool outgoing);
    void (*free)(struct guest *g);
};

struct guest {
    const struct guest_ops *ops;
    _Atomic int refs;
    /* Constant once attached. */
    char name[GUEST_NAME_SIZE];
    /* What kind of device state it has, for drivers whose VMMs are of several kinds; printable. */
    char machine[GUEST_NAME_SIZE];
    struct guest_block blocks[GUEST_BLOCKS_MAX];
    unsigned nblocks;
    uint64_t ram; /* bytes */
    struct guest_disk disks[GUEST_DISKS_MAX];
    unsigned ndisks;
    pid_t pid;
    bool released;                /* given away, and known to run at its destination */
    uint8_t job[GUEST_UUID_SIZE]; /* the job that it was given away to */
    /*
     * The quickest small request to the VMM since it was set to UINT64_MAX last, in nanoseconds:
     * the job's thread's.  Requests whose cost grows with RAM do not count.
     */
    uint64_t request_ns;
    bool can_throttle;
    bool can_announce;
    const char *tracking; /* "kvm-manual-protect", "kvm-log", "marks", "pagemap-scan" */
    /* Written by the main thread as the VMM tells it. */
    _Atomic int state; /* enum guest_state */
    /* The main thread's. */
    struct guest_blocker blockers[GUEST_BLOCKERS_MAX]; /* in the order in which they were told */
    unsigned nblockers;
};

/* Whether it is a name that others can show and write down; `name` need not end. */
bool guest_name_is_good(const char name[GUEST_NAME_SIZE]);

/*
 * Closes the files of RAM and disks, on a thread of its own: closing the last descriptor of a
 * memory file frees its pages, seconds for a large guest, and that of a disk may wait for its file
 * system.
 */
void guest_close_files(struct guest *g);

static inline struct guest *guest_ref(struct guest *g)
{
    atomic_fetch_add(&g->refs, 1);
    return g;
}

static inline void guest_unref(struct guest *g)
{
    if (g && atomic_fetch_sub(&g->refs, 1) == 1) {
        g->ops->free(g);
    }
}

static inline void guest_note_request(struct guest *g, uint64_t took_ns)
{
    g->request_ns = took_ns < g->request_ns ? took_ns : g->request_ns;
}

static inline enum guest_state guest_get_state(struct guest *g)
{
    return (enum guest_state)atomic_load(&g->state);
}

#endif
