/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest.h"

#include <stdarg.h>

/* A pointer to a fixed address, which the compiler is not to reason about. */
static void *fixed(uint32_t address)
{
    __asm__("" : "+r"(address));
    return (void *)address;
}

const volatile struct guest_params *params(void)
{
    return fixed(GUEST_PARAMS_GPA);
}

volatile struct guest_report *report(uint32_t cpu)
{
    return (volatile struct guest_report *)fixed(GUEST_REPORT_GPA) + cpu;
}

/* The compiler may call these on its own. */
void *memset(void *to, int value, size_t length);
void *memcpy(void *to, const void *from, size_t length);

void *memset(void *to, int value, size_t length)
{
    void *at = to;

    __asm__ volatile("rep stosb" : "+D"(at), "+c"(length) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t length)
{
    void *at = to;

    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(length) : : "memory");
    return to;
}

/* Printing. */

static uint32_t print_lock;

static void print_string(const char *text)
{
    for (; *text != '\0'; text++) {
        outb(GUEST_PORT_SERIAL, (uint8_t)*text);
    }
}

static void print_number(uint32_t number, uint32_t base)
{
    char digits[12];
    unsigned at = sizeof(digits) - 1;

    digits[at] = '\0';
    do {
        digits[--at] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number != 0);
    print_string(&digits[at]);
}

void print(const char *format, ...)
{
    va_list args;

    while (__atomic_exchange_n(&print_lock, 1, __ATOMIC_ACQUIRE) != 0) {
        relax();
    }
    va_start(args, format);
    for (; *format != '\0'; format++) {
        if (*format != '%') {
            outb(GUEST_PORT_SERIAL, (uint8_t)*format);
            continue;
        }
        format++;
        if (*format == 's') {
            print_string(va_arg(args, const char *));
        } else {
            print_number(va_arg(args, uint32_t), *format == 'x' ? 16 : 10);
        }
    }
    va_end(args);
    __atomic_store_n(&print_lock, 0, __ATOMIC_RELEASE);
}

void shut_down(void)
{
    outw(GUEST_PORT_SHUTDOWN, GUEST_POWER_OFF);
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

/* Parameters. */

/* The text behind "key=" when `args` begins with that; NULL otherwise. */
static const volatile char *value_of(const volatile char *args, const char *key)
{
    for (; *key != '\0'; key++, args++) {
        if (*args != *key) {
            return NULL;
        }
    }
    return *args == '=' ? args + 1 : NULL;
}

uint32_t arg(const char *key, uint32_t otherwise)
{
    const volatile char *args = params()->args;
    uint32_t number = 0;

    while (*args != '\0') {
        const volatile char *value = value_of(args, key);
        if (value != NULL) {
            for (; *value >= '0' && *value <= '9'; value++) {
                number = number * 10 + (uint32_t)(*value - '0');
            }
            return number;
        }
        while (*args != '\0' && *args != ' ') {
            args++;
        }
        while (*args == ' ') {
            args++;
        }
    }
    return otherwise;
}

struct range working_set(uint32_t set_mib, uint32_t cpu, uint32_t sharers)
{
    uint64_t room = params()->ram_low - GUEST_HEAP_GPA;
    uint32_t room_mib = (uint32_t)(room >> 20);

    if (set_mib == 0 || set_mib > room_mib) {
        print("set=%u does not fit: there are %u MiB\n", set_mib, room_mib);
        shut_down();
    }
    uint32_t each = set_mib * (MIB / PAGE_BYTES) / sharers;
    return (struct range){.first = each * cpu, .pages = each};
}

/* Four places a turn: what counts is the number of instructions for each. */
static uint32_t dirty_fours(uint32_t at, uint32_t stride, uint32_t fours, uint32_t word)
{
    __asm__ volatile("1: movl %4, (%0)\n\t"
                     "movl %4, (%0, %2)\n\t"
                     "movl %4, (%0, %2, 2)\n\t"
                     "movl %4, (%0, %3)\n\t"
                     "leal (%0, %2, 4), %0\n\t"
                     "decl %1\n\t"
                     "jnz 1b"
                     : "+r"(at), "+r"(fours)
                     : "r"(stride), "r"(stride * 3), "r"(word)
                     : "memory", "cc");
    return at;
}

uint32_t dirty_places(uint32_t at, uint32_t stride, uint32_t count)
{
    uint32_t word = (uint32_t)rdtsc();

    if (count >= 4) {
        at = dirty_fours(at, stride, count / 4, word);
    }
    for (count %= 4; count > 0; count--) {
        __asm__ volatile("movl %1, (%0)" : : "r"(at), "r"(word) : "memory");
        at += stride;
    }
    return at;
}

/* Time. */

uint64_t cycles_of_us(uint32_t us)
{
    uint32_t khz = (uint32_t)params()->tsc_khz;

    return (uint64_t)(us / 1000) * khz + divide((uint64_t)(us % 1000) * khz, 1000);
}

uint32_t us_of_cycles(uint64_t cycles)
{
    uint32_t mhz = (uint32_t)params()->tsc_khz / 1000;

    return divide(cycles, mhz);
}

void pace_init(struct pace *pace, uint32_t rate)
{
    uint64_t second = cycles_of_us(1000000);

    *pace = (struct pace){.start = rdtsc()};
    if (rate != 0) {
        pace->cycles_each = divide(second, rate);
    }
}

void pace_wait(struct pace *pace, uint32_t units)
{
    if (pace->cycles_each == 0) {
        return;
    }
    pace->done += units;
    uint64_t due = pace->start + pace->done * pace->cycles_each;
    uint64_t now = rdtsc();
    /* Whoever has been away for long does not make up for it in one burst. */
    if (now > due && now - due > cycles_of_us(100000)) {
        pace->start = now;
        pace->done = 0;
    }
    while (rdtsc() < due) {
        relax();
    }
}

bool is_due(uint64_t *next, uint32_t us)
{
    uint64_t now = rdtsc();

    if (now < *next) {
        return false;
    }
    *next = now + cycles_of_us(us);
    return true;
}
