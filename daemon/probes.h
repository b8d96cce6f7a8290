/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Probe points (USDT, provider "ferry"): where a tracer can attach to a daemon that runs.  Until
 * one does, each is a single nop; without <sys/sdt.h> at build time there are none. contrib/probes/
 * has scripts that use them, ferryd(8) lists them for those who write their own.
 */
#ifndef FERRY_DAEMON_PROBES_H
#define FERRY_DAEMON_PROBES_H

#if __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define FERRY_PROBE2(name, a, b)       DTRACE_PROBE2(ferry, name, a, b)
#define FERRY_PROBE3(name, a, b, c)    DTRACE_PROBE3(ferry, name, a, b, c)
#define FERRY_PROBE4(name, a, b, c, d) DTRACE_PROBE4(ferry, name, a, b, c, d)
#else
#define FERRY_PROBE2(name, a, b)       ((void)(a), (void)(b))
#define FERRY_PROBE3(name, a, b, c)    ((void)(a), (void)(b), (void)(c))
#define FERRY_PROBE4(name, a, b, c, d) ((void)(a), (void)(b), (void)(c), (void)(d))
#endif

/* A job has changed its status: its guest, "outgoing" or "incoming", the status. */
#define probe_state(guest, direction, status) FERRY_PROBE3(state, guest, direction, status)

/* A round over the RAM of an outgoing job: its number, from 1. */
#define probe_round_begin(guest, round) FERRY_PROBE2(round_begin, guest, round)
/* Its bytes on the wire, and the pages that the guest wrote meanwhile. */
#define probe_round_end(guest, round, sent, dirtied)                                               \
    FERRY_PROBE4(round_end, guest, round, sent, dirtied)

/*
 * A step of the handover, by name.  At the source: stop, stopped, sent (or not-sent), ready,
 * given-away, running (at the destination, as it says), undecided, resolved (an operator said so).
 * At the destination: loaded, start, started.
 */
#define probe_handover(guest, step) FERRY_PROBE2(handover, guest, step)

#endif
