/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver for VMMs that link libferry.
 *
 * The main thread reads a connection's socket (agent_read, when it is readable) and so sees replies
 * and news first; a job's thread sends its requests itself and sleeps until the main thread hands
 * it the reply.  Requests of the main thread (an operator's stop and cont) are asynchronous.
 */
#ifndef FERRY_GUEST_AGENT_H
#define FERRY_GUEST_AGENT_H

#include "guest/guest.h"

/* What a connection tells its owner; all on the main thread, from within agent_read. */
struct agent_events {
    /* attached: the VMM has introduced a valid guest.  False with an error refuses it. */
    bool (*attached)(void *opaque, struct guest *g, struct error **errp);
    /* welcomed (may be NULL): the VMM was told that it is attached; from now on it can be asked
     * things. */
    void (*welcomed)(void *opaque, struct guest *g);
    void (*state_changed)(void *opaque, struct guest *g, enum guest_state from);
    void (*shut_down)(void *opaque, struct guest *g);
    void *opaque;
};

/*
 * Takes over `sock`, a connected SOCK_SEQPACKET socket.  The guest has one reference, the caller's;
 * NULL when the process is out of descriptors.
 */
struct guest *agent_new(int sock, const struct agent_events *events);

/*
 * Handles the messages that have come.  False with an error when the connection is over: the VMM
 * closed it, broke the protocol, or was refused.
 */
bool agent_read(struct guest *g, struct error **errp);

/* The connection is over: every waiting request fails with "guest-lost".  Main thread. */
void agent_lost(struct guest *g);

/*
 * Asks without waiting; `done` is called on the main thread with the outcome (err NULL: done), at
 * most `timeout_ms` later provided that agent_expire is called now and then.
 */
typedef void agent_done(void *opaque, struct error *err);
enum agent_request {
    AGENT_PAUSE,     /* an operator's stop */
    AGENT_CONTINUE,  /* an operator's cont */
    AGENT_TAKE_BACK, /* a guest given away, by an operator's word */
    AGENT_RESUME,    /* after TAKE_BACK */
    AGENT_RELEASE,   /* a guest given away runs at its destination, by an operator's word */
};
void agent_ask(struct guest *g, enum agent_request request, int timeout_ms, agent_done *done,
               void *opaque);

/* The same for announcing the guest. */
void agent_announce(struct guest *g, const struct guest_announce *how, int timeout_ms,
                    agent_done *done, void *opaque);

/* Ends requests of the main thread that are past their deadline. */
void agent_expire(struct guest *g);

#endif
