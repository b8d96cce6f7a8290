/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_COMMON_CLOCK_H
#define FERRY_COMMON_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_MS  1000000ULL
#define NS_PER_SEC 1000000000ULL

/* CLOCK_MONOTONIC in nanoseconds: for intervals and deadlines. */
static inline uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_SEC + (uint64_t)now.tv_nsec;
}

static inline double ns_to_ms(uint64_t ns)
{
    return (double)ns / (double)NS_PER_MS;
}

#endif
