/* SPDX-License-Identifier: BSD-3-Clause */
/* Which device answers at which port.  Ports that nobody answers read as all ones. */
#include "ports.h"

#include "guest_abi.h"
#include "log.h"

#include <string.h>

struct port_range {
    uint16_t first;
    uint16_t count;
    unsigned width; /* bytes; a wider access reaches its first port only, a narrower one nothing */
    bool (*access)(struct ports *ports, bool out, uint16_t offset, uint8_t *data);
};

static bool access_serial(struct ports *ports, bool out, uint16_t offset, uint8_t *data)
{
    if (out) {
        serial_out(&ports->serial, offset, *data);
    } else {
        *data = serial_in(&ports->serial, offset);
    }
    return true;
}

static bool access_shutdown(struct ports *ports, bool out, uint16_t offset, uint8_t *data)
{
    (void)ports;
    (void)offset;
    if (!out) {
        *data = 0xff;
    }
    return !out;
}

static bool access_disk(struct ports *ports, bool out, uint16_t offset, uint8_t *data)
{
    uint32_t value = 0;

    if (out) {
        memcpy(&value, data, sizeof(value));
        disk_out(&ports->disk, offset, value);
    } else {
        value = disk_in(&ports->disk, offset);
        memcpy(data, &value, sizeof(value));
    }
    return true;
}

/* The vCPU goes on from behind this access when it is woken: KVM finishes it before the gate. */
static bool access_suspend(struct ports *ports, bool out, uint16_t offset, uint8_t *data)
{
    (void)offset;
    if (out) {
        log_message(LOG_INFO, "the guest suspends itself");
        gate_close(ports->gate, GATE_SUSPENDED);
    } else {
        *data = 0xff;
    }
    return true;
}

static const struct port_range ranges[] = {
    {GUEST_PORT_SERIAL, SERIAL_PORTS, 1, access_serial},
    {GUEST_PORT_SHUTDOWN, 1, 1, access_shutdown},
    {GUEST_PORT_SUSPEND, 1, 1, access_suspend},
    {GUEST_PORT_EXIT, 1, 1, access_shutdown},
    {GUEST_PORT_DISK, GUEST_DISK_PORTS, 4, access_disk},
};

bool ports_access(struct ports *ports, bool out, uint16_t port, unsigned size, uint8_t *data)
{
    if (!out) {
        memset(data, 0xff, size);
    }
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        if (port >= ranges[i].first && port - ranges[i].first < ranges[i].count &&
            size >= ranges[i].width) {
            return ranges[i].access(ports, out, (uint16_t)(port - ranges[i].first), data);
        }
    }
    return true;
}
