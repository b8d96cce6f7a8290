/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Handover: the guest runs in exactly one place, whatever breaks.
 *
 * On a channel that goes both ways:
 *   destination  loads the state, checks, answers READY; it does not run yet
 *   source       tells libferry that the guest is given away, then sends GO
 *   destination  on GO runs the guest, answers RUNNING
 *   source       releases the guest, answers DONE
 * Until the source has sent GO, any failure resumes the guest there, and the destination forgets
 * it.  From then on the source resumes only on the destination's word that it never ran and never
 * will.  When the link breaks in between, the job stays `device` with handover `undecided`: the
 * source reconnects and asks (ASK, answered by ANSWER), again and again, until it is told or an
 * operator decides with migrate-resolve.  The destination answers while it waits for GO, and for a
 * while after its part is over; one that was READY and hears no GO for as long forgets, and says
 * so.
 *
 * A destination whose VMM was told to run and does not say whether it does is undecided as well.
 *
 * On a channel that goes one way there is no READY: GO follows END, and the stream ends there.
 * Nobody can ask: the source is done when the other end has taken everything and closed, or exited
 * with status 0.  A command that exits otherwise has failed, by its own word, and the source
 * resumes; that is the one promise that exec: asks of its command.
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
    ANSWER_UNKNOWN = 4,   /* no such job, or nobody knows */
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
