/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An 8250's sending half: what is written to it is sent at once, so its status always says that it
 * is empty, and it never interrupts.  Bytes are gathered to lines; a line that is unfinished when
 * the guest moves goes with it and comes out whole at the destination.
 */
#include "serial.h"

enum {
    REG_DATA = 0,
    REG_INTERRUPT_ENABLE = 1,
    REG_INTERRUPT_ID = 2,
    REG_LINE_CONTROL = 3,
    REG_MODEM_CONTROL = 4,
    REG_LINE_STATUS = 5,
    REG_MODEM_STATUS = 6,
    REG_SCRATCH = 7,
};

#define LINE_CONTROL_DIVISOR   0x80
#define INTERRUPT_NONE         0x01
#define LINE_STATUS_IDLE       0x60 /* holding and shift registers empty */
#define MODEM_STATUS_CONNECTED 0xb0

void serial_init(struct serial *serial, struct console *console)
{
    *serial = (struct serial){.console = console, .state = {.divisor_low = 1, .line_control = 3}};
    pthread_mutex_init(&serial->lock, NULL);
}

static void flush_locked(struct serial *serial)
{
    if (serial->state.pending > 0) {
        console_write(serial->console, serial->state.line, serial->state.pending);
        serial->state.pending = 0;
    }
}

static void send_byte(struct serial *serial, uint8_t value)
{
    struct serial_state *state = &serial->state;

    state->line[state->pending++] = value;
    state->written++;
    if (value == '\n' || state->pending == SERIAL_LINE_MAX) {
        flush_locked(serial);
    }
}

/* The register behind an offset that simply holds what was written to it; NULL: none does. */
static uint8_t *plain_register(struct serial_state *state, uint16_t offset)
{
    bool divisor = (state->line_control & LINE_CONTROL_DIVISOR) != 0;

    switch (offset) {
    case REG_DATA:
        return divisor ? &state->divisor_low : NULL;
    case REG_INTERRUPT_ENABLE:
        return divisor ? &state->divisor_high : &state->interrupt_enable;
    case REG_LINE_CONTROL:
        return &state->line_control;
    case REG_MODEM_CONTROL:
        return &state->modem_control;
    case REG_SCRATCH:
        return &state->scratch;
    default:
        return NULL;
    }
}

static uint8_t fixed_register(uint16_t offset)
{
    static const uint8_t values[SERIAL_PORTS] = {
        [REG_INTERRUPT_ID] = INTERRUPT_NONE,
        [REG_LINE_STATUS] = LINE_STATUS_IDLE,
        [REG_MODEM_STATUS] = MODEM_STATUS_CONNECTED,
    };

    return values[offset % SERIAL_PORTS];
}

uint8_t serial_in(struct serial *serial, uint16_t offset)
{
    pthread_mutex_lock(&serial->lock);
    const uint8_t *plain = plain_register(&serial->state, offset);
    uint8_t value = plain != NULL ? *plain : fixed_register(offset);
    pthread_mutex_unlock(&serial->lock);
    return value;
}

void serial_out(struct serial *serial, uint16_t offset, uint8_t value)
{
    pthread_mutex_lock(&serial->lock);
    uint8_t *plain = plain_register(&serial->state, offset);
    if (plain != NULL) {
        *plain = value;
    } else if (offset == REG_DATA) {
        send_byte(serial, value);
    }
    pthread_mutex_unlock(&serial->lock);
}

void serial_flush(struct serial *serial)
{
    pthread_mutex_lock(&serial->lock);
    flush_locked(serial);
    pthread_mutex_unlock(&serial->lock);
}

void serial_get(struct serial *serial, struct serial_state *state)
{
    pthread_mutex_lock(&serial->lock);
    *state = serial->state;
    pthread_mutex_unlock(&serial->lock);
}

bool serial_state_valid(const struct serial_state *state)
{
    /* A full line is given out at once: it is never pending. */
    return state->pending < SERIAL_LINE_MAX;
}

void serial_set(struct serial *serial, const struct serial_state *state)
{
    pthread_mutex_lock(&serial->lock);
    serial->state = *state;
    pthread_mutex_unlock(&serial->lock);
}
