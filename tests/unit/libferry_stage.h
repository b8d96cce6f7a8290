/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libferry from its wire: the test plays ferryd, and a VMM whose callbacks write down that they
 * were called.
 */
#ifndef FERRY_TESTS_UNIT_LIBFERRY_STAGE_H
#define FERRY_TESTS_UNIT_LIBFERRY_STAGE_H

#include "guest/libferry.h"
#include "guest/wire.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <pthread.h>
#include <sys/un.h>

/* ---- the VMM ---- */

struct vmm {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char calls[512]; /* "stop resume throttle=20" */
    /* What the callback of this name does. */
    const char *failing;
    int error;
    const char *words; /* or NULL */
    const char *blocking;
    bool blocked, go_on;
    char loaded[32]; /* what load_state has read */
    struct ferry *f;
};

/* Writes a call down, for callbacks of a test's own; what it is to answer. */
int vmm_called(struct vmm *v, const char *name);

/* Of the optional callbacks only throttle, released and announce. */
extern const struct ferry_ops all_ops;
void on_attached(void *opaque);
void on_detached(void *opaque, const char *reason);

void vmm_init(struct vmm *v);
/* Waits until the calls since the last time are these. */
void expect_calls(struct vmm *v, const char *calls);
/* For a callback named by v->blocking: waits until it hangs, and ends that. */
void await_blocked(struct vmm *v);
void let_go_on(struct vmm *v);
/* The callback of that name fails from now on; NULL: none does. */
void make_fail(struct vmm *v, const char *name, int error, const char *words);

/* ---- ferryd ---- */

struct ferryd {
    char folder[32];
    struct sockaddr_un addr;
    int listener, sock;
    uint64_t seq;
    struct wire_hello hello;
    struct wire_block blocks[4];
    struct wire_blocker blockers[WIRE_BLOCKERS_MAX]; /* of the introduction */
    unsigned nblockers;
};

void ferryd_init(struct ferryd *d);
void ferryd_listen(struct ferryd *d);
void ferryd_end(struct ferryd *d);

/* The next message, of any type, without a descriptor. */
struct wire_message await_any(struct ferryd *d);
/* The next message; `fd` (or NULL) is the caller's. */
struct wire_message await_message(struct ferryd *d, uint32_t type, int *fd);
void expect_lost(struct ferryd *d);
/* Accepts a VMM and reads its introduction; `same` (or NULL) are its blocks' files. */
void take_introduction(struct ferryd *d, const int *same);
void welcome(struct ferryd *d);

struct wire_reply ask(struct ferryd *d, uint32_t type, const void *body, int fd);
/* Asks, and expects it done with the guest in `state` then. */
struct wire_reply expect_done(struct ferryd *d, uint32_t type, const void *body, int fd,
                              enum ferry_guest_state state);
/* Asks, and expects an error; `part` (or NULL) is in its words. */
void expect_refusal(struct ferryd *d, uint32_t type, const void *body, int fd, int status,
                    const char *part);

/* ---- both ---- */

extern const struct wire_stop migration_stop, pause_request;
extern const struct wire_resume migration_resume, cont_request;
extern const struct wire_give_away give_away;
extern const struct wire_start start_running, start_paused;

/* A guest of two blocks next to each other, of 70 and 10 pages, and a third further up. */
#define FIRST     70u
#define SECOND    10u
#define THIRD     3u
#define THIRD_GPA (1ULL << 32)

struct stage {
    struct ferryd d;
    struct vmm v;
    struct ferry *f;
    int fds[3];
};

/* A guest that is not started; one that is, and welcomed; the end of either. */
void lib_stage_make(struct stage *s, bool incoming, const struct ferry_ops *ops);
void lib_stage_open(struct stage *s, bool incoming);
void lib_stage_close(struct stage *s);

/* Loses the connection, and takes the next one's introduction. */
void reconnect(struct stage *s);

#endif
