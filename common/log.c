/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/log.h"

#include <stdarg.h>
#include <stdatomic.h>
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

static _Atomic int max_level = LOG_LEVEL_INFO;
static log_sink *sink;

void log_set_level(enum log_level level)
{
    atomic_store(&max_level, (int)level);
}

void log_set_sink(log_sink *to)
{
    sink = to;
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

static void write_line(enum log_level level, const char *text)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);

    char line[LOG_LINE_MAX + 64];
    size_t n = strftime(line, sizeof(line), "%H:%M:%S", &tm);
    n += clamp(snprintf(line + n, sizeof(line) - n, ".%03ld %s: %s", now.tv_nsec / 1000000,
                        level_names[level], text),
               sizeof(line) - n);
    line[n++] = '\n';
    /* One write keeps the lines of several threads whole; a log that can't be written is lost. */
    ssize_t ignored = write(STDERR_FILENO, line, n);
    (void)ignored;
}

__attribute__((format(printf, 3, 0))) static void write_message(enum log_level level,
                                                                const struct log_fields *fields,
                                                                const char *format, va_list args)
{
    char text[LOG_LINE_MAX];
    if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed)) {
        return;
    }
    vsnprintf(text, sizeof(text), format, args);
    if (!sink || !sink(level, fields, text)) {
        write_line(level, text);
    }
}

void log_write(enum log_level level, const char *format, ...)
{
    static const struct log_fields none;
    va_list args;
    va_start(args, format);
    write_message(level, &none, format, args);
    va_end(args);
}

void log_with(enum log_level level, const struct log_fields *fields, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    write_message(level, fields, format, args);
    va_end(args);
}
