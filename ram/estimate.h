/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rates over windows of 100 ms, and what they say about stopping.  All rates are doubles, in bytes
 * or pages per millisecond, so that a slow link never rounds to nothing.
 */
#ifndef FERRY_RAM_ESTIMATE_H
#define FERRY_RAM_ESTIMATE_H

#include <stdbool.h>
#include <stdint.h>

#define ESTIMATE_WINDOW_NS 100000000ULL

/* One quantity's rate: the last whole window's, or of the running one while there is no other. */
struct rate_window {
    uint64_t start_ns;
    uint64_t start_value;
    double per_ms; /* of the last whole window; negative: none yet */
};

void rate_begin(struct rate_window *w, uint64_t now_ns, uint64_t value);

/* `value` is the running total.  True when a window was completed. */
bool rate_update(struct rate_window *w, uint64_t now_ns, uint64_t value);

/* Per millisecond; 0 when nothing is known yet. */
double rate_per_ms(const struct rate_window *w, uint64_t now_ns, uint64_t value);

/*
 * The milliseconds that the guest would stand still: `bytes` at `bytes_per_ms`, plus the fixed cost
 * of stopping, loading and starting.  Infinite when the rate is 0 and there are bytes.
 */
double estimate_downtime_ms(uint64_t bytes, double bytes_per_ms, double fixed_ms);

#endif
