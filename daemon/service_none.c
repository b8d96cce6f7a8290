/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/service.h"

void service_open_log(void)
{
}

int service_socket(const char *name)
{
    (void)name;
    return -1;
}

bool service_has_socket(const char *name)
{
    (void)name;
    return false;
}

uint64_t service_watchdog_ns(void)
{
    return 0;
}

void service_is_alive(void)
{
}

void service_is_ready(void)
{
}

void service_reloads(void)
{
}

void service_ends(void)
{
}
