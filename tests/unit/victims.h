/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Processes to be meddled with: one thread each, in a state of its own, that finds out by itself
 * when something was done to it.
 */
#ifndef FERRY_TESTS_UNIT_VICTIMS_H
#define FERRY_TESTS_UNIT_VICTIMS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Shared with the victim. */
struct victim_page {
    _Atomic uint64_t rounds;  /* how often it has done what it does */
    _Atomic uint64_t faults;  /* ... and how often that went wrong */
    _Atomic uint64_t signals; /* of victim_signal that were handled, each in its turn */
    _Atomic bool ready, stop;
};

#define VICTIM_RAM (1u << 16)
/* Its guest counts here, and writes nothing else. */
#define VICTIM_COUNTER 0x1000u
#define VICTIM_SECOND  0x5000u

struct victim {
    pid_t pid;
    struct victim_page *page;
    uint8_t *ram; /* of its guest, shared too: VICTIM_RAM bytes */
    int ram_fd;
    int pipe[2]; /* from the test to the victim */
    const struct victim_kind *kind;
};

struct victim_kind {
    const char *name;
    void (*run)(struct victim *v); /* until page->stop */
    bool waits;                    /* for a byte, for ever */
    bool needs_kvm;
};

extern const struct victim_kind victim_kinds[];
extern const unsigned victim_kind_count;

const struct victim_kind *victim_kind(const char *name);

/* False: it can't run here, for want of /dev/kvm. */
bool victim_can_run(const struct victim_kind *kind);

/* Returns when it has begun. */
void victim_start(struct victim *v, const struct victim_kind *kind);

/* How far it has come: rounds, or what its guest has counted. */
uint64_t victim_progress(const struct victim *v);

/* Fails the test unless it comes further, `count` times. */
void victim_goes_on(struct victim *v, unsigned count);

/* Ends it well: fails the test when it has had faults or has died. */
void victim_end(struct victim *v);

/* Sends the `number`th signal, from 0 on. */
void victim_signal(const struct victim *v, int number);

/* The names and targets of its descriptors; to be freed. */
char *victim_descriptors(const struct victim *v);

/* Waits until something is so; fails the test after half a minute. */
void await_number(int64_t (*get)(pid_t), pid_t pid, int64_t expected);

int64_t tracer_of(pid_t pid);

#endif
