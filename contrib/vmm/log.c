/* SPDX-License-Identifier: BSD-3-Clause */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const level_names[] = {
    [LOG_ERROR] = "error",
    [LOG_WARNING] = "warning",
    [LOG_INFO] = "info",
    [LOG_DEBUG] = "debug",
};

/* Set once, before any thread starts. */
static enum log_level threshold = LOG_WARNING;

bool log_set_level(const char *name)
{
    for (unsigned i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++) {
        if (strcmp(name, level_names[i]) == 0) {
            threshold = (enum log_level)i;
            return true;
        }
    }
    return false;
}

void log_message(enum log_level level, const char *format, ...)
{
    char line[512];
    va_list args;

    if (level > threshold) {
        return;
    }
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    /* One call, so that lines of several threads do not mix. */
    fprintf(stderr, "ferry-vmm: %s\n", line);
}

int fault_set(struct fault *fault, int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(fault->text, sizeof(fault->text), format, args);
    va_end(args);
    return code;
}
