/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Dirties pages of a working set in random order, at random places in them.
 *
 * Arguments: set (MiB, default 16), rate (writes a second and vCPU, default 0: as fast as it goes).
 */
#include "guest.h"

#define BATCH 256u

static uint32_t next_random(uint32_t *state)
{
    uint32_t x = *state;

    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    *state = x;
    return x;
}

/* Scales a random number to `pages` by its upper half: a multiplication instead of a division. */
static uint32_t pick(uint32_t random, uint32_t pages)
{
    return (uint32_t)(((uint64_t)random * pages) >> 32);
}

static void write_batch(struct range range, uint32_t *state)
{
    for (uint32_t i = 0; i < BATCH; i++) {
        uint32_t random = next_random(state);
        volatile uint32_t *words =
            (volatile uint32_t *)heap_page(range.first + pick(random, range.pages));
        words[random % (PAGE_BYTES / sizeof(*words))] = random;
    }
}

void guest_main(uint32_t cpu)
{
    struct range range = working_set(arg("set", 16), cpu, params()->cpus);
    uint32_t state = 0x9e3779b9u * (cpu + 1);
    uint64_t next_line = 0;
    uint32_t writes = 0;
    struct pace pace;

    print("random: start cpu %u pages %u\n", cpu, range.pages);
    pace_init(&pace, arg("rate", 0));
    for (;;) {
        write_batch(range, &state);
        writes += BATCH;
        report(cpu)->progress += BATCH;
        if (is_due(&next_line, 1000000)) {
            print("random: cpu %u writes %u\n", cpu, writes);
            writes = 0;
        }
        pace_wait(&pace, BATCH);
    }
}
