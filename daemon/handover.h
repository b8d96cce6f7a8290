/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Handover: the guest runs in exactly one place, whatever breaks.
 *
 * On a channel that goes both ways:
 *   destination  loads the state, checks, answers READY; it does not run yet
 *   source       tells libferry that the guest is given away, then sends GO
 *   destination  on GO runs the guest, answers RUNNING
 *   source       releases the guest, answers DONE
 * Until the source has given the guest away, any failure resumes it there, and the destination
 * forgets it.  From then on the source resumes only on the destination's word that it never ran and
 * never will.  When the link breaks in between, the job stays `device` with handover `undecided`:
 * the source reconnects and asks (ASK, answered by ANSWER), again and again, until it is told or an
 * operator decides with migrate-resolve.  The destination answers for a while after its part is
 * over; one that was READY and never heard GO waits as long, then forgets, and says so.
 *
 * On a channel that goes one way there is no READY: the source is done when the other end has taken
 * everything and has closed, or exited well.
 */
#ifndef FERRY_DAEMON_HANDOVER_H
#define FERRY_DAEMON_HANDOVER_H

#include "common/error.h"

#include <stdbool.h>

struct outgoing;
struct incoming;

/* What the destination answers to ASK. */
enum handover_answer {
    ANSWER_RUNNING = 1,   /* it runs here */
    ANSWER_WAITING = 2,   /* it is ready and waits for GO, which may be sent on this channel */
    ANSWER_FORGOTTEN = 3, /* it does not run here and never will */
    ANSWER_UNKNOWN = 4,   /* no such job */
};

/* After END.  False: the guest is to be resumed at the source. */
bool handover_source(struct outgoing *o, struct error **errp);

/* After END was read and the guest's state was loaded.  True: it was told to run, and does. */
bool handover_destination(struct incoming *in, struct error **errp);

/*
 * Once the guest's fate is decided and told: answers a source that missed it, for as long as a
 * source may take to come back.  The job has its terminal status already.
 */
void handover_linger(struct incoming *in);

#endif
