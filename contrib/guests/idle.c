/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest that does next to nothing: vCPU 0 sleeps between the ticks of its timer and prints their
 * number; the others halt for good.  It uses what a kernel would: PIT, PIC, IDT, hlt.
 *
 * Arguments: hz (timer ticks a second, default 100), every (seconds between lines, default 1),
 * ticks (end the VM after so many; default: never).
 */
#include "guest.h"

#define PIT_HZ       1193182u
#define TIMER_VECTOR 32
#define IDT_ENTRIES  33

extern volatile uint32_t timer_ticks;
extern const char timer_entry[];

volatile uint32_t timer_ticks;

/*
 * The timer's interrupt.  It only ever interrupts the hlt in tick_for_ever, which wants interrupts
 * off behind it; so it drops the saved flags and returns far, as the instruction emulator that some
 * KVMs run guests in has no iret for protected mode.
 */
__asm__(".globl timer_entry\n"
        "timer_entry:\n\t"
        "pushl %eax\n\t"
        "incl timer_ticks\n\t"
        "movb $0x20, %al\n\t"
        "outb %al, $0x20\n\t" /* the end of the interrupt, for the PIC */
        "popl %eax\n\t"
        "lret $4");

static uint64_t idt[IDT_ENTRIES];

static void load_idt(void)
{
    struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (uint32_t)idt};
    uint32_t handler = (uint32_t)timer_entry;

    /* A present 32-bit interrupt gate to the code segment. */
    idt[TIMER_VECTOR] =
        (uint64_t)(handler & 0xffff0000u) << 32 | 0x8e0000000000u | 8u << 16 | (handler & 0xffffu);
    __asm__ volatile("lidt %0" : : "m"(pointer));
}

/* Both PICs from vector 32 on, everything masked but the timer. */
static void set_up_pic(void)
{
    static const struct {
        uint16_t port;
        uint8_t value;
    } steps[] = {
        {0x20, 0x11},
        {0xa0, 0x11},
        {0x21, TIMER_VECTOR},
        {0xa1, TIMER_VECTOR + 8},
        {0x21, 4},
        {0xa1, 2},
        {0x21, 1},
        {0xa1, 1},
        {0x21, 0xfe},
        {0xa1, 0xff},
    };

    for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        outb(steps[i].port, steps[i].value);
    }
}

static void set_up_timer(uint32_t hz)
{
    uint32_t divisor = PIT_HZ / hz;

    outb(0x43, 0x34); /* channel 0, both bytes, rate generator */
    outb(0x40, (uint8_t)divisor);
    outb(0x40, (uint8_t)(divisor >> 8));
}

static void tick_for_ever(uint32_t hz, uint32_t every, uint32_t last)
{
    uint32_t printed = 0;

    for (;;) {
        __asm__ volatile("sti; hlt; cli" : : : "memory", "cc");
        uint32_t now = timer_ticks;
        report(0)->progress = now;
        if (now - printed >= hz * every) {
            printed = now;
            print("idle: ticks %u\n", now);
        }
        if (last != 0 && now >= last) {
            print("idle: done\n");
            shut_down();
        }
    }
}

void guest_main(uint32_t cpu)
{
    uint32_t hz = arg("hz", 100);

    if (cpu != 0) {
        return;
    }
    if (hz < 19 || hz > 1000) {
        print("hz=%u is not within 19 and 1000\n", hz);
        shut_down();
    }
    print("idle: start hz %u cpus %u\n", hz, params()->cpus);
    load_idt();
    set_up_pic();
    set_up_timer(hz);
    tick_for_ever(hz, arg("every", 1), arg("ticks", 0));
}
