/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An error is an object, made where most is known, with words for the user and a stable code for
 * programs.  Functions that can fail take `struct error **errp` last and return false, -1 or NULL
 * after setting it; a caller that adds knowledge wraps it, one that does not care passes NULL.
 * A second error_set on the same errp is ignored: the first error is the one reported.
 */
#ifndef FERRY_COMMON_ERROR_H
#define FERRY_COMMON_ERROR_H

#include <stdarg.h>

/* QMP's error classes; clients of the reference tell errors apart by them. */
enum error_class {
    ERROR_GENERIC,
    ERROR_COMMAND_NOT_FOUND,
    ERROR_DEVICE_NOT_ACTIVE,
    ERROR_DEVICE_NOT_FOUND,
    ERROR_KVM_MISSING_CAP,
};

struct error {
    enum error_class class;
    const char *code; /* a static string: "guest-unknown"; schema/control.json lists them all */
    char *text;       /* one line, owned */
};

/* `code` must be a string literal. */
void error_set(struct error **errp, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void error_set_class(struct error **errp, enum error_class class, const char *code,
                     const char *format, ...) __attribute__((format(printf, 4, 5)));
void error_set_va(struct error **errp, enum error_class class, const char *code, const char *format,
                  va_list args) __attribute__((format(printf, 4, 0)));

/* Puts "FORMAT: " before the text of *errp, which must be set (or errp NULL). */
void error_wrap(struct error **errp, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Moves `from` into *errp; frees it when errp is NULL or already holds one. */
void error_move(struct error **errp, struct error *from);

struct error *error_copy(const struct error *err);
void error_free(struct error *err); /* NULL is allowed */

const char *error_class_name(enum error_class class);

#endif
