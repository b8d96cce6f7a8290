/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What ferry-vmm and the guests it boots agree on.  A guest is a flat image that is put at
 * GUEST_ENTRY_GPA and entered there by every vCPU at once: 32-bit protected mode, flat segments,
 * no paging, interrupts off, the vCPU's number in %ebx.  Everything else a guest needs to know
 * stands in the parameter page; what it wants to be seen from outside it puts in the report page.
 */
#ifndef FERRY_VMM_GUEST_ABI_H
#define FERRY_VMM_GUEST_ABI_H

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>
#endif

#define GUEST_CPUS_MAX   8
#define GUEST_PARAMS_GPA 0x7000
#define GUEST_REPORT_GPA 0x8000u
#define GUEST_ENTRY_GPA  0x100000
/* Images and their data end below it; working sets and --memory-fill begin here. */
#define GUEST_HEAP_GPA      0x1000000u
#define GUEST_HIGH_GPA      0x100000000ull
#define GUEST_HOLE_GPA      0xc0000000ull
#define GUEST_MAGIC         0x65727246u
#define GUEST_ARGS_SIZE     3072

#define GUEST_PORT_SERIAL   0x3f8
#define GUEST_PORT_SHUTDOWN 0x604 /* any write ends the guest */
#define GUEST_PORT_SUSPEND  0x605 /* any write: all vCPUs stand still until the VM is woken */
#define GUEST_PORT_EXIT     0xf4  /* any write ends the guest */
#define GUEST_PORT_DISK     0x510 /* to 0x51f, where there is a disk; see below */

/* What guests write to the first, as 16 bits: a PC with ACPI registers at 0x600 powers off as well.
 */
#define GUEST_POWER_OFF 0x2000

/*
 * The disk's registers, four bytes wide.  A written command is done when the access returns; what
 * has become of it is read from the same register.
 */
#define GUEST_DISK_SECTOR    0x0 /* the first, in sectors of 512 bytes */
#define GUEST_DISK_ADDRESS   0x4 /* guest-physical, below 4 GiB */
#define GUEST_DISK_COUNT     0x8 /* sectors, 1 to GUEST_DISK_COUNT_MAX */
#define GUEST_DISK_COMMAND   0xc
#define GUEST_DISK_PORTS     0x10
#define GUEST_DISK_COUNT_MAX 256u

/* Commands, and what is read back. */
#define GUEST_DISK_READ    1u
#define GUEST_DISK_WRITE   2u
#define GUEST_DISK_DONE    0u
#define GUEST_DISK_REFUSED 1u /* a range outside the disk or the RAM, or no command */
#define GUEST_DISK_FAILED  2u

/* What contrib/guests/boot.S fills in of the parameter page. */
#define GUEST_PARAMS_RAM_LOW  8
#define GUEST_PARAMS_RAM_HIGH 16
#define GUEST_PARAMS_TSC_KHZ  24

#ifndef __ASSEMBLER__

struct guest_params {
    uint32_t magic;
    uint32_t cpus;
    uint64_t ram_low;  /* bytes from address 0 */
    uint64_t ram_high; /* bytes from GUEST_HIGH_GPA */
    uint64_t tsc_khz;
    char args[GUEST_ARGS_SIZE]; /* "key=value key=value", NUL-terminated */
};

/* One line of the report page; each vCPU writes its own.  ferry-vmm prints them on SIGUSR1. */
struct guest_report {
    uint64_t progress; /* pages written, ticks, ... */
    uint64_t bad;      /* errors the guest has found in its own memory */
    uint64_t gap_us;   /* longest time the vCPU was seen not to run */
    uint64_t reserved[5];
};

_Static_assert(sizeof(struct guest_params) <= 4096, "the parameters fit one page");
_Static_assert(offsetof(struct guest_params, ram_low) == GUEST_PARAMS_RAM_LOW &&
                   offsetof(struct guest_params, ram_high) == GUEST_PARAMS_RAM_HIGH &&
                   offsetof(struct guest_params, tsc_khz) == GUEST_PARAMS_TSC_KHZ,
               "the boot sector knows where they lie");

_Static_assert(sizeof(struct guest_report) * GUEST_CPUS_MAX <= 4096, "the reports fit one page");

#endif /* __ASSEMBLER__ */

#endif
