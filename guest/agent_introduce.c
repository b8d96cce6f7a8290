/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How a VMM introduces its guest: HELLO, its BLOCKs, its DISKs (agent_disks.c), its BLOCKERs,
 * READY. Everything is checked here, once; after it a guest's names are printable, its blocks
 * aligned, inside their files and apart.
 */
#include "guest/agent_internal.h"

#include "common/cleanup.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool refuse(struct agent *a, struct error *err, struct error **errp)
{
    struct wire_refuse body = {0};
    snprintf(body.text, sizeof(body.text), "%s", err->text);
    wire_send(a->sock, WIRE_REFUSE, 0, &body, -1);
    error_move(errp, err);
    return false;
}

static const char *pick_tracking(uint32_t features)
{
    if (!(features & WIRE_FEATURE_KVM_LOG)) {
        return "marks";
    }
    return features & WIRE_FEATURE_MANUAL_PROTECT ? "kvm-manual-protect" : "kvm-log";
}

static bool on_hello(struct agent *a, const struct wire_message *msg, struct error **errp)
{
    const struct wire_hello *h = &msg->body.hello;
    if (h->magic != WIRE_MAGIC) {
        error_set(errp, "guest-protocol", "The VMM does not speak libferry's protocol");
    } else if (h->version < WIRE_VERSION_MIN || h->version_min > WIRE_VERSION) {
        error_set(errp, "guest-version",
                  "The VMM's libferry speaks protocol versions %u to %u, this ferryd %u to %u",
                  h->version_min, h->version, WIRE_VERSION_MIN, WIRE_VERSION);
    } else if (!guest_name_is_good(h->name)) {
        error_set(errp, "guest-invalid",
                  "A guest's name has 1 to %d printable characters, no spaces or quotes",
                  WIRE_NAME_SIZE - 1);
    } else if (h->page_size != GUEST_PAGE_SIZE) {
        error_set(errp, "guest-invalid", "Guest '%s' has pages of %u bytes, not %u", h->name,
                  h->page_size, GUEST_PAGE_SIZE);
    } else if (!h->blocks || h->blocks > GUEST_BLOCKS_MAX || h->state >= WIRE_STATES) {
        error_set(errp, "guest-invalid", "Guest '%s' has %u RAM blocks; 1 to %u are allowed",
                  h->name, h->blocks, GUEST_BLOCKS_MAX);
    } else if (h->disks > GUEST_DISKS_MAX) {
        error_set(errp, "guest-invalid", "Guest '%s' has %u disks; at most %u are allowed", h->name,
                  h->disks, GUEST_DISKS_MAX);
    } else {
        strcpy(a->guest.name, h->name);
        memcpy(a->guest.job, h->job, sizeof(a->guest.job));
        a->guest.released = h->released;
        a->guest.tracking = pick_tracking(h->features);
        a->guest.can_throttle = h->features & WIRE_FEATURE_THROTTLE;
        atomic_store(&a->guest.state, (int)h->state);
        a->guest.can_announce = h->features & WIRE_FEATURE_ANNOUNCE;
        a->features = h->features;
        a->blocks_due = h->blocks;
        a->disks_due = h->disks;
        a->hello_seen = true;
        return true;
    }
    return false;
}

static bool block_is_apart(const struct guest *g, const struct wire_block *b, struct error **errp)
{
    for (unsigned i = 0; i < g->nblocks; i++) {
        const struct guest_block *other = &g->blocks[i];
        if (strcmp(other->name, b->name) == 0) {
            error_set(errp, "guest-invalid", "Guest '%s' has two RAM blocks named '%s'", g->name,
                      b->name);
            return false;
        }
        if (b->gpa < other->gpa + other->length && other->gpa < b->gpa + b->length) {
            error_set(errp, "guest-invalid", "Guest '%s': RAM blocks '%s' and '%s' overlap",
                      g->name, other->name, b->name);
            return false;
        }
    }
    return true;
}

static bool block_range_is_good(const struct guest *g, const struct wire_block *b,
                                struct error **errp)
{
    bool good = b->length && (b->offset | b->length | b->gpa) % GUEST_PAGE_SIZE == 0 &&
                b->length <= GUEST_RAM_MAX - g->ram && b->offset <= GUEST_RAM_MAX &&
                b->gpa <= UINT64_MAX - GUEST_RAM_MAX;
    if (!good) {
        error_set(errp, "guest-invalid",
                  "Guest '%s': RAM block '%s' is empty, not aligned to %u bytes, or takes the "
                  "guest past %llu bytes",
                  g->name, b->name, GUEST_PAGE_SIZE, GUEST_RAM_MAX);
    }
    return good;
}

static bool block_file_is_good(const struct guest *g, const struct wire_block *b, int fd,
                               struct error **errp)
{
    struct stat st;
    int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);
    /* Only memory files have seals; a file of another kind might block whoever asks its size. */
    if (flags < 0 || (flags & O_ACCMODE) != O_RDWR || fcntl(fd, F_GET_SEALS) < 0 ||
        fstat(fd, &st) < 0) {
        error_set(errp, "guest-invalid",
                  "Guest '%s': RAM block '%s' needs the descriptor of a memory file, open for "
                  "reading and writing",
                  g->name, b->name);
        return false;
    }
    if ((uint64_t)st.st_size < b->offset + b->length) {
        error_set(errp, "guest-invalid",
                  "Guest '%s': RAM block '%s' ends at byte %" PRIu64 " of a file of %jd", g->name,
                  b->name, b->offset + b->length, (intmax_t)st.st_size);
        return false;
    }
    return true;
}

static bool on_block(struct agent *a, const struct wire_message *msg, int *fd, struct error **errp)
{
    struct guest *g = &a->guest;
    const struct wire_block *b = &msg->body.block;
    if (!guest_name_is_good(b->name)) {
        error_set(errp, "guest-invalid", "Guest '%s' has a RAM block without a printable name",
                  g->name);
        return false;
    }
    if (!block_range_is_good(g, b, errp) || !block_is_apart(g, b, errp) ||
        !block_file_is_good(g, b, *fd, errp)) {
        return false;
    }
    struct guest_block *mine = &g->blocks[g->nblocks];
    *mine = (struct guest_block){
        .fd = fd_steal(fd), .offset = b->offset, .length = b->length, .gpa = b->gpa};
    strcpy(mine->name, b->name);
    a->pages[g->nblocks++] = b->length / GUEST_PAGE_SIZE;
    a->blocks_due--;
    g->ram += b->length;
    return true;
}

static bool on_ready(struct agent *a, struct error **errp)
{
    struct wire_welcome welcome = {.version = WIRE_VERSION};
    if (!a->events.attached(a->events.opaque, &a->guest, errp)) {
        return false;
    }
    a->attached = true;
    wire_send(a->sock, WIRE_WELCOME, 0, &welcome, -1);
    if (a->events.welcomed) {
        a->events.welcomed(a->events.opaque, &a->guest);
    }
    return true;
}

static bool introduce(struct agent *a, const struct wire_message *msg, int *fd, struct error **errp)
{
    uint32_t due = WIRE_READY;
    if (!a->hello_seen) {
        due = WIRE_HELLO;
    } else if (a->blocks_due) {
        due = WIRE_BLOCK;
    } else if (a->disks_due || a->base_due) {
        due = WIRE_DISK;
    }
    if (due == WIRE_READY && msg->head.type == WIRE_BLOCKER) {
        return agent_take_blocker(a, &msg->body.blocker, errp);
    }
    if (msg->head.type != due) {
        error_set(errp, "guest-protocol", "The VMM sent message %u where %u was due",
                  msg->head.type, due);
        return false;
    }
    if (due == WIRE_HELLO) {
        return on_hello(a, msg, errp);
    }
    if (due == WIRE_DISK) {
        return agent_on_disk(a, msg, fd, errp);
    }
    return due == WIRE_BLOCK ? on_block(a, msg, fd, errp) : on_ready(a, errp);
}

bool agent_introduce(struct agent *a, const struct wire_message *msg, int *fd, struct error **errp)
{
    struct error *err = NULL;
    return introduce(a, msg, fd, &err) || refuse(a, err, errp);
}
