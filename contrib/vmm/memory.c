/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guest RAM.  What live migration asks of it is little: it is shared memory (a memory file mapped
 * MAP_SHARED), and each block is exactly one KVM memory slot, so that the dirty log's bits and the
 * file's offsets tell of the same pages.  The files are sealed against shrinking: nobody who has
 * been given one, ferryd included, can make the VMM or the guest fault.
 */
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096

static int create_file(struct memory_block *block, struct fault *fault)
{
    block->fd = memfd_create(block->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (block->fd < 0 || ftruncate(block->fd, (off_t)block->length) != 0 ||
        fcntl(block->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return fault_set(fault, -errno, "cannot make %s: %s", block->name, strerror(errno));
    }
    return 0;
}

static int add_block(struct memory *memory, const char *name, uint64_t gpa, uint64_t length,
                     struct fault *fault)
{
    struct memory_block *block = &memory->blocks[memory->count];

    *block = (struct memory_block){
        .name = name,
        .fd = -1,
        .gpa = gpa,
        .length = length,
        .slot = memory->count,
    };
    memory->count++;
    int rc = create_file(block, fault);
    if (rc != 0) {
        return rc;
    }
    void *hva =
        mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, block->fd, 0);
    if (hva == MAP_FAILED) {
        return fault_set(fault, -errno, "cannot map %s: %s", name, strerror(errno));
    }
    block->hva = hva;
    return 0;
}

int memory_create(struct memory *memory, uint64_t bytes, struct fault *fault)
{
    uint64_t low = bytes < GUEST_HOLE_GPA ? bytes : GUEST_HOLE_GPA;

    memory->count = 0;
    int rc = add_block(memory, "ram-low", 0, low, fault);
    if (rc == 0 && bytes > low) {
        rc = add_block(memory, "ram-high", GUEST_HIGH_GPA, bytes - low, fault);
    }
    return rc;
}

int memory_add_to_vm(const struct memory *memory, int vm_fd, struct fault *fault)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct memory_block *block = &memory->blocks[i];
        struct kvm_userspace_memory_region region = {
            .slot = block->slot,
            .guest_phys_addr = block->gpa,
            .memory_size = block->length,
            .userspace_addr = (uintptr_t)block->hva,
        };
        if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) != 0) {
            return fault_set(fault, -errno, "KVM refuses %s: %s", block->name, strerror(errno));
        }
    }
    return 0;
}

void memory_free(struct memory *memory)
{
    for (unsigned i = 0; i < memory->count; i++) {
        if (memory->blocks[i].hva != NULL) {
            munmap(memory->blocks[i].hva, memory->blocks[i].length);
        }
        if (memory->blocks[i].fd >= 0) {
            close(memory->blocks[i].fd);
        }
    }
    memory->count = 0;
}

uint64_t memory_low(const struct memory *memory)
{
    return memory->blocks[0].length;
}

uint64_t memory_high(const struct memory *memory)
{
    return memory->count > 1 ? memory->blocks[1].length : 0;
}

static int read_all(int fd, uint8_t *into, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t got = read(fd, into + done, length - done);
        if (got == 0) {
            return -EIO;
        }
        if (got < 0 && errno != EINTR) {
            return -errno;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

int memory_load_image(struct memory *memory, const char *path, struct fault *fault)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &info) != 0) {
        int code = -errno;
        if (fd >= 0) {
            close(fd);
        }
        return fault_set(fault, code, "cannot open guest image %s: %s", path, strerror(-code));
    }
    int rc = -EFBIG;
    if (S_ISREG(info.st_mode) && info.st_size > 0 &&
        info.st_size <= (off_t)(GUEST_HEAP_GPA - GUEST_ENTRY_GPA)) {
        rc = read_all(fd, memory->blocks[0].hva + GUEST_ENTRY_GPA, (size_t)info.st_size);
    }
    close(fd);
    if (rc != 0) {
        return fault_set(fault, rc, "cannot load guest image %s: %s", path, strerror(-rc));
    }
    return 0;
}

void memory_write_params(struct memory *memory, const struct options *options, uint64_t tsc_khz)
{
    struct guest_params params = {
        .magic = GUEST_MAGIC,
        .cpus = options->cpus,
        .ram_low = memory_low(memory),
        .ram_high = memory_high(memory),
        .tsc_khz = tsc_khz,
    };

    memccpy(params.args, options->args, '\0', sizeof(params.args) - 1);
    memcpy(memory->blocks[0].hva + GUEST_PARAMS_GPA, &params, sizeof(params));
}

/* xorshift64*: quick, and nothing that compresses or repeats. */
static void fill_random(uint8_t *at, uint64_t length, uint64_t seed)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;

    for (uint64_t i = 0; i < length; i += sizeof(state)) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        uint64_t word = state * 0x2545f4914f6cdd1du;
        memcpy(at + i, &word, sizeof(word));
    }
}

static void fill_touch(uint8_t *at, uint64_t length, uint64_t seed)
{
    for (uint64_t i = 0; i < length; i += PAGE) {
        uint64_t word = seed + i + 1;
        memcpy(at + i, &word, sizeof(word));
    }
}

void memory_fill(struct memory *memory, enum fill_kind kind, uint64_t bytes)
{
    uint64_t skip = GUEST_HEAP_GPA;

    for (unsigned i = 0; i < memory->count && bytes > 0; i++) {
        const struct memory_block *block = &memory->blocks[i];
        uint64_t length = block->length - skip < bytes ? block->length - skip : bytes;
        if (kind == FILL_RANDOM) {
            fill_random(block->hva + skip, length, i + 1);
        } else if (kind == FILL_TOUCH) {
            fill_touch(block->hva + skip, length, block->gpa);
        }
        bytes -= length;
        skip = 0;
    }
}

void memory_read_reports(const struct memory *memory, struct guest_report reports[GUEST_CPUS_MAX])
{
    memcpy(reports, memory->blocks[0].hva + GUEST_REPORT_GPA,
           sizeof(struct guest_report) * GUEST_CPUS_MAX);
}
