/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libferry: what a VMM links to be live-migrated by ferryd.
 *
 * The VMM describes its guest (RAM blocks that are shared memory, the KVM VM fd) and gives a few
 * callbacks.  A thread of the library connects to ferryd, passes the descriptors, and from then on
 * does what ferryd asks: fetch and clear the KVM dirty log (those ioctls only work in the process
 * that made the VM), stop and resume the guest, save and load its device state.
 *
 * When ferryd goes away, whatever the reason, the library turns dirty logging and throttling off,
 * resumes the guest if a migration had stopped it and it was not yet given away, and keeps trying
 * to connect.  A guest that was given away is never resumed by the library on its own.
 *
 * Use:  ferry_new, ferry_add_ram (once per block), ferry_add_disk (likewise, if disks are to move
 * with the guest), ferry_set_kvm, ferry_start; at the end ferry_free.  tests and contrib/vmm show
 * it at work.
 *
 * Growth: the structs a VMM fills start with their size; members are only ever added at the end,
 * and a member that an older VMM does not know is taken as zero.
 *
 * Errors: functions return 0, or a negative errno with its meaning said here.  Callbacks do the
 * same; ferry_set_error gives them words, which reach the operator as the job's error.
 */
#ifndef LIBFERRY_H
#define LIBFERRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FERRY_API __attribute__((visibility("default")))

/* Limits, each the same on ferryd's side; passing one is -E2BIG or -EINVAL. */
#define FERRY_NAME_MAX     64 /* bytes of a guest's, block's or disk's name, without the final NUL */
#define FERRY_BLOCKS_MAX   64   /* RAM blocks of one guest */
#define FERRY_DISKS_MAX    16   /* disks of one guest */
#define FERRY_BLOCKERS_MAX 16   /* blockers of one guest at a time */
#define FERRY_REASON_MAX   255  /* bytes of a blocker's reason, without the final NUL */
#define FERRY_PAGE_SIZE    4096 /* offsets, addresses and lengths of RAM are multiples of this */
#define FERRY_SECTOR       512  /* a disk's length is a multiple of this, and at most 2^46 */

/* A block that KVM's dirty log does not cover: all its writes are told with ferry_mark_dirty. */
#define FERRY_NO_SLOT UINT32_MAX

/* Opaque; all functions may be called from any thread, except ferry_free. */
struct ferry;

/*
 * What the guest is doing, as the library believes it.  Only the library changes it, as the effect
 * of ferryd's requests or of ferry_guest_paused/ferry_guest_running.
 */
enum ferry_guest_state {
    FERRY_GUEST_RUNNING,    /* vCPUs may run */
    FERRY_GUEST_PAUSED,     /* stopped by an operator or by the VMM itself */
    FERRY_GUEST_STOPPED,    /* stopped by a migration; resumed if that fails */
    FERRY_GUEST_GIVEN_AWAY, /* may be running elsewhere: must not run here */
    FERRY_GUEST_INCOMING,   /* waits for a migration to fill it */
};

/*
 * Where a migration of the guest is.  Values are only added; one that the library does not know is
 * not passed on.
 */
enum ferry_migration_status {
    FERRY_MIGRATION_SETUP = 1,          /* the ferryds get to know each other */
    FERRY_MIGRATION_ACTIVE = 2,         /* RAM is sent, the guest runs at its source */
    FERRY_MIGRATION_PRE_SWITCHOVER = 3, /* stopped, waits for an operator */
    FERRY_MIGRATION_DEVICE = 4,         /* stopped, the handover runs */
    FERRY_MIGRATION_COMPLETED = 5,      /* the guest is at its destination */
    FERRY_MIGRATION_FAILED = 6,         /* the guest is where it was */
    FERRY_MIGRATION_CANCELLING = 7,
    FERRY_MIGRATION_CANCELLED = 8, /* the guest is where it was */
};

/*
 * Callbacks.  All run on the library's thread, one at a time, and must return: ferryd gives each a
 * deadline (30 s unless said) after which the migration fails, and the library can do nothing else
 * while one runs.  `opaque` is ferry_config.opaque.  None may call ferry_free.
 */
struct ferry_ops {
    size_t size; /* sizeof(struct ferry_ops) */

    /*
     * stop: take every vCPU out of KVM_RUN and drain device I/O; when it returns 0 nothing of the
     * VMM writes guest RAM and every write made so far was made by a vCPU or told with
     * ferry_mark_dirty.  An error means the guest goes on as it was.  A migration also stops a
     * guest that is paused already, for the sake of its I/O; one that stays where it is after that
     * stays paused, without a call of resume.
     */
    int (*stop)(void *opaque);
    /*
     * resume: let the vCPUs run (again); also the first start of an incoming guest, after
     * load_state.  Must not fail where it can be helped: an error leaves the guest stopped.
     */
    int (*resume)(void *opaque);
    /*
     * save_state: write the state of all devices and vCPUs to fd, from its start; the format is the
     * VMM's own.  fd is a memory file, at most 1 GiB is taken.  The guest is stopped.  The library
     * closes fd.
     */
    int (*save_state)(void *opaque, int fd);
    /*
     * load_state: read back what save_state wrote.  fd is positioned at its start and sealed
     * against writing; guest RAM is complete.  The state came over a network: check it.
     * On an error the guest stays as it was and may be offered another migration; so it may after
     * a success, when the migration fails before the guest was started.
     */
    int (*load_state)(void *opaque, int fd);
    /*
     * throttle (optional): keep the vCPUs out of KVM_RUN for `percent` (0 to 99) of the time; 0
     * ends it; so do a migration's stop, right after it, and the loss of ferryd.
     */
    int (*throttle)(void *opaque, unsigned percent);
    /*
     * released (optional): the guest runs at its destination and this one will never be resumed.
     * The VMM may free it and exit.
     */
    void (*released)(void *opaque);
    /*
     * attached, detached (optional): the connection to ferryd was made, or ended.  `reason` is text
     * for a log, valid during the call; ferryd's refusal of this guest comes here.
     */
    void (*attached)(void *opaque);
    void (*detached)(void *opaque, const char *reason);
    /*
     * announce (optional): one round of telling the guest's networks where it is now: a gratuitous
     * ARP, or the like, for each of its devices.  Called several times, with pauses, once the guest
     * runs at its destination, and when an operator asks for it.  What fails is left to the next
     * round.
     */
    void (*announce)(void *opaque);
    /*
     * wakeup (optional): a migration is about to stop a guest that runs: one that has suspended
     * itself is woken, as a suspension does not move with it; any other is left alone.  An error
     * means that the guest can't leave, and goes on as it was.
     */
    int (*wakeup)(void *opaque);
    /*
     * migration (optional): a migration of this guest is at `status` now; outgoing: the guest
     * leaves, else it comes.  In order with the other callbacks: a migration's end comes behind all
     * that belongs to it, also behind released.  Nobody waits for it; a VMM that is slow to take
     * them may miss some, and there are no more when the connection was lost.
     */
    void (*migration)(void *opaque, enum ferry_migration_status status, bool outgoing);
};

struct ferry_config {
    size_t size;             /* sizeof(struct ferry_config) */
    const char *name;        /* the guest's name, unique in its ferryd; copied */
    const char *socket_path; /* ferryd's guests socket; NULL is /run/ferryd/guests.sock; copied */
    bool incoming;           /* the guest waits for a migration and must not run before it */
    const struct ferry_ops *ops; /* copied */
    void *opaque;                /* for the callbacks */
    bool plain_log;              /* do without KVM's manual dirty-log protection, where a host's
                                    is not to be trusted; each round then protects all pages */
};

/* One range of guest RAM. */
struct ferry_ram_block {
    size_t size;      /* sizeof(struct ferry_ram_block) */
    const char *name; /* unique in the guest; the destination finds its block by it; copied */
    int fd;           /* memfd, tmpfs or hugetlbfs file, open for reading and writing; dup'ed */
    uint64_t offset;  /* where in the file the block begins, bytes */
    uint64_t length;  /* bytes */
    uint64_t gpa;     /* guest-physical address, bytes */
    void *hva;        /* where the VMM has mapped it; may be NULL with FERRY_NO_SLOT */
    uint32_t slot; /* its KVM memory slot, registered with exactly this range, or FERRY_NO_SLOT */
    uint32_t kvm_flags; /* that slot's flags, without KVM_MEM_LOG_DIRTY_PAGES */
};

/*
 * A disk that can move with the guest (migrate's blk and inc): its content, byte for byte.  Neither
 * file is ever mapped; ferryd reads the source's and writes that of a VMM that waits for the guest,
 * which therefore reads nothing of it before load_state.
 *
 * A disk with a base is an overlay, in pieces of 4096 bytes: a piece of which its own file has
 * allocated nothing (SEEK_DATA, lseek(2)) the VMM reads from the base, with zeroes behind the
 * base's end.  Whoever writes a part of such a piece copies the rest of it from the base first.
 * Both are regular files, on a file system with blocks of at most 4096 bytes; the base is never
 * written.
 */
struct ferry_disk {
    size_t size;      /* sizeof(struct ferry_disk) */
    const char *name; /* unique in the guest; the destination finds its disk by it; copied */
    int fd;           /* regular file or block device, open for reading and writing; dup'ed */
    uint64_t length;  /* bytes that the guest sees; the file has as many or more */
    int base_fd;      /* with has_base: open for reading; dup'ed */
    bool has_base;
};

/* -EINVAL: a missing callback, a bad name; -ENOMEM. */
FERRY_API int ferry_new(const struct ferry_config *config, struct ferry **out);

/* Before ferry_start.  -EINVAL: not page-aligned, empty, overlapping, a name twice; -E2BIG. */
FERRY_API int ferry_add_ram(struct ferry *f, const struct ferry_ram_block *block);

/*
 * Before ferry_start; the disks are numbered in the order of these calls, from 0.  -EINVAL: a bad
 * length, a name twice; -E2BIG; -EBADF.
 */
FERRY_API int ferry_add_disk(struct ferry *f, const struct ferry_disk *disk);

/*
 * The VM's fd, dup'ed; before ferry_start.  Enables manual dirty-log protection where KVM has it,
 * so call it before any slot logs.  Without it, or with blocks that have no slot, only
 * ferry_mark_dirty tells what was written.
 */
FERRY_API int ferry_set_kvm(struct ferry *f, int vm_fd);

/*
 * Starts the library's thread, which connects and stays connected.  The guest counts as running
 * from here on (or as incoming).  -EALREADY; -EAGAIN when no thread can be had; -EINVAL: no RAM
 * block, or one with a slot and no ferry_set_kvm.
 */
FERRY_API int ferry_start(struct ferry *f);

/* Ends the thread (waits for a callback that runs), closes everything.  NULL is allowed. */
FERRY_API void ferry_free(struct ferry *f);

/*
 * The VMM wrote [gpa, gpa + length) itself: device DMA, a loaded file, a range it punched out or
 * zeroed.  To be called AFTER the write and before stop() returns.  Any thread, never blocks long,
 * costs nothing when no migration runs.  Parts outside registered blocks are ignored.
 */
FERRY_API void ferry_mark_dirty(struct ferry *f, uint64_t gpa, uint64_t length);

/*
 * Disk number `disk` was written, or discarded, in [offset, offset + length).  To be called AFTER
 * the write, when a pread of the file would show it, and before stop() returns.  Any thread, never
 * blocks long, costs nothing when no migration runs.  What lies behind the disk's end is ignored.
 */
FERRY_API void ferry_mark_disk_dirty(struct ferry *f, unsigned disk, uint64_t offset,
                                     uint64_t length);

/*
 * The VMM pauses and resumes its guest on its own: ferryd shows it, and a paused guest stays paused
 * where it arrives.  ferry_guest_paused is told after the fact.  ferry_guest_running asks: the VMM
 * may let its vCPUs run only after it has answered 0.  -EBUSY: a migration has the guest.
 */
FERRY_API void ferry_guest_paused(struct ferry *f);
FERRY_API int ferry_guest_running(struct ferry *f);

/*
 * A reason why the guest may not leave its host now, in words for the operator: ferryd refuses to
 * migrate it while there is one.  From any thread, before or after ferry_start; an incoming guest
 * may have some, which count once it has arrived.  *id (not 0) is what removes it again.
 * -EBUSY: a migration has the guest already, and must end first; -EINVAL: an empty reason, or a too
 * long one; -E2BIG.
 */
FERRY_API int ferry_add_blocker(struct ferry *f, const char *reason, uint64_t *id);

/* -ENOENT: there is no such blocker. */
FERRY_API int ferry_remove_blocker(struct ferry *f, uint64_t id);

/* The guest has shut itself down: ferryd sends SHUTDOWN to its clients and forgets the guest. */
FERRY_API void ferry_guest_shutdown(struct ferry *f);

FERRY_API enum ferry_guest_state ferry_guest_state(struct ferry *f);

/* Words for the error that the running callback is about to return; only from inside a callback. */
FERRY_API void ferry_set_error(struct ferry *f, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The library's version, "major.minor.patch". */
FERRY_API const char *ferry_version(void);

#ifdef __cplusplus
}
#endif
#endif
