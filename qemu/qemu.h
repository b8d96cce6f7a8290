/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver for an unmodified QEMU, from 7.2 on, reached through its QMP monitor.
 *
 * Nothing is loaded into the VMM and none of its files is touched.  Its RAM must be shared memory
 * that another process can map; where it is, the monitor and /proc tell (discover.c).  What the
 * guest and the VMM write is learnt from the kernel: one thread of the VMM is borrowed for a moment
 * to make a userfaultfd (guest/borrow.h), and from then on the kernel tells which pages were
 * written (guest/wptrack.h).  The device state is what QEMU's own migration sends when it is told
 * that RAM is shared (capability x-ignore-shared): a few hundred kilobytes, taken through a socket.
 *
 * The handover uses QEMU's return path (vmstate.h): the source's QEMU has sent its state and waits
 * for the word that it has arrived.  That word is not passed on before the guest is given away, so
 * that until then QEMU by itself resumes its guest when this daemon goes away, however it ends.
 * Behind that word the guest stays where it is, in QEMU's run state postmigrate.  The destination's
 * QEMU loads the state and stands still until GO, when it is told `cont`.
 *
 * While a guest is attached, the monitor that was named is this daemon's: QEMU serves one client
 * on each.
 */
#ifndef FERRY_QEMU_QEMU_H
#define FERRY_QEMU_QEMU_H

#include "guest/guest.h"

/*
 * Takes over `sock`, a connected, non-blocking SOCK_STREAM socket to a QMP monitor, and begins to
 * attach the guest, which is called `name` from now on; what comes of it is told through `events`.
 * The guest has one reference, the caller's.  NULL with an error: nothing has begun.
 */
struct guest *qemu_new(int sock, const char *name, const struct guest_events *events,
                       struct error **errp);

#endif
