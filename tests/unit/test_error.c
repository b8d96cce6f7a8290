/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/cleanup.h"
#include "common/error.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

START_TEST(set_once)
{
    CLEANUP_ERROR struct error *err = NULL;
    error_set(&err, "timeout", "%d of %s", 1, "two");
    ck_assert_str_eq(err->code, "timeout");
    ck_assert_str_eq(err->text, "1 of two");
    ck_assert_int_eq(err->class, ERROR_GENERIC);
    error_set(&err, "cancelled", "later");
    error_set_class(&err, ERROR_DEVICE_NOT_FOUND, "guest-unknown", "later");
    ck_assert_str_eq(err->code, "timeout");
    ck_assert_str_eq(err->text, "1 of two");
    ck_assert_int_eq(err->class, ERROR_GENERIC);
}
END_TEST

START_TEST(nobody_cares)
{
    struct error *none = NULL;
    error_set(NULL, "timeout", "unseen");
    error_wrap(NULL, "unseen");
    error_wrap(&none, "unseen");
    ck_assert_ptr_null(none);
    error_free(NULL);
}
END_TEST

START_TEST(classes)
{
    CLEANUP_ERROR struct error *err = NULL;
    error_set_class(&err, ERROR_COMMAND_NOT_FOUND, "command-unknown", "no %s", "such");
    ck_assert_int_eq(err->class, ERROR_COMMAND_NOT_FOUND);
    ck_assert_str_eq(error_class_name(ERROR_GENERIC), "GenericError");
    ck_assert_str_eq(error_class_name(ERROR_COMMAND_NOT_FOUND), "CommandNotFound");
    ck_assert_str_eq(error_class_name(ERROR_DEVICE_NOT_ACTIVE), "DeviceNotActive");
    ck_assert_str_eq(error_class_name(ERROR_DEVICE_NOT_FOUND), "DeviceNotFound");
    ck_assert_str_eq(error_class_name(ERROR_KVM_MISSING_CAP), "KVMMissingCap");
}
END_TEST

START_TEST(wrap)
{
    CLEANUP_ERROR struct error *err = NULL;
    error_set(&err, "timeout", "inner 100%%");
    error_wrap(&err, "%s", "outer");
    error_wrap(&err, "most outer");
    ck_assert_str_eq(err->text, "most outer: outer: inner 100%");
    ck_assert_str_eq(err->code, "timeout");
}
END_TEST

START_TEST(move)
{
    struct error *first = NULL, *second = NULL, *to = NULL;
    error_set(&first, "timeout", "first");
    error_set(&second, "cancelled", "second");
    error_move(&to, first);
    ck_assert_ptr_eq(to, first);
    error_move(&to, second); /* frees it */
    ck_assert_ptr_eq(to, first);
    error_move(NULL, to);
}
END_TEST

START_TEST(copy)
{
    CLEANUP_ERROR struct error *err = NULL;
    error_set_class(&err, ERROR_DEVICE_NOT_ACTIVE, "timeout", "with %%s in it");
    CLEANUP_ERROR struct error *other = error_copy(err);
    ck_assert_ptr_ne(err->text, other->text);
    ck_assert_str_eq(other->text, "with %s in it");
    ck_assert_str_eq(other->code, err->code);
    ck_assert_int_eq(other->class, err->class);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("common/error");
    unit_add(suite, "common/error/set-once", set_once);
    unit_add(suite, "common/error/nobody-cares", nobody_cares);
    unit_add(suite, "common/error/classes", classes);
    unit_add(suite, "common/error/wrap", wrap);
    unit_add(suite, "common/error/move", move);
    unit_add(suite, "common/error/copy", copy);
    return unit_run(suite);
}
