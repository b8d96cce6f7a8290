/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_CONSOLE_H
#define FERRY_VMM_CONSOLE_H

#include "log.h"

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define CONSOLE_CLIENTS_MAX 8

/* Where the serial port's lines go: stdout, or the clients of a unix socket. */
struct console {
    pthread_mutex_t lock;
    const char *path; /* NULL: stdout */
    int listen_fd;    /* for the main loop to poll; -1 without a socket */
    int clients[CONSOLE_CLIENTS_MAX];
    uint64_t dropped; /* bytes that nobody took in time */
};

int console_create(struct console *console, const char *path, struct fault *fault);
void console_free(struct console *console);

/* Takes a client that has connected. */
void console_accept(struct console *console);

/* Never blocks: what a reader does not take now it does not get. */
void console_write(struct console *console, const void *data, size_t length);

#endif
