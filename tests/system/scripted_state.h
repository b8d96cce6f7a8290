/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_TESTS_SCRIPTED_STATE_H
#define FERRY_TESTS_SCRIPTED_STATE_H

#include <stdint.h>

#define STATE_SIZE_MIN 32 /* and a multiple of 8 */

/* Writes a device state of `size` bytes that carries `written`. */
int state_put(int fd, uint64_t size, uint64_t written);

/* Reads one and checks each byte of it.  -EINVAL, -EBADMSG, -ENODATA: it is not what was written.
 */
int state_check(int fd, uint64_t *written);

#endif
