/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A client of a VMM's QMP monitor (docs/interop/qmp-spec of QEMU).
 *
 * The main thread reads the socket and so sees replies and events first.  Other threads send their
 * commands themselves and sleep until the main thread hands them the reply; at most one of them at
 * a time works with a client.  Commands for which nobody waits are asynchronous.
 *
 * What comes in is hostile: a monitor that sends no JSON, too much of it, or replies that nobody
 * waits for loses its connection, or is not listened to.
 */
#ifndef FERRY_QEMU_CLIENT_H
#define FERRY_QEMU_CLIENT_H

#include "common/error.h"
#include "common/wait.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct client;

/* Versions compare as numbers: CLIENT_VERSION(8, 1). */
#define CLIENT_VERSION(major, minor) ((unsigned)(major)*1000 + (unsigned)(minor))

/* On the main thread, from within client_read. */
typedef void client_event(void *opaque, const char *name, const json_t *data);

/* When the event that is being handled happened, by its timestamp; clock_ns.  From client_event. */
uint64_t client_event_ns(const struct client *c);

/*
 * The outcome of a command that nobody waits for: its "return", borrowed, or an error, taken over.
 * On the main thread, but for a command that can't be sent: then from within client_ask.
 */
typedef void client_done(void *opaque, json_t *reply, struct error *err);

/* A command.  `arguments` (NULL: none) is taken over. */
struct client_command {
    const char *name;
    json_t *arguments;
    /* Called on the main thread when it has been done well, before anybody else hears of it. */
    void (*seen)(void *opaque, json_t *reply);
    void *opaque;
};

/* What a monitor says, cut and made printable for an error. */
#define CLIENT_WORDS 256
const char *client_words(const json_t *value, char words[CLIENT_WORDS]);

/*
 * Takes over `sock`, a connected SOCK_STREAM socket that is non-blocking.  `who` ("guest 'x'") is
 * copied, for errors. NULL: no descriptors left.
 */
struct client *client_new(int sock, const char *who, client_event *event, void *opaque);
void client_free(struct client *c);

/* ---- the main thread ---- */

/* Handles what has come.  Errors: "guest-lost", "guest-protocol". */
bool client_read(struct client *c, struct error **errp);

/* The connection is over, and ended: whoever waits hears "guest-lost".  `done` of commands is
 * called. */
void client_lost(struct client *c);

/* Ends commands of client_ask that are past their deadline. */
void client_expire(struct client *c);

/* Wakes the thread that sleeps in client_call or client_sleep. */
void client_wake(struct client *c);

/* ---- any thread ---- */

/* Sends a command whose outcome `done` is told, once. */
void client_ask(struct client *c, const struct client_command *command, int timeout_ms,
                client_done *done, void *opaque);

/* Sends a command whose reply is of no interest, but to `seen`.  Lost with the connection. */
void client_tell(struct client *c, const struct client_command *command);

/* Ends the connection: the main thread's next client_read says so. */
void client_hang_up(struct client *c);

/* ---- the one other thread ---- */

/* Waits for the greeting; what CLIENT_VERSION makes of it, or 0. */
unsigned client_greet(struct client *c, const struct wait *w, struct error **errp);

/*
 * Executes a command; its "return", the caller's, or NULL.  Errors: "guest-refused" (the monitor's
 * words), "guest-timeout", "guest-lost", "cancelled".  A command that was given up may be executed
 * all the same, later; its `seen` is not called then.
 */
json_t *client_call(struct client *c, const struct client_command *command, const struct wait *w,
                    struct error **errp);

/* The same with a descriptor along, which stays the caller's; true: done. */
bool client_send_fd(struct client *c, const char *name, int fd, const struct wait *w,
                    struct error **errp);

/* The socket, which stays the client's. */
int client_socket(const struct client *c);

/*
 * Whatever this thread waits for from now on, `take` is called when `fd` has something to read; its
 * failure ends the wait.  -1: no more.
 */
typedef bool client_take(void *opaque, struct error **errp);
void client_attend(struct client *c, int fd, client_take *take, void *opaque);

/*
 * Sleeps until client_wake, or until what is attended to was taken, at most until `deadline_ns` (of
 * clock_ns; 0: no deadline).  1: look again; 0: the deadline; -1 with an error.  client_woken
 * before it, and before what is waited for is looked at.
 */
int client_sleep(struct client *c, uint64_t deadline_ns, const struct wait *w, struct error **errp);
void client_woken(struct client *c);
bool client_is_lost(struct client *c);

#endif
