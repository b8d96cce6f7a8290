/* SPDX-License-Identifier: BSD-3-Clause */
#include "transports/memory.h"

#include "common/cleanup.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

/* One direction.  The eventfds are readable while there is something to do for their end. */
struct lane {
    uint8_t *buf;
    size_t room, start, used;
    uint64_t taken; /* bytes since the beginning */
    struct memory_faults faults;
    bool ended;  /* nothing more will be written */
    bool broken; /* nothing more can be written */
    int read_fd, write_fd;
};

struct link {
    pthread_mutex_t lock; /* everything */
    int users;
    struct lane lanes[2]; /* lane i is written by end i */
};

struct memory_channel {
    struct channel channel;
    struct link *link;
    int end;
};

/* ---- waking ---- */

static void set_level(int fd, bool on)
{
    uint64_t count = 1;
    ssize_t ignored = on ? write(fd, &count, sizeof(count)) : read(fd, &count, sizeof(count));
    (void)ignored;
}

static void update(const struct lane *l)
{
    set_level(l->read_fd, l->used || l->ended || l->broken);
    set_level(l->write_fd, l->used < l->room || l->broken);
}

static void break_lanes(struct link *link)
{
    for (int i = 0; i < 2; i++) {
        link->lanes[i].broken = true;
        update(&link->lanes[i]);
    }
}

static struct lane *written_by(struct channel *channel)
{
    struct memory_channel *c = (struct memory_channel *)channel;
    return &c->link->lanes[c->end];
}

static struct lane *read_by(struct channel *channel)
{
    struct memory_channel *c = (struct memory_channel *)channel;
    return &c->link->lanes[!c->end];
}

static pthread_mutex_t *lock_of(struct channel *channel)
{
    return &((struct memory_channel *)channel)->link->lock;
}

/* ---- writing ---- */

/* As the kernel copies for a socket: -1 with EFAULT where there is no memory. */
static ssize_t copy_in(uint8_t *to, const void *from, size_t length)
{
    struct iovec mine = {.iov_base = to, .iov_len = length};
    struct iovec theirs = {.iov_base = (void *)from, .iov_len = length};
    return process_vm_readv(getpid(), &mine, 1, &theirs, 1, 0);
}

static ssize_t copy_out(void *to, uint8_t *from, size_t length)
{
    struct iovec mine = {.iov_base = from, .iov_len = length};
    struct iovec theirs = {.iov_base = to, .iov_len = length};
    return process_vm_writev(getpid(), &mine, 1, &theirs, 1, 0);
}

static ssize_t failed_copy(struct error **errp)
{
    error_set(errp, errno == EFAULT ? "ram-vanished" : "system-error", "memory: %s",
              strerror(errno));
    return -1;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* How much can be taken at once: contiguous room, up to where the link is cut. */
static size_t room_for(const struct lane *l, size_t want)
{
    size_t at = (l->start + l->used) % l->room;
    size_t n = smaller(want, smaller(l->room - l->used, l->room - at));
    uint64_t left = l->faults.cut_at - l->taken;
    return l->faults.cut && left < n ? (size_t)left : n;
}

static void flip(struct lane *l, uint8_t *at, size_t n)
{
    if (l->faults.flip_at >= l->taken && l->faults.flip_at - l->taken < n) {
        at[l->faults.flip_at - l->taken] ^= l->faults.flip_mask;
    }
}

/* Takes some of it: what was taken, 0 when there is no room, -1 with an error. */
static ssize_t take_some(struct channel *channel, const struct iovec *iov, struct error **errp)
{
    LOCK_SCOPE(lock_of(channel));
    struct lane *l = written_by(channel);
    if (l->broken || l->ended) {
        error_set(errp, "channel-closed", "memory: %s", strerror(EPIPE));
        return -1;
    }
    size_t want = room_for(l, iov->iov_len);
    if (!want) {
        return 0;
    }
    uint8_t *at = l->buf + (l->start + l->used) % l->room;
    ssize_t n = copy_in(at, iov->iov_base, want);
    if (n < 0) {
        return failed_copy(errp);
    }
    flip(l, at, (size_t)n);
    l->used += (size_t)n;
    l->taken += (size_t)n;
    update(l);
    if (l->faults.cut && l->taken == l->faults.cut_at) {
        break_lanes(((struct memory_channel *)channel)->link);
    }
    return n;
}

static bool memory_write(struct channel *channel, struct iovec *iov, int iovcnt,
                         const struct wait *w, struct error **errp)
{
    while (iovcnt) {
        ssize_t n = iov->iov_len ? take_some(channel, iov, errp) : 0;
        if (n < 0) {
            return false;
        }
        iov->iov_base = (char *)iov->iov_base + n;
        iov->iov_len -= (size_t)n;
        if (!iov->iov_len) {
            iov++;
            iovcnt--;
        } else if (!n && !wait_fd(written_by(channel)->write_fd, POLLIN, w, errp)) {
            return false;
        }
    }
    return true;
}

/* ---- reading ---- */

/* Sets *ready when there was something: bytes, the end, or an error (-1). */
static ssize_t give_some(struct channel *channel, void *buf, size_t room, bool *ready,
                         struct error **errp)
{
    LOCK_SCOPE(lock_of(channel));
    struct lane *l = read_by(channel);
    size_t most = smaller(room, smaller(l->used, l->room - l->start));
    most = l->faults.piece ? smaller(most, l->faults.piece) : most;
    ssize_t n = most ? copy_out(buf, l->buf + l->start, most) : 0;
    *ready = n || l->ended || l->broken;
    if (n < 0) {
        return failed_copy(errp);
    }
    l->start = (l->start + (size_t)n) % l->room;
    l->used -= (size_t)n;
    update(l);
    return n;
}

static ssize_t memory_read(struct channel *channel, void *buf, size_t room, const struct wait *w,
                           struct error **errp)
{
    for (;;) {
        bool ready;
        ssize_t n = give_some(channel, buf, room, &ready, errp);
        if (ready) {
            return n;
        }
        if (!wait_fd(read_by(channel)->read_fd, POLLIN, w, errp)) {
            return -1;
        }
    }
}

static bool memory_readable(struct channel *channel)
{
    LOCK_SCOPE(lock_of(channel));
    const struct lane *l = read_by(channel);
    return l->used || l->ended || l->broken;
}

/* ---- the end ---- */

static void memory_end_writing(struct channel *channel)
{
    LOCK_SCOPE(lock_of(channel));
    struct lane *l = written_by(channel);
    l->ended = true;
    update(l);
}

static bool memory_finish(struct channel *channel, const struct wait *w, struct error **errp)
{
    char ignored[256];
    ssize_t n;
    memory_end_writing(channel);
    do {
        n = memory_read(channel, ignored, sizeof(ignored), w, errp);
    } while (n > 0);
    return n == 0;
}

static void free_link(struct link *link)
{
    for (int i = 0; i < 2; i++) {
        close(link->lanes[i].read_fd);
        close(link->lanes[i].write_fd);
        free(link->lanes[i].buf);
    }
    pthread_mutex_destroy(&link->lock);
    free(link);
}

static void memory_close(struct channel *channel)
{
    struct memory_channel *c = (struct memory_channel *)channel;
    struct link *link = c->link;
    pthread_mutex_lock(&link->lock);
    written_by(channel)->ended = true;
    read_by(channel)->broken = true;
    update(written_by(channel));
    update(read_by(channel));
    bool last = --link->users == 0;
    pthread_mutex_unlock(&link->lock);
    if (last) {
        free_link(link);
    }
    free(c);
}

static const struct channel_ops memory_ops = {
    .write = memory_write,
    .read = memory_read,
    .in_place = true,
    .readable = memory_readable,
    .finish = memory_finish,
    .end_writing = memory_end_writing,
    .close = memory_close,
};

/* ---- making them ---- */

static int make_eventfd(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        abort();
    }
    return fd;
}

static void init_lane(struct lane *l, size_t room)
{
    *l = (struct lane){
        .buf = malloc(room), .room = room, .read_fd = make_eventfd(), .write_fd = make_eventfd()};
    if (!l->buf) {
        abort();
    }
    update(l);
}

static struct channel *make_end(struct link *link, int end)
{
    struct memory_channel *c = calloc(1, sizeof(*c));
    if (!c) {
        abort();
    }
    *c = (struct memory_channel){
        .channel = {.ops = &memory_ops, .two_way = true}, .link = link, .end = end};
    return &c->channel;
}

void memory_pair(size_t room, struct channel *ends[2])
{
    struct link *link = calloc(1, sizeof(*link));
    if (!link) {
        abort();
    }
    pthread_mutex_init(&link->lock, NULL);
    link->users = 2;
    for (int i = 0; i < 2; i++) {
        init_lane(&link->lanes[i], room);
        ends[i] = make_end(link, i);
    }
}

void memory_set_faults(struct channel *end, const struct memory_faults *faults)
{
    LOCK_SCOPE(lock_of(end));
    written_by(end)->faults = *faults;
    if (faults->cut && !faults->cut_at) {
        break_lanes(((struct memory_channel *)end)->link);
    }
}

void memory_break(struct channel *end)
{
    LOCK_SCOPE(lock_of(end));
    break_lanes(((struct memory_channel *)end)->link);
}
