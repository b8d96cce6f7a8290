/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Touching memory that a VMM may take away.  Cutting a mapped file short turns the mapping's tail
 * into SIGBUS; fault_guarded catches it for the one function that it runs, on the thread that it
 * runs on.  A SIGBUS anywhere else ends the process as it should.
 */
#ifndef FERRY_RAM_FAULT_H
#define FERRY_RAM_FAULT_H

#include <stdbool.h>

/* Installs the SIGBUS handler; once, before any job starts. */
void fault_init(void);

/*
 * Runs fn(arg).  False when a SIGBUS cut it short: fn must not hold locks or allocate, since it is
 * left where it was.  Does not nest.
 */
bool fault_guarded(void (*fn)(void *arg), void *arg);

#endif
