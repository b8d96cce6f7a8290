/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FERRY_VMM_DISK_H
#define FERRY_VMM_DISK_H

#include "memory.h"

#include <libferry.h>
#include <pthread.h>

/* What a guest sees of the device; it moves with the guest.  guest_abi.h has the registers. */
struct disk_state {
    uint32_t sector;
    uint32_t address;
    uint32_t count;
    uint32_t status;
    uint64_t sectors; /* of the disk: both ends must have as many */
};

struct disk {
    pthread_mutex_t lock; /* the registers, and one command at a time */
    struct disk_state state;
    int fd;      /* -1: there is no disk */
    int base_fd; /* -1: no overlay */
    uint64_t base_length;
    const struct memory *memory;
    /* Told of what the device writes, to guest RAM and to the disk; set before the guest runs. */
    struct ferry *ferry;
    unsigned number; /* of the disk, as libferry knows it */
};

/* Opens the disk; `path` NULL: there is none. */
int disk_open(struct disk *disk, const char *path, const char *base_path,
              const struct memory *memory, struct fault *fault);
void disk_close(struct disk *disk);

/* Tells libferry of the disk, if there is one; 0 or libferry's error. */
int disk_register(struct disk *disk, struct ferry *ferry);

/* A four-byte access to the register at `offset`. */
uint32_t disk_in(struct disk *disk, uint16_t offset);
void disk_out(struct disk *disk, uint16_t offset, uint32_t value);

/* The device's state, out and back in. */
void disk_get(struct disk *disk, struct disk_state *state);
void disk_set(struct disk *disk, const struct disk_state *state);

#endif
