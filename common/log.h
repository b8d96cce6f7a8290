/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One line per message on stderr, from any thread; or whole messages, with fields by which they can
 * be found, to where log_set_sink says.
 */
#ifndef FERRY_COMMON_LOG_H
#define FERRY_COMMON_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Messages above `level` are dropped. */
void log_set_level(enum log_level level);

/* "error", "warning", "info" or "debug"; -1 when it is none of them. */
int log_level_from_name(const char *name);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What a message is about.  NULL: nothing to say. */
struct log_fields {
    const char *guest;
    const char *job;        /* its UUID */
    const char *state;      /* of a migration */
    const char *code;       /* of an error */
    const char *message_id; /* of the kind of message, 32 hexadecimal digits */
};

/* The same with fields, which a line on stderr leaves out: its text must do without. */
void log_with(enum log_level level, const struct log_fields *fields, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Takes the messages in the place of stderr; false: it could not, and stderr gets this one. */
typedef bool log_sink(enum log_level level, const struct log_fields *fields, const char *text);

/* Before any other thread runs. */
void log_set_sink(log_sink *sink);

#define log_error(...)   log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
