/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_MEMORY_H
#define FERRY_VMM_MEMORY_H

#include "guest_abi.h"
#include "log.h"
#include "options.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEMORY_BLOCKS 2

/* One range of guest RAM: a memory file, mapped, and a KVM memory slot over the mapping. */
struct memory_block {
    const char *name;
    int fd;
    uint8_t *hva;
    uint64_t gpa;
    uint64_t length;
    uint32_t slot;
};

struct memory {
    struct memory_block blocks[MEMORY_BLOCKS];
    unsigned count;
};

int memory_create(struct memory *memory, uint64_t bytes, struct fault *fault);
int memory_add_to_vm(const struct memory *memory, int vm_fd, struct fault *fault);
void memory_free(struct memory *memory);

/* Bytes in the block at guest-physical address 0, and in the one above 4 GiB. */
uint64_t memory_low(const struct memory *memory);
uint64_t memory_high(const struct memory *memory);

/* What a fresh guest starts with: its image, parameters and filling. */
int memory_load_image(struct memory *memory, const char *path, struct fault *fault);
void memory_write_params(struct memory *memory, const struct options *options, uint64_t tsc_khz);
void memory_fill(struct memory *memory, enum fill_kind kind, uint64_t bytes);

/* The report page, as it is now; the guest may be writing it. */
void memory_read_reports(const struct memory *memory, struct guest_report reports[GUEST_CPUS_MAX]);

#endif
