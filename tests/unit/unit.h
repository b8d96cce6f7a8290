/* SPDX-License-Identifier: BSD-3-Clause */
/* Each test program is one suite; each test has a path for its name. */
#ifndef FERRY_TESTS_UNIT_UNIT_H
#define FERRY_TESTS_UNIT_UNIT_H

#include <check.h>
#include <stdlib.h>

/* Seconds for one test; generous, as sanitizers and a busy machine slow it down. */
#define UNIT_TIMEOUT 60

/* The test runs `count` times, with _i from 0 on. */
static inline void unit_add_loop(Suite *suite, const char *path, const TTest *test, unsigned count)
{
    TCase *tcase = tcase_create(path);
    tcase_set_timeout(tcase, UNIT_TIMEOUT);
    tcase_add_loop_test(tcase, test, 0, (int)count);
    suite_add_tcase(suite, tcase);
}

static inline void unit_add(Suite *suite, const char *path, const TTest *test)
{
    unit_add_loop(suite, path, test, 1);
}

/* Runs and frees the suite; for main to return. */
static inline int unit_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
