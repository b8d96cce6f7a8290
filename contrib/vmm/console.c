/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The console's outer end.  vCPU threads write to it, so it must never wait for a reader: a guest
 * that cannot be stopped because somebody reads its console slowly could not be migrated.  A
 * client that falls behind is dropped; a pipe on stdout that is full loses the line.
 */
#include "console.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int listen_at(const char *path, struct fault *fault)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0) {
        return fault_set(fault, -errno, "no console socket: %s", strerror(errno));
    }
    memccpy(address.sun_path, path, '\0', sizeof(address.sun_path) - 1);
    unlink(path);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 4) != 0) {
        int code = errno;
        close(fd);
        return fault_set(fault, -code, "no console at %s: %s", path, strerror(code));
    }
    return fd;
}

int console_create(struct console *console, const char *path, struct fault *fault)
{
    *console = (struct console){.path = path, .listen_fd = -1};
    pthread_mutex_init(&console->lock, NULL);
    for (int i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        console->clients[i] = -1;
    }
    if (path == NULL) {
        return 0;
    }
    console->listen_fd = listen_at(path, fault);
    return console->listen_fd < 0 ? console->listen_fd : 0;
}

void console_free(struct console *console)
{
    for (int i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        if (console->clients[i] >= 0) {
            close(console->clients[i]);
        }
    }
    if (console->listen_fd >= 0) {
        close(console->listen_fd);
        unlink(console->path);
    }
    if (console->dropped > 0) {
        log_message(LOG_INFO, "%llu bytes of the console found no reader",
                    (unsigned long long)console->dropped);
    }
    pthread_mutex_destroy(&console->lock);
}

void console_accept(struct console *console)
{
    int fd = accept4(console->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0) {
        return;
    }
    pthread_mutex_lock(&console->lock);
    for (int i = 0; i < CONSOLE_CLIENTS_MAX && fd >= 0; i++) {
        if (console->clients[i] < 0) {
            console->clients[i] = fd;
            fd = -1;
        }
    }
    pthread_mutex_unlock(&console->lock);
    if (fd >= 0) {
        log_message(LOG_WARNING, "the console has %d clients already", CONSOLE_CLIENTS_MAX);
        close(fd);
    }
}

static void write_stdout(struct console *console, const void *data, size_t length)
{
    struct pollfd ready = {.fd = STDOUT_FILENO, .events = POLLOUT};

    /* A pipe that polls writable takes PIPE_BUF bytes at once, and callers write less. */
    if (poll(&ready, 1, 0) != 1 || (ready.revents & POLLOUT) == 0 ||
        write(STDOUT_FILENO, data, length) != (ssize_t)length) {
        console->dropped += length;
    }
}

static void write_clients(struct console *console, const void *data, size_t length)
{
    for (int i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        int *fd = &console->clients[i];
        if (*fd >= 0 && send(*fd, data, length, MSG_NOSIGNAL) != (ssize_t)length) {
            log_message(LOG_INFO, "a console client is gone or too slow");
            console->dropped += length;
            close(*fd);
            *fd = -1;
        }
    }
}

void console_write(struct console *console, const void *data, size_t length)
{
    pthread_mutex_lock(&console->lock);
    if (console->path == NULL) {
        write_stdout(console, data, length);
    } else {
        write_clients(console, data, length);
    }
    pthread_mutex_unlock(&console->lock);
}
