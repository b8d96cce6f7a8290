/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/estimate.h"

#include "common/clock.h"

#include <math.h>

void rate_begin(struct rate_window *w, uint64_t now_ns, uint64_t value)
{
    *w = (struct rate_window){.start_ns = now_ns, .start_value = value, .per_ms = -1};
}

static double running_rate(const struct rate_window *w, uint64_t now_ns, uint64_t value)
{
    uint64_t ns = now_ns - w->start_ns;
    return ns ? (double)(value - w->start_value) / ns_to_ms(ns) : 0;
}

bool rate_update(struct rate_window *w, uint64_t now_ns, uint64_t value)
{
    if (now_ns - w->start_ns < ESTIMATE_WINDOW_NS) {
        return false;
    }
    w->per_ms = running_rate(w, now_ns, value);
    w->start_ns = now_ns;
    w->start_value = value;
    return true;
}

double rate_per_ms(const struct rate_window *w, uint64_t now_ns, uint64_t value)
{
    return w->per_ms >= 0 ? w->per_ms : running_rate(w, now_ns, value);
}

double estimate_downtime_ms(uint64_t bytes, double bytes_per_ms, double fixed_ms)
{
    if (!bytes) {
        return fixed_ms;
    }
    return bytes_per_ms > 0 ? (double)bytes / bytes_per_ms + fixed_ms : INFINITY;
}
