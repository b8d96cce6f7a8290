/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Firmware in the place of a BIOS: starts a test guest on QEMU's PC within milliseconds, where a
 * BIOS takes seconds on a KVM that emulates each instruction.  No device is set up but the timer's
 * way and what ends the machine, so guests that drive PCI devices need the boot sector (boot.S).
 *
 * The last 64 KiB below 4 GiB, made by contrib/lab/bootimage.py: the parameter page with the size
 * of RAM in it, the guest's flat image, and this.  How fast the TSC runs is measured with the PIT.
 */
#include "guest_abi.h"
#include "pit.h"

#define ROM_BASE    0xffff0000
#define IMAGE       0x1000 /* in the ROM, behind the parameter page */
#define CODE        0xf000
#define RESET       0xfff0
#define PAGE_WORDS  1024
#define IMAGE_WORDS ((CODE - IMAGE) / 4)

#define PIT_MS    10

/* PIIX4, function 3 of device 1: the ACPI registers go to 0x600 (82371AB, "Power Management"). */
#define PCI_ADDRESS 0xcf8
#define PCI_DATA    0xcfc
#define PM_BASE     0x80000b40
#define PM_ENABLE   0x80000b80
#define PM_IO       0x601

/* The vCPU's APIC passes on what the PIC has (Intel SDM volume 3, "Local Vector Table"). */
#define APIC_SPURIOUS 0xfee000f0
#define APIC_ENABLED  0x1ff
#define APIC_LINT0    0xfee00350
#define APIC_EXTINT   0x700

        .text
rom:
        .code16
enter:  cli
        cld
        lgdtl   %cs:CODE + gdt_pointer - rom
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $8, $(ROM_BASE + CODE + flat - rom)

        .code32
flat:   movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $GUEST_PARAMS_GPA, %esp
        movl    $ROM_BASE, %esi
        movl    $GUEST_PARAMS_GPA, %edi
        movl    $PAGE_WORDS, %ecx
        rep movsl
        movl    $GUEST_ENTRY_GPA, %edi
        movl    $IMAGE_WORDS, %ecx
        rep movsl

        pit_measure PIT_MS
        movl    %eax, GUEST_PARAMS_GPA + GUEST_PARAMS_TSC_KHZ

        movl    $APIC_ENABLED, APIC_SPURIOUS
        movl    $APIC_EXTINT, APIC_LINT0
        movl    $PM_BASE, %eax
        movl    $PM_IO, %ecx
        call    set_pci
        movl    $PM_ENABLE, %eax
        movl    $1, %ecx
        call    set_pci
        xorl    %ebx, %ebx              /* vCPU 0: the others wait to be started */
        ljmpl   $8, $GUEST_ENTRY_GPA

set_pci:
        movw    $PCI_ADDRESS, %dx
        outl    %eax, %dx
        movw    $PCI_DATA, %dx
        movl    %ecx, %eax
        outl    %eax, %dx
        ret

        .balign 8
gdt:
gdt_pointer:                            /* in place of the descriptor that nobody uses */
        .word   3 * 8 - 1
        .long   ROM_BASE + CODE + gdt - rom
        .word   0
        .quad   0x00cf9b000000ffff      /* code, flat */
        .quad   0x00cf93000000ffff      /* data, flat */

        .org    RESET - CODE
        .code16
        jmp     enter
        .org    0x10000 - CODE
        .section .note.GNU-stack, "", @progbits
