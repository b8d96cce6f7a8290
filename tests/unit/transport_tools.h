/* SPDX-License-Identifier: BSD-3-Clause */
/* What the tests of transports share: endpoints, texts through channels, a cancel at a moment. */
#ifndef FERRY_TESTS_UNIT_TRANSPORT_TOOLS_H
#define FERRY_TESTS_UNIT_TRANSPORT_TOOLS_H

#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"
#include "tests/unit/waits.h"
#include "transports/transport.h"

#include <pthread.h>

/* A folder for sockets and files; its name is short enough for a socket's. */
void make_folder(void);
void remove_folder(void);

#define PATH_ROOM 128
const char *in_folder(char buf[PATH_ROOM], const char *before, const char *name);

/* For fd:; `opaque` points to the descriptor that goes by the name "mine", once. */
int take_fd(void *opaque, const char *name, struct error **errp);

struct endpoint *parse(const char *uri);
struct endpoint *parse_fd(int fd);

bool write_text(struct channel *c, const char *text, const struct wait *w, struct error **errp);
/* Reads just that text. */
void expect_text(struct channel *c, const char *text);
void expect_end(struct channel *c);

/* Channels over two descriptors, which they take over. */
void pair_of_fds(struct channel *ends[2], int fds[2]);

/* Rings `cancel` when `watched` (or -1) has something to say. */
struct canceller {
    int cancel, watched;
    short events;
    pthread_t thread;
};

/* The wait that it cuts short; then joins it and looks at the error that came of it. */
struct wait cancel_begin(struct canceller *c, int watched, short events);
void cancel_end(struct canceller *c, struct error *err);

#endif
