/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who sets things right in a QEMU when ferryd dies in the midst of a migration.
 *
 * A QEMU in pre-switchover waits for migrate-continue or migrate_cancel and for nothing else: its
 * guest would stand still for ever.  One that was stopped for a moment would stay so, and its
 * migration settings would be ours, as those of one that waits for a guest are.  So for as long as
 * a guest is tracked, or waited for, a helper process (guest/helper.h) has a copy of the monitor's
 * socket, and a testament: the commands to give when it finds that ferryd has gone.  Each is given
 * until QEMU does it (settings can't be changed before its migration has ended), or has refused it
 * for long, and the next one after it.  `query-migrate` counts as done when QEMU's migration is
 * past the point before which it must not be cancelled.
 */
#ifndef FERRY_QEMU_GUARDIAN_H
#define FERRY_QEMU_GUARDIAN_H

#include "guest/helper.h"

#include <jansson.h>
#include <stdatomic.h>

/* Zero-initialised: none. */
struct guardian {
    _Atomic bool on;
    struct helper helper;
};

/* `monitor` is a QMP session's socket and stays the caller's.  The testament is empty.  Errors:
 * system-error. */
bool guardian_post(struct guardian *g, int monitor, struct error **errp);

/* Whether it may need the monitor's socket.  Any thread. */
static inline bool guardian_is_on(const struct guardian *g)
{
    return atomic_load(&g->on);
}

/*
 * Replaces the testament: an array of commands as they go to QEMU, without IDs; taken over.  One
 * with a member `once` that is true may be refused.  NULL: nothing is to be done.  What is in it
 * holds before this returns.  Errors: system-error.
 */
bool guardian_entrust(struct guardian *g, json_t *commands, struct error **errp);

/* It is not needed any more: awaits its end. */
void guardian_end(struct guardian *g);

/* Leaves it to its testament. */
void guardian_leave(struct guardian *g);

#endif
