/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The daemon's side of a VMM that links libferry.  The test is both the daemon's main thread and
 * the VMM; calls that a job makes run on a thread of their own.
 */
#ifndef FERRY_TESTS_UNIT_AGENT_STAGE_H
#define FERRY_TESTS_UNIT_AGENT_STAGE_H

#include "guest/agent.h"
#include "guest/wire.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"
#include "tests/unit/waits.h"

#include <pthread.h>

#define PATIENCE_MS 30000

/* ---- the daemon ---- */

struct stage {
    struct guest *g;
    int sock;      /* the daemon's end of the socket, which belongs to the guest */
    int vmm;       /* the VMM's */
    int files[4];  /* what the VMM passes */
    bool refusing; /* the daemon wants no more guests */
    unsigned attached, changes, shut_downs;
    enum guest_state from; /* of the last change */
};

/* A connection; one whose VMM is welcome; the end of either. */
void agent_stage_open(struct stage *s);
void agent_stage_attach(struct stage *s);
void agent_stage_close(struct stage *s);

/* The daemon's loop: reads what has come, as often as there is something. */
bool read_all(struct stage *s, struct error **errp);
void expect_read(struct stage *s);

/* ---- the VMM ---- */

void vmm_send(struct stage *s, uint32_t type, uint64_t seq, const void *body, int fd);
struct wire_message vmm_receive(struct stage *s, uint32_t type, int *fd);
void vmm_reply(struct stage *s, uint64_t seq, int status, enum guest_state state, const char *text);
void expect_silence(struct stage *s);

/* A guest "unit" of two blocks: "low", 70 pages at 0, and "high", 10 pages behind it. */
struct wire_hello good_hello(void);
struct wire_block good_block(int index);
extern const uint64_t block_pages[2];
/* All of its introduction. */
void introduce(struct stage *s, struct wire_hello hello);

/* ---- a job's calls ---- */

/* One call of guest_ops on a job's thread. */
struct call {
    struct stage *s;
    void (*make)(struct call *c);
    struct wait w;
    bool ok;
    struct error *err;
    bool was_paused;
    int fd;
    uint64_t dirty[2][2];
    pthread_t thread;
};

void call_begin(struct call *c, struct stage *s, void (*make)(struct call *c),
                const struct wait *w);
/* Waits for its end, which must be a good one, or a failure. */
void call_done(struct call *c);
void call_failed(struct call *c, const char *code, const char *part);

/* As make_start asks for them. */
extern const struct guest_announce some_rounds;

void make_stop(struct call *c);
void make_resume(struct call *c);
void make_save(struct call *c);
void make_load(struct call *c);
void make_start(struct call *c);
void make_give_away(struct call *c);
void make_take_back(struct call *c);
void make_release(struct call *c);
void make_log_start(struct call *c);
void make_log_sync(struct call *c);
void make_log_clear(struct call *c);

/* ---- the main thread's requests ---- */

/* How often an guest_done was called, and with what at last. */
struct outcome {
    unsigned calls;
    struct error *err;
};

void note_outcome(void *opaque, struct error *err);

#endif
