/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_PORTS_H
#define FERRY_VMM_PORTS_H

#include "disk.h"
#include "gate.h"
#include "serial.h"

#include <stdbool.h>

/* The port-driven devices. */
struct ports {
    struct serial serial;
    struct disk disk;
    struct gate *gate; /* shut by a guest that suspends itself */
};

/* One access of `size` bytes; false: the guest has asked for its end. */
bool ports_access(struct ports *ports, bool out, uint16_t port, unsigned size, uint8_t *data);

#endif
