/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the daemon and a service manager say to each other.  service_systemd.c speaks with systemd;
 * where that is not there at build time, service_none.c takes its place, and nothing is said.
 */
#ifndef FERRY_DAEMON_SERVICE_H
#define FERRY_DAEMON_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

/* Sends the log to the journal where stderr is connected to it (JOURNAL_STREAM). */
void service_open_log(void);

/* The descriptor passed under that name, once, close-on-exec; -1: none was. */
int service_socket(const char *name);

/* Whether one was, and was not taken yet. */
bool service_has_socket(const char *name);

/* Nanoseconds between two signs of life that are waited for; 0: none are. */
uint64_t service_watchdog_ns(void);
void service_is_alive(void);

/* The daemon serves; rereads its configuration, and has; ends. */
void service_is_ready(void);
void service_reloads(void);
void service_ends(void);

#endif
