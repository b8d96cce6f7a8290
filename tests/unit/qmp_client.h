/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A server on an unnamed unix socket with stub handlers, and clients of it, all in one thread: the
 * clients run the server's loop while they wait.  No test sleeps.
 */
#ifndef FERRY_TESTS_UNIT_QMP_CLIENT_H
#define FERRY_TESTS_UNIT_QMP_CLIENT_H

#include "protocol/qmp.h"
#include "protocol/schema.h"

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#define STAGE_HELD_MAX 64

/* The server side of a test. */
struct stage {
    struct event_base *base;
    struct qmp_server *server;
    struct schema schema; /* for the handlers' names */
    struct qmp_command *commands;
    struct sockaddr_un address;
    socklen_t address_len;
    struct qmp_request *held[STAGE_HELD_MAX]; /* requests of "stop", answered by the test */
    size_t held_count;
    int fds[STAGE_HELD_MAX]; /* what "getfd" took */
    size_t fd_count;
};

struct client {
    struct stage *stage;
    int fd;
    char *bytes; /* received and not looked at yet */
    size_t len;
};

void stage_open(struct stage *stage);
void stage_close(struct stage *stage);

/* Runs the loop until nothing is ready. */
void stage_run(struct stage *stage);

/* Answers the oldest request that is held. */
void stage_answer(struct stage *stage);

/* Connects; client_open also reads the greeting, and client_negotiated negotiates. */
void client_connect(struct client *client, struct stage *stage);
void client_open(struct client *client, struct stage *stage);
void client_negotiated(struct client *client, struct stage *stage, const char *enable);
void client_close(struct client *client);

/* Sends all of it, running the loop whenever the socket is full; false when the server closed. */
bool client_send_bytes(struct client *client, const void *bytes, size_t len);
void client_send(struct client *client, const char *text);
void client_send_fds(struct client *client, const char *text, int fd, size_t count);

/* The next line as JSON, the caller's; NULL when the server closed or has no more to say. */
json_t *client_line(struct client *client);

/* Whether the server has closed the connection and all was read. */
bool client_at_end(struct client *client);

/* Fails the test unless the next line is the JSON `text`, whitespace and order aside. */
void client_expect(struct client *client, const char *text);

/* ... is an error of that class and code, with that id (NULL: none). */
void client_expect_error(struct client *client, const char *class, const char *code,
                         const char *id);

/* ... does not come. */
void client_expect_silence(struct client *client);

#endif
