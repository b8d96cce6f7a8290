/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where every vCPU begins (contrib/vmm/guest_abi.h): 32-bit protected mode, its number in %ebx.
 * Loads segments of its own, for interrupts to return to, takes a stack and calls guest_main.
 */
        .code32
        .section .text.start, "ax"
        .globl _start
_start:
        cli
        cld
        lgdt    gdt_pointer
        ljmp    $8, $1f
1:      movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    %ebx, %eax
        incl    %eax
        shll    $14, %eax               /* STACK_BYTES for each vCPU */
        leal    stacks(%eax), %esp
        pushl   %ebx
        call    guest_main
        /* A guest whose work is done on this vCPU; the last one to get here ends the VM. */
2:      cli
        hlt
        jmp     2b

        .section .rodata
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      /* code, flat */
        .quad   0x00cf93000000ffff      /* data, flat */
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt

        .bss
        .balign 16
stacks: .skip   8 * 16384
        .section .note.GNU-stack, "", @progbits
