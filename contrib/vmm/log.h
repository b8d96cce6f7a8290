/* SPDX-License-Identifier: BSD-3-Clause */
/* Messages to stderr, and the words of an error on its way up. */
#ifndef FERRY_VMM_LOG_H
#define FERRY_VMM_LOG_H

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

/* "error", "warning", "info" or "debug"; false for anything else. */
bool log_set_level(const char *name);

void log_message(enum log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Why something failed, in words fit for an operator. */
struct fault {
    char text[256];
};

/* Writes the words and gives back `code`, so that a function can `return fault_set(...)`. */
int fault_set(struct fault *fault, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
