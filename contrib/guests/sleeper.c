/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest that suspends itself: vCPU 0 counts ticks, suspends the VM after some of them, and goes
 * on counting when it is woken; the others halt for good.
 *
 * Arguments: every (milliseconds between ticks, default 50), sleep (ticks before it suspends
 * itself, once; default 3).
 */
#include "guest.h"

static void suspend(void)
{
    print("sleeper: suspends\n");
    outb(GUEST_PORT_SUSPEND, 0);
    print("sleeper: woken\n");
}

void guest_main(uint32_t cpu)
{
    uint32_t every = arg("every", 50);
    uint32_t sleep = arg("sleep", 3);
    uint64_t next = 0;

    if (cpu != 0) {
        return;
    }
    print("sleeper: start\n");
    for (uint32_t ticks = 0;;) {
        if (!is_due(&next, every * 1000)) {
            relax();
            continue;
        }
        report(0)->progress = ++ticks;
        print("sleeper: tick %u\n", ticks);
        if (ticks == sleep) {
            suspend();
        }
    }
}
