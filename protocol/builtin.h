/* SPDX-License-Identifier: BSD-3-Clause */
/* The commands that are about the protocol itself. */
#ifndef FERRY_PROTOCOL_BUILTIN_H
#define FERRY_PROTOCOL_BUILTIN_H

#include "protocol/qmp.h"

/* Their opaque is the server.  Ends with a NULL name. */
extern const struct qmp_command builtin_commands[];

#endif
