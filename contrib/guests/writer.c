/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Dirties a working set, page after page, in order.
 *
 * Arguments: set (MiB, default 16), stride (bytes from one write to the next, default 4096: one
 * write a page), rate (writes a second and vCPU, default 0: as fast as it goes), passes (end after
 * so many; default: never).
 */
#include "guest.h"

#define BATCH 256u

static uint32_t finished;

/* The last vCPU to have done its passes ends the VM. */
static void finish(uint32_t cpu)
{
    print("writer: cpu %u done\n", cpu);
    if (__atomic_add_fetch(&finished, 1, __ATOMIC_ACQ_REL) == params()->cpus) {
        shut_down();
    }
}

struct progress {
    uint64_t next_line;
    uint32_t pass;
    uint32_t writes;
};

static void tell(struct progress *progress, uint32_t cpu, uint32_t writes)
{
    progress->writes += writes;
    report(cpu)->progress += writes;
    if (is_due(&progress->next_line, 1000000)) {
        print("writer: cpu %u pass %u writes %u\n", cpu, progress->pass, progress->writes);
        progress->writes = 0;
    }
}

static void one_pass(struct range range, uint32_t stride, struct pace *pace,
                     struct progress *progress, uint32_t cpu)
{
    uint32_t at = (uint32_t)heap_page(range.first);
    uint32_t left = (range.pages * PAGE_BYTES - 1) / stride + 1;

    while (left > 0) {
        uint32_t count = left < BATCH ? left : BATCH;
        at = dirty_places(at, stride, count);
        left -= count;
        tell(progress, cpu, count);
        pace_wait(pace, count);
    }
}

void guest_main(uint32_t cpu)
{
    uint32_t passes = arg("passes", 0);
    uint32_t stride = arg("stride", PAGE_BYTES);
    struct range range = working_set(arg("set", 16), cpu, params()->cpus);
    struct progress progress = {.pass = 0};
    struct pace pace;

    if (stride == 0 || range.pages == 0) {
        print("stride is 0, or the set has no page for this vCPU\n");
        shut_down();
    }
    print("writer: start cpu %u pages %u stride %u\n", cpu, range.pages, stride);
    pace_init(&pace, arg("rate", 0));
    while (passes == 0 || progress.pass < passes) {
        one_pass(range, stride, &pace, &progress, cpu);
        progress.pass++;
    }
    finish(cpu);
}
