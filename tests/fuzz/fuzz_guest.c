/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Messages as a VMM might send them, to the daemon's side of the guest protocol: introduction,
 * news, replies.  The input is a series of messages: type, descriptor, whether the head is the
 * input's, the length of what follows; those bytes are XORed into a message that would be in order.
 * What comes to be attached must be what the rest of the daemon relies on.
 */
#include "guest/agent.h"
#include "guest/wire.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PAGE     4096u
#define PAGES    16u
#define HEAD_RAW 1u /* of the third byte: the head's bytes come from the input, too */
#define BYTES    4u /* of a message before its own */

/* ---- descriptors ---- */

enum { FD_NONE, FD_FILE, FD_READ_ONLY, FD_PIPE, FD_KINDS };

static int get_fd(unsigned kind)
{
    static int fds[FD_KINDS] = {-1, -1, -1, -1};
    if (fds[FD_FILE] < 0) {
        int ends[2];
        fds[FD_FILE] = memfd_create("fuzz", MFD_CLOEXEC);
        fds[FD_READ_ONLY] = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        if (fds[FD_FILE] < 0 || ftruncate(fds[FD_FILE], PAGES * PAGE) < 0 || pipe(ends) < 0) {
            abort();
        }
        fds[FD_PIPE] = ends[0];
    }
    return fds[kind % FD_KINDS];
}

/* ---- messages ---- */

/* One that is in order, of that type; `count` blocks were sent before. */
static void fill_message(struct wire_message *msg, uint32_t type, unsigned count)
{
    int length = wire_body_length(type);
    memset(msg, 0, sizeof(*msg));
    msg->head = (struct wire_head){.type = type, .length = length < 0 ? 0 : (uint32_t)length};
    if (type == WIRE_HELLO) {
        msg->body.hello = (struct wire_hello){.magic = WIRE_MAGIC,
                                              .version = WIRE_VERSION,
                                              .version_min = WIRE_VERSION_MIN,
                                              .page_size = PAGE,
                                              .blocks = 2,
                                              .name = "fuzz"};
    } else if (type == WIRE_BLOCK) {
        msg->body.block = (struct wire_block){
            .length = PAGES * PAGE, .gpa = (uint64_t)count * PAGES * PAGE, .name = "block?"};
        msg->body.block.name[5] = (char)('a' + count % 26);
    } else if (type == WIRE_BLOCKER) {
        msg->body.blocker = (struct wire_blocker){.id = 1 + count, .added = 1, .text = "blocked"};
    } else if (type == WIRE_DISK) {
        msg->body.disk = (struct wire_disk){.length = PAGES * PAGE, .name = "disk"};
    } else if (type == WIRE_REPLY) {
        msg->head.seq = count;
    }
}

/* Sends the next message of the input; what is left of it then, NULL: nothing. */
static const uint8_t *send_next(int sock, const uint8_t *data, const uint8_t *end, unsigned *blocks)
{
    struct wire_message msg;
    if (end - data < (ptrdiff_t)BYTES) {
        return NULL;
    }
    fill_message(&msg, data[0], *blocks);
    *blocks += data[0] == WIRE_BLOCK || data[0] == WIRE_REPLY || data[0] == WIRE_BLOCKER;
    size_t length = sizeof(msg.head) + msg.head.length;
    size_t have = (size_t)(end - data) - BYTES;
    size_t n = data[3] < have ? data[3] : have;
    uint8_t *to = (uint8_t *)&msg + (data[2] & HEAD_RAW ? 0 : sizeof(msg.head));
    size_t room = (size_t)((uint8_t *)(&msg + 1) - to);
    for (size_t i = 0; i < n && i < room; i++) {
        to[i] ^= data[BYTES + i];
    }
    if (data[2] & HEAD_RAW) {
        length = data[2] >> 1 ? (size_t)(data[2] >> 1) * 4 : length;
    }
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = &msg, .iov_len = length < sizeof(msg) ? length : sizeof(msg)};
    struct msghdr out = {.msg_iov = &iov, .msg_iovlen = 1};
    int fd = get_fd(data[1]);
    if (fd >= 0) {
        out.msg_control = control.space;
        out.msg_controllen = sizeof(control.space);
        struct cmsghdr *c = CMSG_FIRSTHDR(&out);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    sendmsg(sock, &out, MSG_NOSIGNAL | MSG_DONTWAIT);
    return data + BYTES + n;
}

/* ---- what a guest must be ---- */

static void require(bool ok)
{
    if (!ok) {
        abort();
    }
}

static void check_name(const char name[GUEST_NAME_SIZE])
{
    size_t n = strnlen(name, GUEST_NAME_SIZE);
    require(n > 0 && n < GUEST_NAME_SIZE);
    for (size_t i = 0; i < n; i++) {
        require(name[i] > ' ' && name[i] < 0x7f && name[i] != '"' && name[i] != '\\');
    }
}

static void check_blockers(const struct guest *g)
{
    require(g->nblockers <= GUEST_BLOCKERS_MAX);
    for (unsigned i = 0; i < g->nblockers; i++) {
        const struct guest_blocker *b = &g->blockers[i];
        size_t n = strnlen(b->reason, GUEST_TEXT_SIZE);
        require(b->id && n > 0 && n < GUEST_TEXT_SIZE);
        for (size_t at = 0; at < n; at++) {
            require(b->reason[at] >= ' ' && b->reason[at] < 0x7f);
        }
        for (unsigned j = 0; j < i; j++) {
            require(g->blockers[j].id != b->id);
        }
    }
}

static bool on_attached(void *opaque, struct guest *g, struct error **errp)
{
    uint64_t sum = 0;
    bool *attached = opaque;
    (void)errp;
    check_name(g->name);
    require(g->nblocks >= 1 && g->nblocks <= GUEST_BLOCKS_MAX);
    for (unsigned i = 0; i < g->nblocks; i++) {
        const struct guest_block *b = &g->blocks[i];
        check_name(b->name);
        require(b->length && (b->length | b->offset | b->gpa) % PAGE == 0);
        require(b->offset + b->length <= PAGES * PAGE && b->gpa + b->length > b->gpa);
        sum += b->length;
        for (unsigned j = 0; j < i; j++) {
            const struct guest_block *other = &g->blocks[j];
            require(strcmp(b->name, other->name) != 0);
            require(b->gpa >= other->gpa + other->length || other->gpa >= b->gpa + b->length);
        }
    }
    require(g->ndisks <= GUEST_DISKS_MAX);
    for (unsigned i = 0; i < g->ndisks; i++) {
        const struct guest_disk *d = &g->disks[i];
        check_name(d->name);
        require(d->length && d->length % 512 == 0 && d->length <= PAGES * PAGE && d->fd >= 0);
        for (unsigned j = 0; j < i; j++) {
            require(strcmp(d->name, g->disks[j].name) != 0);
        }
    }
    require(sum == g->ram && guest_get_state(g) < WIRE_STATES);
    *attached = true;
    return true;
}

static void on_changed(void *opaque, struct guest *g, enum guest_state from)
{
    (void)opaque;
    require(guest_get_state(g) < WIRE_STATES && guest_get_state(g) != from);
}

static void on_shut_down(void *opaque, struct guest *g, bool by_guest, const char *reason)
{
    (void)opaque;
    (void)g;
    (void)by_guest;
    (void)reason;
}

static void on_answer(void *opaque, struct error *err)
{
    unsigned *answers = opaque;
    (*answers)++;
    error_free(err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool attached = false;
    struct guest_events events = {.attached = on_attached,
                                  .state_changed = on_changed,
                                  .shut_down = on_shut_down,
                                  .opaque = &attached};
    const uint8_t *end = data + size;
    unsigned blocks = 0, asked = 0, answered = 0;
    struct error *err = NULL;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
        abort();
    }
    struct guest *g = agent_new(ends[0], &events);
    require(g != NULL);
    bool ok = true;
    while (ok && data && (data = send_next(ends[1], data, end, &blocks))) {
        ok = agent_read(g, &err);
        if (ok && attached && asked < 4) {
            blocks = 0; /* replies count from the first request */
            asked++;
            agent_ask(g, GUEST_ASK_PAUSE, 1000, on_answer, &answered);
        }
    }
    require(ok == !err);
    check_blockers(g);
    error_free(err);
    agent_expire(g);
    agent_lost(g);
    require(answered == asked);
    guest_unref(g);
    close(ends[1]);
    return 0;
}
