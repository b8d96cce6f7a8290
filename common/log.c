/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/log.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Longer messages are cut: a log line must not allocate. */
#define LOG_LINE_MAX 1024

static const char *const level_names[] = {
    [LOG_LEVEL_ERROR] = "error",
    [LOG_LEVEL_WARNING] = "warning",
    [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_DEBUG] = "debug",
};

static enum log_level max_level = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
    max_level = level;
}

int log_level_from_name(const char *name)
{
    for (size_t i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++) {
        if (strcmp(level_names[i], name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

static size_t clamp(int printed, size_t room)
{
    if (printed < 0) {
        return 0;
    }
    return (size_t)printed < room ? (size_t)printed : room - 1;
}

void log_write(enum log_level level, const char *format, ...)
{
    if (level > max_level) {
        return;
    }
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);

    char line[LOG_LINE_MAX + 1];
    size_t n = strftime(line, LOG_LINE_MAX, "%H:%M:%S", &tm);
    n += clamp(snprintf(line + n, LOG_LINE_MAX - n, ".%03ld %s: ", now.tv_nsec / 1000000,
                        level_names[level]),
               LOG_LINE_MAX - n);
    va_list args;
    va_start(args, format);
    n += clamp(vsnprintf(line + n, LOG_LINE_MAX - n, format, args), LOG_LINE_MAX - n);
    va_end(args);
    line[n++] = '\n';
    /* One write keeps the lines of several threads whole; a log that can't be written is lost. */
    ssize_t ignored = write(STDERR_FILENO, line, n);
    (void)ignored;
}
