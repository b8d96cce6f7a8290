/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_TESTS_SCRIPTED_COMMANDS_H
#define FERRY_TESTS_SCRIPTED_COMMANDS_H

#include "scripted_guest.h"

/* Runs one line and answers it; false: it was the last.  Cuts the line up. */
bool command_run(struct guest *guest, char *line);

#endif
