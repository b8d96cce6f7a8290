/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver for VMMs that link libferry.
 *
 * The main thread reads a connection's socket and so sees replies and news first; a job's thread
 * sends its requests itself and sleeps until the main thread hands it the reply.  Requests of the
 * main thread (an operator's stop and cont) are asynchronous.
 *
 * The functions below are those of guest_ops, by name for tests.
 */
#ifndef FERRY_GUEST_AGENT_H
#define FERRY_GUEST_AGENT_H

#include "guest/guest.h"

/*
 * Takes over `sock`, a connected SOCK_SEQPACKET socket.  The guest has one reference, the caller's;
 * NULL when the process is out of descriptors.
 */
struct guest *agent_new(int sock, const struct guest_events *events);

bool agent_read(struct guest *g, struct error **errp);
void agent_lost(struct guest *g);
void agent_expire(struct guest *g);
void agent_ask(struct guest *g, enum guest_request request, int timeout_ms, guest_done *done,
               void *opaque);
void agent_announce(struct guest *g, const struct guest_announce *how, int timeout_ms,
                    guest_done *done, void *opaque);

#endif
