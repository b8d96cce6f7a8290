/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A QMP client on one end of a socket pair; on the other, the test is the monitor.  The test's own
 * thread is the main thread, too: what the monitor says is read as soon as it was said.  Calls that
 * wait are made on a thread of their own.
 */
#ifndef FERRY_TESTS_UNIT_MONITOR_STAGE_H
#define FERRY_TESTS_UNIT_MONITOR_STAGE_H

#include "qemu/client.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"
#include "tests/unit/waits.h"

#include <pthread.h>

struct monitor {
    struct client *c;
    int far;           /* the monitor's end; -1: closed */
    char heard[65536]; /* of the client, and not looked at yet */
    size_t length;     /* of that */
    int fd;            /* that came with it; -1: none */
    char events[1024]; /* "NAME DATA\n" for each */
};

void monitor_open(struct monitor *m);
void monitor_close(struct monitor *m);

/* Bytes for the client, which it does not read yet. */
void monitor_send(struct monitor *m, const char *bytes, size_t length);
/* Has the client read them; it must be content. */
void monitor_read(struct monitor *m);
/* Says a text, and has it read. */
void monitor_say(struct monitor *m, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Says it; the client must refuse the monitor for it. */
void monitor_offend(struct monitor *m, const char *bytes, size_t length, const char *part);

/* Waits for the client's next command, which must be that one; its ID. */
json_int_t monitor_hear(struct monitor *m, const char *name);
/* The next command as text, to be freed. */
char *monitor_hear_text(struct monitor *m);
void monitor_greet(struct monitor *m);

/* A call on a thread of its own. */
struct asking {
    struct monitor *m;
    struct client_command command;
    struct wait w;
    int fd;     /* to be sent along; -1: none */
    bool greet; /* it waits for the greeting */
    pthread_t thread;
    json_t *reply;
    struct error *err;
    unsigned version;
};

/* Begins one that is filled in; the others fill it in for what is common. */
void asking_start(struct asking *a);
void asking_begin(struct asking *a, struct monitor *m, const char *name, const struct wait *w);
void asking_greet(struct asking *a, struct monitor *m, const struct wait *w);
void asking_send_fd(struct asking *a, struct monitor *m, int fd);
/* Waits for its end; what came of it must be that.  `reply` is JSON text. */
void asking_expect(struct asking *a, const char *reply);
void asking_expect_error(struct asking *a, const char *code, const char *part);

/* For commands of the main thread: how often it was called, and with what. */
struct told {
    unsigned calls;
    char *reply; /* JSON text, or NULL */
    struct error *err;
};

client_done note_told;
void told_expect(struct told *t, const char *reply);
void told_expect_error(struct told *t, const char *code, const char *part);

#endif
