/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Measures, from within, how long the guest did not run: vCPU 0 reads the TSC in a tight loop and
 * reports the longest time between two readings.  With `set`, memory is dirtied at full speed
 * meanwhile: by the other vCPUs, or on one vCPU by itself in between.
 *
 * Arguments: set (MiB, default 0: none), threshold (us above which a new maximum is told at once,
 * default 2000), every (ms between the regular lines, default 1000).
 */
#include "guest.h"

/* Between two readings when one vCPU does both: some 50 us. */
#define BATCH_SHARED 32u
#define BATCH_ALONE  256u

/* A walk over a working set that can be taken up anywhere. */
struct walk {
    struct range range;
    uint32_t page;
};

static uint32_t walk_on(struct walk *walk, uint32_t most)
{
    uint32_t left = walk->range.pages - walk->page;
    uint32_t count = left < most ? left : most;

    dirty_places((uint32_t)heap_page(walk->range.first + walk->page), PAGE_BYTES, count);
    walk->page = walk->page + count == walk->range.pages ? 0 : walk->page + count;
    return count;
}

struct gaps {
    uint64_t last;
    uint64_t widest;
    uint64_t recent; /* the widest since the last regular line */
    uint64_t threshold;
    uint64_t next_line;
    uint32_t period_us;
};

/* True for a new maximum that is worth a line. */
static bool note(struct gaps *gaps, uint64_t gap)
{
    if (gap > gaps->recent) {
        gaps->recent = gap;
    }
    if (gap <= gaps->widest) {
        return false;
    }
    gaps->widest = gap;
    report(0)->gap_us = us_of_cycles(gap);
    return gap > gaps->threshold;
}

/* Prints what there is to print; false: nothing. */
static bool tell(struct gaps *gaps, uint64_t now, uint64_t gap)
{
    bool wide = note(gaps, gap);
    bool due = now >= gaps->next_line;

    if (wide) {
        print("clock: gap %u us\n", us_of_cycles(gap));
    }
    if (due) {
        gaps->next_line = now + cycles_of_us(gaps->period_us);
        print("clock: max gap %u us recent %u us\n", us_of_cycles(gaps->widest),
              us_of_cycles(gaps->recent));
        gaps->recent = 0;
    }
    return wide || due;
}

static void look(struct gaps *gaps)
{
    uint64_t now = rdtsc();
    uint64_t gap = now - gaps->last;

    gaps->last = now;
    if (tell(gaps, now, gap)) {
        /* Printing takes its time, but a stop that falls into it must not go unseen. */
        uint64_t after = rdtsc();
        if (after - now > gaps->threshold) {
            note(gaps, after - now);
        }
        gaps->last = after;
    }
}

static void measure(struct walk *walk)
{
    struct gaps gaps = {
        .last = rdtsc(),
        .threshold = cycles_of_us(arg("threshold", 2000)),
        .period_us = arg("every", 1000) * 1000,
    };

    for (;;) {
        if (walk != NULL) {
            report(0)->progress += walk_on(walk, BATCH_SHARED);
        }
        look(&gaps);
    }
}

static void dirty(struct walk *walk, uint32_t cpu)
{
    uint64_t next_line = 0;
    uint32_t writes = 0;

    for (;;) {
        uint32_t count = walk_on(walk, BATCH_ALONE);
        writes += count;
        report(cpu)->progress += count;
        if (is_due(&next_line, 1000000)) {
            print("clock: cpu %u writes %u\n", cpu, writes);
            writes = 0;
        }
    }
}

void guest_main(uint32_t cpu)
{
    uint32_t set = arg("set", 0);
    uint32_t others = params()->cpus - 1;
    struct walk walk = {.page = 0};

    if (cpu == 0) {
        print("clock: start set %u cpus %u\n", set, params()->cpus);
    }
    if (set != 0 && (cpu > 0 || others == 0)) {
        walk.range = working_set(set, cpu == 0 ? 0 : cpu - 1, others == 0 ? 1 : others);
    }
    if (cpu == 0) {
        measure(set != 0 && others == 0 ? &walk : NULL);
    } else if (set != 0) {
        dirty(&walk, cpu);
    }
}
