/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A boot sector: starts a test guest on a PC that has a BIOS, QEMU's for instance, the way
 * ferry-vmm starts it (contrib/vmm/guest_abi.h).  The disk, made by contrib/lab/bootimage.py: this
 * sector, the parameter page, the guest's flat image.  What only the machine can tell is filled in
 * here: how much RAM there is (INT 15h, E820) and how fast the TSC runs (measured with the PIT).
 *
 * Works from whatever the BIOS boots from: sectors are read one by one, by the drive's geometry.
 */
#include "guest_abi.h"
#include "pit.h"

#define HERE          0x600   /* out of the way: the parameter page lies over 0x7c00 */
#define MEMORY_ENTRY  0x500   /* one entry of the BIOS memory map */
#define STAGING       0x10000 /* the image, until protected mode can put it where it belongs */
#define PARAM_SECTORS 8

#define E820 0xe820
#define SMAP 0x534d4150

#define PIT_MS    50
#define PIT_TURNS 4
#define PORT_A20  0x92

#define KVM_SIGNATURE   0x40000000 /* a CPUID leaf */
#define KVM_NAME        0x4b4d564b /* "KVMK" */
#define KVM_SYSTEM_TIME 0x4b564d01 /* an MSR; 0: no clock page */

        .code16
        .section .text.start, "ax"
        .globl _start
_start:
        cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $GUEST_PARAMS_GPA, %sp
        movw    $0x7c00, %si
        movw    $HERE, %di
        movw    $256, %cx
        rep movsw
        ljmp    $0, $moved
moved:  sti
        movb    %dl, drive
        call    read_geometry
        movw    $GUEST_PARAMS_GPA >> 4, %ax
        movw    $PARAM_SECTORS, %bp
        call    read_sectors
        movw    $STAGING >> 4, %ax
        movw    image_sectors, %bp
        call    read_sectors
        call    find_memory
        call    measure_tsc
        call    end_kvmclock
        jmp     enter

read_geometry:
        movb    $8, %ah
        int     $0x13
        jc      failed
        andw    $0x3f, %cx
        movw    %cx, per_track
        movzbw  %dh, %dx
        incw    %dx
        movw    %dx, heads
        ret

/* The disk's next %bp sectors, to segment %ax. */
read_sectors:
        movw    %ax, %es
        movw    next_sector, %ax
        incw    next_sector
        xorw    %dx, %dx
        divw    per_track
        movw    %dx, %cx
        incw    %cx                     /* sectors of a track count from 1 */
        xorw    %dx, %dx
        divw    heads
        movb    %al, %ch
        movb    %dl, %dh
        movb    drive, %dl
        xorw    %bx, %bx
        movw    $0x0201, %ax
        int     $0x13
        jc      failed
        movw    %es, %ax
        addw    $512 >> 4, %ax
        decw    %bp
        jnz     read_sectors
        ret

/* Whoever waits for the guest's first line shall see why it does not come. */
failed:
        movw    $message, %si
        movw    $GUEST_PORT_SERIAL, %dx
1:      lodsb
        testb   %al, %al
        jz      2f
        outb    %al, %dx
        jmp     1b
2:      movw    $GUEST_POWER_OFF, %ax
        movw    $GUEST_PORT_SHUTDOWN, %dx
        outw    %ax, %dx
3:      cli
        hlt
        jmp     3b

/* RAM from 1 MiB on and RAM from 4 GiB on; each is one entry of the map. */
find_memory:
        xorw    %ax, %ax
        movw    %ax, %es
        xorl    %ebx, %ebx
1:      movl    $E820, %eax
        movl    $SMAP, %edx
        movl    $20, %ecx
        movw    $MEMORY_ENTRY, %di
        int     $0x15
        jc      4f
        cmpb    $1, MEMORY_ENTRY + 16   /* usable */
        jne     3f
        movl    MEMORY_ENTRY + 8, %eax
        movl    MEMORY_ENTRY + 12, %ecx
        cmpl    $1, MEMORY_ENTRY + 4
        je      2f
        cmpl    $GUEST_ENTRY_GPA, MEMORY_ENTRY
        jne     3f
        addl    $GUEST_ENTRY_GPA, %eax
        movl    %eax, GUEST_PARAMS_GPA + GUEST_PARAMS_RAM_LOW
        jmp     3f
2:      movl    %eax, GUEST_PARAMS_GPA + GUEST_PARAMS_RAM_HIGH
        movl    %ecx, GUEST_PARAMS_GPA + GUEST_PARAMS_RAM_HIGH + 4
3:      testl   %ebx, %ebx
        jnz     1b
4:      ret

/* The shortest of a few measurements: whoever takes the vCPU away only makes them longer. */
measure_tsc:
        movl    $-1, GUEST_PARAMS_GPA + GUEST_PARAMS_TSC_KHZ
        movw    $PIT_TURNS, %bp
1:      pit_measure PIT_MS
        cmpl    GUEST_PARAMS_GPA + GUEST_PARAMS_TSC_KHZ, %eax
        jae     2f
        movl    %eax, GUEST_PARAMS_GPA + GUEST_PARAMS_TSC_KHZ
2:      decw    %bp
        jnz     1b
        ret

/*
 * SeaBIOS leaves KVM's clock page behind (Linux: Documentation/virt/kvm/x86/msr.rst), which the
 * host writes on its own: no two hosts agree on it, where tests compare all of RAM.
 */
end_kvmclock:
        movl    $KVM_SIGNATURE, %eax
        cpuid
        cmpl    $KVM_NAME, %ebx
        jne     1f
        xorl    %eax, %eax
        xorl    %edx, %edx
        movl    $KVM_SYSTEM_TIME, %ecx
        wrmsr
1:      ret

enter:  cli
        inb     $PORT_A20, %al
        orb     $2, %al
        outb    %al, $PORT_A20
        lgdt    gdt_pointer
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $8, $flat

        .code32
flat:   movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movzwl  image_sectors, %ecx
        shll    $7, %ecx                /* in words of four bytes */
        movl    $STAGING, %esi
        movl    $GUEST_ENTRY_GPA, %edi
        rep movsl
        xorl    %ebx, %ebx              /* vCPU 0: the others are left where the BIOS put them */
        ljmpl   $8, $GUEST_ENTRY_GPA

message:
        .asciz "boot: the disk can't be read\n"
gdt:
gdt_pointer:                            /* in place of the descriptor that nobody uses */
        .word   3 * 8 - 1
        .long   gdt
        .word   0
        .quad   0x00cf9b000000ffff      /* code, flat */
        .quad   0x00cf93000000ffff      /* data, flat */
next_sector:
        .word   1
per_track:
        .word   0
heads:  .word   0
drive:  .byte   0

        .org    508
image_sectors:
        .word   0                       /* set by bootimage.py */
        .word   0xaa55
        .section .note.GNU-stack, "", @progbits
