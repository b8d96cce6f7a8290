/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Announcing: a guest that has moved is unknown to the switches on its way until it sends
 * something.  The rounds are counted here and not by ferryd, so that they go on when it dies; the
 * library's thread does them where it waits anyway.  They end when the guest stops to run here.
 */
#include "common/clock.h"
#include "guest/libferry_internal.h"

static void begin(struct ferry_announcer *a)
{
    a->waiting = false;
    a->done = 0;
    a->left = a->how.rounds;
    a->next_ns = clock_ns();
}

void ferry_announce(struct ferry *f, const struct wire_announce *how, bool later)
{
    struct ferry_announcer *a = &f->announcer;
    *a = (struct ferry_announcer){.how = *how, .waiting = later};
    if (!later) {
        begin(a);
    }
}

/* The pause behind the round that was the `done`th. */
static uint64_t pause_ns(const struct ferry_announcer *a)
{
    uint64_t ms = a->how.initial + (uint64_t)(a->done - 1) * a->how.step;
    return (ms < a->how.max ? ms : a->how.max) * NS_PER_MS;
}

static void announce_due(struct ferry *f)
{
    struct ferry_announcer *a = &f->announcer;
    bool runs = ferry_guest_state(f) == FERRY_GUEST_RUNNING;
    if (a->waiting && runs) {
        begin(a);
    }
    if (!runs || !f->ops.announce) {
        a->left = 0;
    }
    if (a->left && clock_ns() >= a->next_ns) {
        f->ops.announce(f->opaque);
        a->done++;
        a->left--;
        a->next_ns = clock_ns() + pause_ns(a);
    }
}

/* Milliseconds from now, rounded up; a timeout for poll. */
static int until_ms(uint64_t then_ns)
{
    uint64_t now = clock_ns();
    uint64_t ms = then_ns > now ? (then_ns - now + NS_PER_MS - 1) / NS_PER_MS : 0;
    return ms < INT32_MAX ? (int)ms : INT32_MAX;
}

int ferry_poll(struct ferry *f, struct pollfd *fds, nfds_t count, int timeout_ms)
{
    const struct ferry_announcer *a = &f->announcer;
    uint64_t forever = UINT64_MAX;
    uint64_t end = timeout_ms < 0 ? forever : clock_ns() + (uint64_t)timeout_ms * NS_PER_MS;
    for (;;) {
        announce_due(f);
        uint64_t next = a->left && a->next_ns < end ? a->next_ns : end;
        int ready = poll(fds, count, next == forever ? -1 : until_ms(next));
        if (ready || clock_ns() >= end) {
            return ready;
        }
    }
}
