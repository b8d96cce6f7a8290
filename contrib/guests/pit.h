/* SPDX-License-Identifier: BSD-3-Clause */
/* How fast the TSC runs, by the PIT's channel 2; for assembler, in any mode. */
#ifndef FERRY_GUESTS_PIT_H
#define FERRY_GUESTS_PIT_H

#define PIT_HZ    1193182
#define PORT_GATE 0x61 /* bit 0: the PIT's channel 2 counts; bit 5: it is done */

/* Its ticks in `ms` milliseconds, at most 54, as kHz in %eax; takes %ecx, %edx and %esi. */
.macro pit_measure ms
        inb     $PORT_GATE, %al
        andb    $0xfc, %al
        orb     $1, %al
        outb    %al, $PORT_GATE
        movb    $0xb0, %al              /* channel 2, both bytes, done at 0 */
        outb    %al, $0x43
        rdtsc
        movl    %eax, %esi
        movb    $(PIT_HZ * \ms / 1000) & 0xff, %al
        outb    %al, $0x42
        movb    $(PIT_HZ * \ms / 1000) >> 8, %al
        outb    %al, $0x42
.Lcounts\@:
        inb     $PORT_GATE, %al
        testb   $0x20, %al
        jz      .Lcounts\@
        rdtsc
        subl    %esi, %eax
        xorl    %edx, %edx
        movl    $\ms, %ecx
        divl    %ecx
.endm

#endif
