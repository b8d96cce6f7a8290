/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The state file: a header, then sections, each with its own header and padded to 8 bytes, all
 * little-endian:
 *
 *     header   magic "FERRYVMM", u32 version, u32 sections, u64 length, u64 checksum
 *     section  u32 id, u32 vCPU (~0 for the VM's own), u64 length, data
 *
 * `length` and `checksum` (FNV-1a) are of what follows the header.  The file arrives over a
 * network: loading first walks it completely, finds every section this VM needs exactly once and of
 * a right length, and nothing else, and only then hands them to KVM.
 */
#include "state.h"

#include "sections.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATE_MAGIC   "FERRYVMM"
#define STATE_VERSION 1u
#define STATE_MAX     (4u << 20)
#define NO_CPU        UINT32_MAX

struct state_header {
    char magic[8];
    uint32_t version;
    uint32_t sections;
    uint64_t length;
    uint64_t checksum;
};

struct section_header {
    uint32_t id;
    uint32_t cpu;
    uint64_t length;
};

/* Where each section was found; per-VM ones at vCPU 0. */
struct found {
    struct {
        const uint8_t *data;
        size_t length;
    } at[SECTION_KINDS_MAX][GUEST_CPUS_MAX];
};

static size_t padded(size_t length)
{
    return (length + 7) & ~(size_t)7;
}

static uint64_t checksum_of(const uint8_t *data, size_t length)
{
    uint64_t sum = 0xcbf29ce484222325u;

    for (size_t i = 0; i < length; i++) {
        sum = (sum ^ data[i]) * 0x100000001b3u;
    }
    return sum;
}

static unsigned copies(const struct section_kind *kind, const struct vmm *vmm)
{
    return kind->scope == PER_CPU ? vmm->vcpus.count : 1;
}

/* Saving. */

static int save_one(struct vmm *vmm, const struct section_kind *kind, unsigned cpu, uint8_t *state,
                    size_t *used, struct fault *fault)
{
    struct section_header header = {
        .id = kind->id,
        .cpu = kind->scope == PER_CPU ? cpu : NO_CPU,
    };

    if (STATE_MAX - *used < sizeof(header) + padded(kind->most)) {
        return fault_set(fault, -E2BIG, "the guest's state is too large");
    }
    ssize_t length = section_save(kind, vmm, cpu, state + *used + sizeof(header));
    if (length < 0) {
        return fault_set(fault, (int)length, "cannot save %s of vCPU %u: %s", kind->name, cpu,
                         strerror((int)-length));
    }
    header.length = (uint64_t)length;
    memcpy(state + *used, &header, sizeof(header));
    *used += sizeof(header) + padded((size_t)length);
    return 0;
}

static int save_all(struct vmm *vmm, uint8_t *state, size_t *used, struct fault *fault)
{
    struct state_header header = {.magic = STATE_MAGIC, .version = STATE_VERSION};

    *used = sizeof(header);
    for (unsigned i = 0; i < section_kinds_count; i++) {
        const struct section_kind *kind = &section_kinds[i];
        if (!section_present(kind, vmm)) {
            continue;
        }
        for (unsigned cpu = 0; cpu < copies(kind, vmm); cpu++) {
            int rc = save_one(vmm, kind, cpu, state, used, fault);
            if (rc != 0) {
                return rc;
            }
            header.sections++;
        }
    }
    header.length = *used - sizeof(header);
    header.checksum = checksum_of(state + sizeof(header), header.length);
    memcpy(state, &header, sizeof(header));
    return 0;
}

static int write_all(int fd, const uint8_t *data, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t put = write(fd, data + done, length - done);
        if (put < 0 && errno != EINTR) {
            return -errno;
        }
        done += put > 0 ? (size_t)put : 0;
    }
    return 0;
}

int state_save(struct vmm *vmm, int fd, struct fault *fault)
{
    size_t used = 0;
    uint8_t *state = calloc(1, STATE_MAX);

    if (state == NULL) {
        return fault_set(fault, -ENOMEM, "no memory for the guest's state");
    }
    int rc = save_all(vmm, state, &used, fault);
    if (rc == 0) {
        rc = write_all(fd, state, used);
        if (rc != 0) {
            fault_set(fault, rc, "cannot write the guest's state: %s", strerror(-rc));
        }
    }
    free(state);
    return rc;
}

/* Loading. */

static int kind_by_id(uint32_t id)
{
    for (unsigned i = 0; i < section_kinds_count; i++) {
        if (section_kinds[i].id == id) {
            return (int)i;
        }
    }
    return -1;
}

static bool length_fits(const struct section_kind *kind, uint64_t length)
{
    size_t least = kind->least != 0 ? kind->least : kind->most;

    return length >= least && length <= kind->most;
}

/* Takes one section whose header and data lie within the file; the caller has seen to that. */
static int note_section(const struct vmm *vmm, const struct section_header *header,
                        const uint8_t *data, struct found *found, struct fault *fault)
{
    int i = kind_by_id(header->id);

    if (i < 0 || !section_present(&section_kinds[i], vmm)) {
        return fault_set(fault, -EINVAL, "the state has a section %" PRIu32 " unknown here",
                         header->id);
    }
    const struct section_kind *kind = &section_kinds[i];
    uint32_t cpu = kind->scope == PER_CPU ? header->cpu : 0;
    if (cpu >= copies(kind, vmm) || (kind->scope == PER_VM && header->cpu != NO_CPU)) {
        return fault_set(fault, -EINVAL, "%s is for vCPU %" PRIu32 ", of %u", kind->name,
                         header->cpu, vmm->vcpus.count);
    }
    if (found->at[i][cpu].data != NULL) {
        return fault_set(fault, -EINVAL, "the state has %s of vCPU %" PRIu32 " twice", kind->name,
                         cpu);
    }
    if (!length_fits(kind, header->length)) {
        return fault_set(fault, -EINVAL, "%s cannot be %" PRIu64 " bytes long", kind->name,
                         header->length);
    }
    found->at[i][cpu].data = data;
    found->at[i][cpu].length = (size_t)header->length;
    if (kind->valid != NULL && !kind->valid(vmm, data, (size_t)header->length, fault)) {
        return -EINVAL;
    }
    return 0;
}

static int check_header(const uint8_t *state, size_t size, struct state_header *header,
                        struct fault *fault)
{
    if (size < sizeof(*header)) {
        return fault_set(fault, -EINVAL, "the state is cut off");
    }
    memcpy(header, state, sizeof(*header));
    if (memcmp(header->magic, STATE_MAGIC, sizeof(header->magic)) != 0) {
        return fault_set(fault, -EINVAL, "this is no state of a ferry-vmm");
    }
    if (header->version != STATE_VERSION) {
        return fault_set(fault, -EINVAL, "the state has version %" PRIu32 ", not %u",
                         header->version, STATE_VERSION);
    }
    if (header->length != size - sizeof(*header)) {
        return fault_set(fault, -EINVAL, "the state is not as long as it says");
    }
    if (header->checksum != checksum_of(state + sizeof(*header), (size_t)header->length)) {
        return fault_set(fault, -EBADMSG, "the state's checksum is wrong");
    }
    return 0;
}

static int walk_sections(const struct vmm *vmm, const uint8_t *state, size_t size,
                         struct found *found, struct fault *fault)
{
    struct state_header header;
    size_t at = sizeof(header);

    int rc = check_header(state, size, &header, fault);
    for (uint32_t i = 0; rc == 0 && i < header.sections; i++) {
        struct section_header section;
        if (size - at < sizeof(section)) {
            return fault_set(fault, -EINVAL, "the state ends within its sections");
        }
        memcpy(&section, state + at, sizeof(section));
        at += sizeof(section);
        if (section.length > STATE_MAX || padded((size_t)section.length) > size - at) {
            return fault_set(fault, -EINVAL, "a section is longer than the state");
        }
        rc = note_section(vmm, &section, state + at, found, fault);
        at += padded((size_t)section.length);
    }
    if (rc == 0 && at != size) {
        return fault_set(fault, -EINVAL, "the state goes on behind its sections");
    }
    return rc;
}

static int check_complete(const struct vmm *vmm, const struct found *found, struct fault *fault)
{
    for (unsigned i = 0; i < section_kinds_count; i++) {
        const struct section_kind *kind = &section_kinds[i];
        if (!section_present(kind, vmm)) {
            continue;
        }
        for (unsigned cpu = 0; cpu < copies(kind, vmm); cpu++) {
            if (found->at[i][cpu].data == NULL) {
                return fault_set(fault, -EINVAL, "the state lacks %s of vCPU %u", kind->name, cpu);
            }
        }
    }
    return 0;
}

static int apply(struct vmm *vmm, const struct found *found, struct fault *fault)
{
    for (unsigned i = 0; i < section_kinds_count; i++) {
        const struct section_kind *kind = &section_kinds[i];
        for (unsigned cpu = 0; cpu < copies(kind, vmm) && found->at[i][cpu].data != NULL; cpu++) {
            int rc = section_load(kind, vmm, cpu, found->at[i][cpu].data, found->at[i][cpu].length);
            if (rc != 0) {
                return fault_set(fault, rc, "KVM refuses %s of vCPU %u: %s", kind->name, cpu,
                                 strerror(-rc));
            }
        }
    }
    return 0;
}

static int read_state(int fd, uint8_t **state, size_t *size, struct fault *fault)
{
    struct stat info;

    if (fstat(fd, &info) != 0 || info.st_size <= 0 || info.st_size > (off_t)STATE_MAX) {
        return fault_set(fault, -EINVAL, "the state's size is not possible");
    }
    *size = (size_t)info.st_size;
    *state = calloc(1, *size);
    if (*state == NULL) {
        return fault_set(fault, -ENOMEM, "no memory for the guest's state");
    }
    for (size_t done = 0; done < *size;) {
        ssize_t got = pread(fd, *state + done, *size - done, (off_t)done);
        if (got == 0 || (got < 0 && errno != EINTR)) {
            return fault_set(fault, -EIO, "the state cannot be read");
        }
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

int state_load(struct vmm *vmm, int fd, struct fault *fault)
{
    struct found found = {{{{NULL, 0}}}};
    uint8_t *state = NULL;
    size_t size = 0;

    int rc = read_state(fd, &state, &size, fault);
    if (rc == 0) {
        rc = walk_sections(vmm, state, size, &found, fault);
    }
    if (rc == 0) {
        rc = check_complete(vmm, &found, fault);
    }
    if (rc == 0) {
        rc = apply(vmm, &found, fault);
    }
    free(state);
    return rc;
}

void state_tell_resumed(struct vmm *vmm)
{
    for (unsigned i = 0; i < vmm->vcpus.count; i++) {
        /* Refused when the guest has no paravirtual clock: then there is nothing to tell. */
        ioctl(vmm->vcpus.list[i].fd, KVM_KVMCLOCK_CTRL, 0);
    }
}
