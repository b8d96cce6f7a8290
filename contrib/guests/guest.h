/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the test guests share.  They are 32-bit, without paging, libc or floating point: some KVMs
 * run such code in an instruction emulator that knows integer instructions only, a few million of
 * them a second; so what is done for each page is kept to a few instructions.
 */
#ifndef FERRY_GUESTS_GUEST_H
#define FERRY_GUESTS_GUEST_H

#include "guest_abi.h"

#include <stdbool.h>
#include <stddef.h>

#define PAGE_BYTES 4096u
#define MIB        0x100000u

/* Each guest's own; called on every vCPU. */
void guest_main(uint32_t cpu);

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t value;

    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint16_t inw(uint16_t port)
{
    uint16_t value;

    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint64_t rdtsc(void)
{
    uint32_t low;
    uint32_t high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static inline void relax(void)
{
    __asm__ volatile("pause" : : : "memory");
}

/* There is no 64-bit division without libgcc; a quotient beyond 32 bits is cut to its largest. */
static inline uint32_t divide(uint64_t number, uint32_t by)
{
    uint32_t quotient;
    uint32_t rest = (uint32_t)(number >> 32);

    if (rest >= by) {
        return UINT32_MAX;
    }
    __asm__("divl %3" : "=a"(quotient), "+d"(rest) : "0"((uint32_t)number), "rm"(by));
    return quotient;
}

/* The parameters: of the VM, and "key=value" from its command line. */
const volatile struct guest_params *params(void);
uint32_t arg(const char *key, uint32_t otherwise);

/* This vCPU's line in the report page. */
volatile struct guest_report *report(uint32_t cpu);

/* TSC cycles in so many microseconds, and back. */
uint64_t cycles_of_us(uint32_t us);
uint32_t us_of_cycles(uint64_t cycles);

/* Prints one whole line, whichever vCPUs print; knows %u (uint32_t), %x and %s. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Ends the VM. */
void shut_down(void) __attribute__((noreturn));

/*
 * The working set: `set` MiB from GUEST_HEAP_GPA on, of which each of `sharers` vCPUs gets an equal
 * part. Prints what is wrong and ends the VM when it is larger than the RAM.
 */
struct range {
    uint32_t first; /* page number within the heap */
    uint32_t pages;
};

struct range working_set(uint32_t set_mib, uint32_t cpu, uint32_t sharers);

static inline uint8_t *heap_page(uint32_t page)
{
    return (uint8_t *)(GUEST_HEAP_GPA + page * PAGE_BYTES);
}

/*
 * Writes a word at each of `count` places, `stride` bytes apart, from `at` on, and returns the next
 * place. The word is another one at each call.
 */
uint32_t dirty_places(uint32_t at, uint32_t stride, uint32_t count);

/* Paces work to `rate` units a second; 0 lets it run freely. */
struct pace {
    uint64_t start;
    uint64_t cycles_each; /* of one unit; 0: no limit */
    uint64_t done;
};

void pace_init(struct pace *pace, uint32_t rate);
/* Waits until `units` more may count as done. */
void pace_wait(struct pace *pace, uint32_t units);

/* True once every `us`; `next` is the caller's, from 0. */
bool is_due(uint64_t *next, uint32_t us);

#endif
