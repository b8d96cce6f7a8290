/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_SERIAL_H
#define FERRY_VMM_SERIAL_H

#include "console.h"

#include <stdbool.h>

#define SERIAL_PORTS    8
#define SERIAL_LINE_MAX 256

/* All of the device that a guest can see or has left unfinished; it moves with the guest. */
struct serial_state {
    uint8_t interrupt_enable;
    uint8_t line_control;
    uint8_t modem_control;
    uint8_t scratch;
    uint8_t divisor_low;
    uint8_t divisor_high;
    uint8_t reserved[2];
    uint64_t written; /* bytes since the guest was first started */
    uint32_t pending; /* bytes of `line` in use */
    uint8_t line[SERIAL_LINE_MAX];
    uint32_t reserved2;
};

struct serial {
    pthread_mutex_t lock;
    struct console *console;
    struct serial_state state;
};

void serial_init(struct serial *serial, struct console *console);

/* A one-byte access to register `offset` (0 to 7). */
uint8_t serial_in(struct serial *serial, uint16_t offset);
void serial_out(struct serial *serial, uint16_t offset, uint8_t value);

/* Gives out an unfinished line. */
void serial_flush(struct serial *serial);

/* The device's state, out and back in; false: no device could be in that state. */
void serial_get(struct serial *serial, struct serial_state *state);
bool serial_state_valid(const struct serial_state *state);
void serial_set(struct serial *serial, const struct serial_state *state);

#endif
