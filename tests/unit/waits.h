/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_TESTS_UNIT_WAITS_H
#define FERRY_TESTS_UNIT_WAITS_H

#include "common/wait.h"

/* As long as a test may take, and as short as waits for what never comes. */
extern const struct wait patient, hasty;

#endif
