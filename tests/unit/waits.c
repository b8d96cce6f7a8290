/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/waits.h"

const struct wait patient = {.cancel_fd = -1, .timeout_ms = 30000, .what = "the test"};
const struct wait hasty = {.cancel_fd = -1, .timeout_ms = 20, .what = "the test"};
