/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The RAM engine as a whole, for its tests: what a source saves goes through a channel in memory to
 * a thread that loads it, in rounds, while the source's pages change.
 */
#ifndef FERRY_TESTS_UNIT_SAVE_TOOLS_H
#define FERRY_TESTS_UNIT_SAVE_TOOLS_H

#include "ram/load.h"
#include "ram/save.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"
#include "transports/memory.h"

#include <pthread.h>

/* Two blocks; "high" lies inside its file. */
#define LOW       (2 * RAM_CHUNK_PAGES + 100) /* two chunks and a bit */
#define HIGH      300u
#define HIGH_FROM 5u
#define BLOCKS    2

struct side {
    int fds[BLOCKS];
    struct ram *ram;
};

extern const uint64_t side_pages[BLOCKS]; /* of each block */

/* Both blocks, nothing but holes. */
void side_open(struct side *s);
void side_close(struct side *s);

/* ---- a migration ---- */

struct migration {
    struct side source, destination;
    struct channel *ends[2];
    pthread_t loader;
    struct error *load_error;
    struct ram_load_counters loaded;
    struct ram_counters saved;
    struct ram_saver saver;
    /* The tracker's script: pages that the next sync reports. */
    uint64_t *written[BLOCKS];
    bool sync_fails;
    uint64_t returned; /* pages that the next round sends beside those that are dirty */
    uint64_t clears;   /* calls */
    /* Called by clear, as a guest that writes at that moment. */
    void (*on_clear)(struct migration *m, unsigned block, uint64_t first);
    /* The pacer's. */
    size_t allowance;
    uint64_t asked, asked_max;
    /* Called before each write to the channel. */
    void (*on_write)(struct migration *m);
    uint64_t sent; /* bytes */
    /* Deltas: */
    _Atomic uint64_t cache_bytes; /* as wanted */
    bool interrupted;             /* the pacer's check fails */
};

/* `faults` (or NULL) are those of what the source sends. */
void migration_open(struct migration *m, const struct memory_faults *faults);
/* Returns what the loader ended with. */
struct error *migration_close(struct migration *m);
void expect_closed_well(struct migration *m);

/* Does what the migration's script says; for savers of a test's own. */
struct record_pacer migration_pacer(struct migration *m);

/* One round, which has to go well; the loader has taken all of it. */
void round_of(struct migration *m, enum ram_round kind);

/* Both sides hold the same, and the destination no page of zeroes; nothing beside its blocks. */
void expect_arrived(struct migration *m);

/* ---- what a guest does ---- */

/* A block's page, as counted in its file. */
uint64_t in_file(unsigned block, uint64_t page);

/* The next sync reports these pages. */
void note_written(struct migration *m, unsigned block, uint64_t first, uint64_t count);

/* These change the source's pages, which the next sync reports. */
void guest_writes(struct migration *m, unsigned block, uint64_t first, uint64_t count,
                  uint64_t seed);
void guest_zeroes(struct migration *m, unsigned block, uint64_t first, uint64_t count);
void guest_frees(struct migration *m, unsigned block, uint64_t first, uint64_t count);
/* The same, which nothing reports. */
void guest_returns(struct migration *m, unsigned block, uint64_t first, uint64_t count);

#endif
