/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/handshake.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Bits of HELLO's required features, and those that this version reads. */
#define FEATURE_DISKS   (1ULL << 0) /* disks move with the guest */
#define FEATURE_MACHINE (1ULL << 1) /* a MACHINE record says what the device state is of */
#define FEATURES_KNOWN  (FEATURE_DISKS | FEATURE_MACHINE)

#define HELLO_SIZE      48u
#define BLOCK_SIZE      24u

/* ---- the source ---- */

static bool has_machine(const struct job *job)
{
    return job->guest->machine[0];
}

static bool offer_machine(const struct job *job, struct stream *s, struct error **errp)
{
    const char *machine = job->guest->machine;
    return !has_machine(job) || stream_write(s, RECORD_MACHINE, machine, strlen(machine), errp);
}

static bool offer_hello(struct job *job, struct stream *s, const struct ram *ram,
                        const struct disks *disks, struct error **errp)
{
    uint8_t body[HELLO_SIZE + GUEST_NAME_SIZE];
    size_t name = strlen(job->guest_name);
    memcpy(body, job->uuid, GUEST_UUID_SIZE);
    put_le64(body + 16, (disks ? FEATURE_DISKS : 0) | (has_machine(job) ? FEATURE_MACHINE : 0));
    put_le64(body + 24, ram->bytes);
    put_le32(body + 32, RAM_PAGE_SIZE);
    put_le32(body + 36, ram->count);
    put_le32(body + 40, (uint32_t)name);
    put_le32(body + 44, disks ? disks->count : 0);
    memcpy(body + HELLO_SIZE, job->guest_name, name);
    return stream_write(s, RECORD_HELLO, body, HELLO_SIZE + name, errp);
}

static bool offer_block(struct stream *s, const struct ram_block *b, struct error **errp)
{
    uint8_t body[BLOCK_SIZE + RAM_NAME_MAX];
    size_t name = strlen(b->name);
    put_le64(body, b->gpa);
    put_le64(body + 8, b->length);
    put_le32(body + 16, (uint32_t)name);
    put_le32(body + 20, 0);
    memcpy(body + BLOCK_SIZE, b->name, name);
    return stream_write(s, RECORD_BLOCK, body, BLOCK_SIZE + name, errp);
}

static bool offer_capabilities(struct job *job, struct stream *s, struct error **errp)
{
    for (int i = 0; i < CAPABILITY_COUNT; i++) {
        const struct capability_info *info = &capability_infos[i];
        if (job->capabilities[i] && info->must_match &&
            !stream_write(s, RECORD_CAPABILITY, info->name, strlen(info->name), errp)) {
            return false;
        }
    }
    return true;
}

static bool write_preamble(struct stream *s, struct error **errp)
{
    uint8_t preamble[STREAM_PREAMBLE_SIZE];
    stream_preamble(preamble, s->channel->two_way ? STREAM_FLAG_TWO_WAY : 0);
    return stream_write_raw(s, preamble, sizeof(preamble), errp);
}

static bool offer_all(struct job *job, struct stream *s, const struct ram *ram,
                      const struct disks *disks, struct error **errp)
{
    if (!write_preamble(s, errp) || !offer_hello(job, s, ram, disks, errp)) {
        return false;
    }
    for (unsigned i = 0; i < ram->count; i++) {
        if (!offer_block(s, &ram->blocks[i], errp)) {
            return false;
        }
    }
    return (!disks || handshake_offer_disks(s, disks, errp)) && offer_machine(job, s, errp) &&
           offer_capabilities(job, s, errp) && stream_write(s, RECORD_OPEN, NULL, 0, errp);
}

/* A destination that has to prepare its disks says that it is ALIVE meanwhile. */
static bool await_accept(struct stream *s, struct error **errp)
{
    struct record rec;
    do {
        if (!record_read(s->reader, &rec, errp)) {
            return false;
        }
    } while (rec.type == RECORD_ALIVE);
    return record_is(&rec, RECORD_ACCEPT, errp);
}

bool handshake_offer(struct job *job, struct stream *s, const struct ram *ram,
                     const struct disks *disks, struct error **errp)
{
    if (!offer_all(job, s, ram, disks, errp)) {
        stream_prefer_peers_word(s, errp);
        return false;
    }
    return !s->channel->two_way || await_accept(s, errp);
}

bool handshake_ask(struct stream *s, const uint8_t uuid[GUEST_UUID_SIZE], struct error **errp)
{
    return write_preamble(s, errp) && stream_write(s, RECORD_ASK, uuid, GUEST_UUID_SIZE, errp);
}

/* ---- the destination ---- */

bool handshake_take_name(const struct record *rec, size_t fixed, uint32_t length, char *name,
                         size_t size)
{
    if (length == 0 || length >= size || rec->length != fixed + length) {
        return false;
    }
    memcpy(name, rec->body + fixed, length);
    name[length] = '\0';
    for (uint32_t i = 0; i < length; i++) {
        if (name[i] <= ' ' || name[i] >= 0x7f) {
            return false;
        }
    }
    return true;
}

static bool refuse(struct error **errp, const char *what, uint64_t theirs, uint64_t ours)
{
    error_set(errp, "ram-layout-differs",
              "The RAM layout differs: %s is %" PRIu64 " at the source and %" PRIu64
              " at the destination",
              what, theirs, ours);
    return false;
}

static bool check_hello(const struct record *rec, const struct ram *ram, struct handshake *h,
                        struct error **errp)
{
    const uint8_t *b = rec->body;
    if (!handshake_take_name(rec, HELLO_SIZE, get_le32(b + 40), h->name, sizeof(h->name))) {
        error_set(errp, "stream-corrupt", "The HELLO record names no guest");
        return false;
    }
    memcpy(h->uuid, b, GUEST_UUID_SIZE);
    uint64_t unknown = get_le64(b + 16) & ~FEATURES_KNOWN;
    if (unknown) {
        error_set(errp, "stream-version",
                  "The stream needs features that this ferryd lacks: 0x%" PRIx64, unknown);
        return false;
    }
    if (get_le32(b + 32) != RAM_PAGE_SIZE) {
        return refuse(errp, "the page size", get_le32(b + 32), RAM_PAGE_SIZE);
    }
    if (get_le32(b + 36) != ram->count) {
        return refuse(errp, "the number of RAM blocks", get_le32(b + 36), ram->count);
    }
    if (get_le64(b + 24) != ram->bytes) {
        return refuse(errp, "the amount of RAM in bytes", get_le64(b + 24), ram->bytes);
    }
    return true;
}

static bool check_block(const struct record *rec, const struct ram_block *mine, struct error **errp)
{
    char name[RAM_NAME_MAX + 1];
    char what[RAM_NAME_MAX + 64];
    if (!handshake_take_name(rec, BLOCK_SIZE, get_le32(rec->body + 16), name, sizeof(name))) {
        error_set(errp, "stream-corrupt", "A BLOCK record has no name");
        return false;
    }
    if (strcmp(name, mine->name) != 0) {
        error_set(errp, "ram-layout-differs",
                  "The RAM layout differs: block '%s' at the source is '%s' at the destination",
                  name, mine->name);
        return false;
    }
    if (get_le64(rec->body) != mine->gpa) {
        snprintf(what, sizeof(what), "the address of block '%s'", name);
        return refuse(errp, what, get_le64(rec->body), mine->gpa);
    }
    if (get_le64(rec->body + 8) != mine->length) {
        snprintf(what, sizeof(what), "the length of block '%s' in bytes", name);
        return refuse(errp, what, get_le64(rec->body + 8), mine->length);
    }
    return true;
}

static bool check_capability(const struct record *rec, struct handshake *h, struct error **errp)
{
    char name[65] = "";
    if (!handshake_take_name(rec, 0, (uint32_t)rec->length, name, sizeof(name))) {
        error_set(errp, "stream-corrupt", "A CAPABILITY record has no name");
        return false;
    }
    enum capability c = capability_from_name(name);
    if (c == CAPABILITY_COUNT) {
        error_set(errp, "capability-unknown",
                  "The source uses capability '%s', which the destination does not have", name);
        return false;
    }
    h->capabilities[c] = true;
    return true;
}

static bool receive_machine(struct stream *s, struct handshake *h, struct error **errp)
{
    struct record rec;
    if (!record_expect(s->reader, RECORD_MACHINE, &rec, errp)) {
        return false;
    }
    if (!handshake_take_name(&rec, 0, (uint32_t)rec.length, h->machine, sizeof(h->machine))) {
        error_set(errp, "stream-corrupt", "A MACHINE record has no name");
        return false;
    }
    return true;
}

bool handshake_check_machine(const struct handshake *h, const struct guest *guest,
                             struct error **errp)
{
    static const char linked[] = "a VMM that links libferry";
    if (strcmp(h->machine, guest->machine) == 0) {
        return true;
    }
    error_set(errp, "machine-differs",
              "The machine differs: it is %s at the source and %s at the destination",
              h->machine[0] ? h->machine : linked, guest->machine[0] ? guest->machine : linked);
    return false;
}

static bool take_attribute(const struct record *rec, struct handshake *h, struct error **errp)
{
    if (rec->type == RECORD_FAIL) {
        record_set_failed(rec, errp);
        return false;
    }
    if (rec->type == RECORD_CAPABILITY) {
        return check_capability(rec, h, errp);
    }
    error_set(errp, "stream-order", "A %s record in the introduction", record_type_name(rec->type));
    return false;
}

static bool receive_introduction(struct stream *s, const struct ram *ram, uint64_t features,
                                 uint32_t disks, struct handshake *h, struct error **errp)
{
    struct record rec;
    for (unsigned i = 0; i < ram->count; i++) {
        if (!record_expect(s->reader, RECORD_BLOCK, &rec, errp) ||
            !check_block(&rec, &ram->blocks[i], errp)) {
            return false;
        }
    }
    if (!handshake_receive_disks(s, disks, &h->disks, errp) ||
        (features & FEATURE_MACHINE && !receive_machine(s, h, errp))) {
        return false;
    }
    for (;;) {
        if (!record_read(s->reader, &rec, errp)) {
            return false;
        }
        if (rec.type == RECORD_OPEN) {
            return true;
        }
        if (!take_attribute(&rec, h, errp)) {
            return false;
        }
    }
}

bool handshake_receive(struct stream *s, const struct ram *ram, struct handshake *h,
                       struct error **errp)
{
    struct record rec;
    uint32_t flags;
    *h = (struct handshake){.kind = HANDSHAKE_MIGRATION};
    const uint8_t *preamble = record_read_raw(s->reader, STREAM_PREAMBLE_SIZE, errp);
    if (!preamble || !stream_check_preamble(preamble, &flags, errp)) {
        return false;
    }
    h->two_way = flags & STREAM_FLAG_TWO_WAY;
    if (h->two_way && !s->channel->two_way) {
        error_set(errp, "stream-one-way",
                  "The stream expects answers, and this channel goes one way");
        return false;
    }
    if (!record_read(s->reader, &rec, errp)) {
        return false;
    }
    if (rec.type == RECORD_ASK && h->two_way) {
        h->kind = HANDSHAKE_QUESTION;
        memcpy(h->uuid, rec.body, GUEST_UUID_SIZE);
        return true;
    }
    if (rec.type != RECORD_HELLO || !ram) {
        error_set(errp, "stream-order", "A %s record where HELLO was due",
                  record_type_name(rec.type));
        return false;
    }
    uint64_t features = get_le64(rec.body + 16);
    uint32_t disks = features & FEATURE_DISKS ? get_le32(rec.body + 44) : 0;
    return check_hello(&rec, ram, h, errp) &&
           receive_introduction(s, ram, features, disks, h, errp);
}

bool handshake_accept(struct stream *s, struct error **errp)
{
    return stream_write_u64(s, RECORD_ACCEPT, FEATURES_KNOWN, errp);
}
