/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const class_names[] = {
    [ERROR_GENERIC] = "GenericError",
    [ERROR_COMMAND_NOT_FOUND] = "CommandNotFound",
    [ERROR_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
    [ERROR_DEVICE_NOT_FOUND] = "DeviceNotFound",
    [ERROR_KVM_MISSING_CAP] = "KVMMissingCap",
};

/* Errors are made when little else works, so running out of memory here ends the process. */
__attribute__((format(printf, 1, 0))) static char *format_text(const char *format, va_list args)
{
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0) {
        abort();
    }
    return text;
}

void error_set_va(struct error **errp, enum error_class class, const char *code, const char *format,
                  va_list args)
{
    if (!errp || *errp) {
        return;
    }
    struct error *err = malloc(sizeof(*err));
    if (!err) {
        abort();
    }
    *err = (struct error){.class = class, .code = code, .text = format_text(format, args)};
    *errp = err;
}

void error_set(struct error **errp, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    error_set_va(errp, ERROR_GENERIC, code, format, args);
    va_end(args);
}

void error_set_class(struct error **errp, enum error_class class, const char *code,
                     const char *format, ...)
{
    va_list args;
    va_start(args, format);
    error_set_va(errp, class, code, format, args);
    va_end(args);
}

void error_wrap(struct error **errp, const char *format, ...)
{
    if (!errp || !*errp) {
        return;
    }
    va_list args;
    va_start(args, format);
    char *prefix = format_text(format, args);
    va_end(args);
    char *text = NULL;
    if (asprintf(&text, "%s: %s", prefix, (*errp)->text) < 0) {
        abort();
    }
    free(prefix);
    free((*errp)->text);
    (*errp)->text = text;
}

void error_move(struct error **errp, struct error *from)
{
    if (errp && !*errp) {
        *errp = from;
    } else {
        error_free(from);
    }
}

struct error *error_copy(const struct error *err)
{
    struct error *copy = NULL;
    error_set_class(&copy, err->class, err->code, "%s", err->text);
    return copy;
}

void error_free(struct error *err)
{
    if (err) {
        free(err->text);
        free(err);
    }
}

const char *error_class_name(enum error_class class)
{
    return class_names[class];
}
