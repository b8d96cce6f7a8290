/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One RDMA connection as a channel: messages by SEND into buffers that the peer has posted, with
 * credits so that none is ever sent without one; the byte stream is cut into such messages.
 *
 * Work requests complete in the order of posting, all of them signalled, so that rings without
 * identifiers do for book-keeping.  A confirmed request is in the peer's memory: closing waits for
 * that, as nobody else would.  Where nothing is in flight a link that is gone would not be noticed,
 * so whoever waits writes no bytes at all to the peer now and then, which its adapter confirms even
 * while the peer's program is busy.
 */
#include "transports/rdma_internal.h"

#include "common/clock.h"

#include <endian.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECV_WORK (1ULL << 32) /* wr_id of a receive: this and its buffer */

/* The peer's adapter confirms within microseconds; its own retries end in about 4 s. */
#define CONFIRM_NS (8 * NS_PER_SEC)
/* Silence after which the peer's adapter is asked for a sign of life. */
#define PROBE_NS (1 * NS_PER_SEC)
/* What a peer has sent before it hung up arrives within this time. */
#define HANG_UP_NS (1 * NS_PER_SEC)
/* How long closing waits for the peer's adapter to have taken what was sent. */
#define FAREWELL_NS (300 * NS_PER_MS)

/* ---- what goes wrong ---- */

static void set_fault(struct rdma_channel *c, const char *why)
{
    if (!c->fault[0]) {
        snprintf(c->fault, sizeof(c->fault), "%s", why);
    }
}

void rdma_give_up(struct rdma_channel *c, struct error *err)
{
    error_move(&c->refusal, err);
}

void rdma_refuse(struct rdma_channel *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    error_set_va(&c->refusal, ERROR_GENERIC, "stream-corrupt", format, args);
    va_end(args);
}

static const char *status_text(enum ibv_wc_status status)
{
    static const struct {
        enum ibv_wc_status status;
        const char *text;
    } known[] = {
        {IBV_WC_RETRY_EXC_ERR, "the peer does not answer any more"},
        {IBV_WC_REM_ACCESS_ERR, "the peer let nothing be placed there"},
        {IBV_WC_WR_FLUSH_ERR, "the connection was closed"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (known[i].status == status) {
            return known[i].text;
        }
    }
    return ibv_wc_status_str(status);
}

/* ---- posting ---- */

static struct rdma_work *push_work(struct rdma_channel *c, enum rdma_work_kind kind, uint32_t bytes)
{
    struct rdma_work *work = &c->work[(c->work_first + c->work_count) % RDMA_QUEUE];
    if (!c->work_count) {
        c->confirmed_ns = clock_ns();
    }
    c->work_count++;
    *work = (struct rdma_work){.kind = kind, .bytes = bytes};
    return work;
}

static void post_send(struct rdma_channel *c, struct ibv_send_wr *wr)
{
    struct ibv_send_wr *bad;
    int err = ibv_post_send(c->id->qp, wr, &bad);
    if (err) {
        set_fault(c, strerror(err));
    }
}

void rdma_post_receive(struct rdma_channel *c, unsigned buffer)
{
    struct ibv_sge sge = {.addr = (uintptr_t)(c->arena + (size_t)RDMA_BUFFER * buffer),
                          .length = RDMA_BUFFER,
                          .lkey = c->arena_mr->lkey};
    struct ibv_recv_wr wr = {.wr_id = RECV_WORK | buffer, .sg_list = &sge, .num_sge = 1};
    struct ibv_recv_wr *bad;
    int err = ibv_post_recv(c->id->qp, &wr, &bad);
    if (err) {
        set_fault(c, strerror(err));
    }
}

/* A buffer whose message was dealt with: the peer may fill it again. */
static void return_buffer(struct rdma_channel *c, unsigned buffer)
{
    rdma_post_receive(c, buffer);
    c->owed++;
}

static struct rdma_head *next_message(struct rdma_channel *c)
{
    return (struct rdma_head *)(c->arena + (size_t)RDMA_BUFFER * (RDMA_RECVS + c->send_next));
}

/* Sends the next message, whose body is in place. */
static void post_message(struct rdma_channel *c, enum rdma_message type, size_t length)
{
    struct rdma_head *head = next_message(c);
    *head = (struct rdma_head){.type = htole16((uint16_t)type),
                               .credits = htole16((uint16_t)c->owed),
                               .length = htole32((uint32_t)length)};
    struct ibv_sge sge = {.addr = (uintptr_t)head,
                          .length = (uint32_t)(sizeof(*head) + length),
                          .lkey = c->arena_mr->lkey};
    struct ibv_send_wr wr = {
        .sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED};
    push_work(c, RDMA_WORK_MESSAGE, 0);
    c->owed = 0;
    c->credits--;
    c->sends_used++;
    c->send_next = (c->send_next + 1) % RDMA_SENDS;
    post_send(c, &wr);
}

static bool has_room(const struct rdma_channel *c, uint32_t credits)
{
    return !c->fault[0] && c->sends_used < RDMA_SENDS && c->work_count < RDMA_QUEUE &&
           c->credits >= credits;
}

/* The last credit is kept for giving credits back, lest both ends wait for them. */
bool rdma_can_post(const struct rdma_channel *c, uint64_t unused)
{
    (void)unused;
    return has_room(c, 2);
}

void rdma_post(struct rdma_channel *c, enum rdma_message type, const void *body, size_t length)
{
    if (length) {
        memcpy(next_message(c) + 1, body, length);
    }
    post_message(c, type, length);
}

bool rdma_send(struct rdma_channel *c, enum rdma_message type, const void *body, size_t length,
               const struct wait *w, struct error **errp)
{
    if (!rdma_await(c, rdma_can_post, 0, w, errp)) {
        return false;
    }
    rdma_post(c, type, body, length);
    return true;
}

bool rdma_can_write(const struct rdma_channel *c, uint64_t n)
{
    return !c->fault[0] && c->work_count < RDMA_QUEUE && c->flying + n <= RDMA_WINDOW;
}

void rdma_write(struct rdma_channel *c, enum rdma_work_kind kind, const void *from, uint32_t lkey,
                uint32_t length, uint64_t to, uint32_t rkey)
{
    struct ibv_sge sge = {.addr = (uintptr_t)from, .length = length, .lkey = lkey};
    struct ibv_send_wr wr = {.sg_list = &sge,
                             .num_sge = length ? 1 : 0,
                             .opcode = IBV_WR_RDMA_WRITE,
                             .send_flags = IBV_SEND_SIGNALED,
                             .wr.rdma = {.remote_addr = to, .rkey = rkey}};
    push_work(c, kind, length);
    c->flying += length;
    c->staged += kind == RDMA_WORK_STAGED ? length : 0;
    post_send(c, &wr);
}

bool rdma_is_idle(const struct rdma_channel *c, uint64_t unused)
{
    (void)unused;
    return !c->fault[0] && !c->work_count;
}

/* What is to be sent as soon as there is room, whoever waits for what. */
static void send_pending(struct rdma_channel *c)
{
    rdma_offer_answer(c);
    if (c->end_wanted && !c->end_sent && has_room(c, 2)) {
        rdma_post(c, RDMA_END, NULL, 0);
        c->end_sent = true;
    }
    if (c->owed >= RDMA_RECVS / 2 && has_room(c, 1)) {
        rdma_post(c, RDMA_CREDIT, NULL, 0);
    }
}

/* ---- completions ---- */

static void on_nothing(struct rdma_channel *c, const void *body, size_t length)
{
    (void)c;
    (void)body;
    (void)length;
}

static void on_end(struct rdma_channel *c, const void *body, size_t length)
{
    (void)body;
    (void)length;
    c->ended = true;
}

typedef void message_handler(struct rdma_channel *c, const void *body, size_t length);

/* All but RDMA_DATA, whose buffer is kept until it was read. */
static message_handler *const handlers[] = {
    [RDMA_CREDIT] = on_nothing,     [RDMA_END] = on_end,
    [RDMA_SHARE] = rdma_on_share,   [RDMA_REGION] = rdma_on_region,
    [RDMA_SHARED] = rdma_on_shared, [RDMA_ASK] = rdma_on_ask,
    [RDMA_KEYS] = rdma_on_keys,
};

static void keep_data(struct rdma_channel *c, unsigned buffer, uint32_t length)
{
    unsigned at = (c->received_first + c->received_count) % RDMA_RECVS;
    c->received[at] = (struct rdma_received){
        .buffer = buffer, .at = sizeof(struct rdma_head), .end = sizeof(struct rdma_head) + length};
    c->received_count++;
}

static void on_message(struct rdma_channel *c, unsigned buffer, uint32_t bytes)
{
    const struct rdma_head *head =
        (const struct rdma_head *)(c->arena + (size_t)RDMA_BUFFER * buffer);
    uint32_t type = bytes >= sizeof(*head) ? le16toh(head->type) : 0;
    uint32_t length = bytes >= sizeof(*head) ? le32toh(head->length) : 0;
    bool known =
        type == RDMA_DATA || (type < sizeof(handlers) / sizeof(handlers[0]) && handlers[type]);
    bool late = c->ended && (type == RDMA_DATA || type == RDMA_END);
    if (!known || length != bytes - sizeof(*head) || late) {
        rdma_refuse(c, "%s: a message of type %u with %u bytes", c->peer, type, bytes);
        return;
    }
    /* Credits alone are no sign of a peer that gets on. */
    c->heard_ns = type == RDMA_CREDIT ? c->heard_ns : c->confirmed_ns;
    c->credits += le16toh(head->credits);
    if (c->credits > c->credits_max) {
        rdma_refuse(c, "%s: %u credits, at most %u were given", c->peer, c->credits,
                    c->credits_max);
        return;
    }
    if (type == RDMA_DATA && length) {
        keep_data(c, buffer, length);
        return;
    }
    if (type != RDMA_DATA) {
        handlers[type](c, head + 1, length);
    }
    return_buffer(c, buffer);
}

static void on_confirmed(struct rdma_channel *c)
{
    struct rdma_work work = c->work[c->work_first];
    c->work_first = (c->work_first + 1) % RDMA_QUEUE;
    c->work_count--;
    c->sends_used -= work.kind == RDMA_WORK_MESSAGE;
    c->flying -= work.bytes;
    c->staged -= work.kind == RDMA_WORK_STAGED ? work.bytes : 0;
    c->channel.placed += work.bytes;
}

static void on_completion(struct rdma_channel *c, const struct ibv_wc *wc)
{
    if (wc->status != IBV_WC_SUCCESS) {
        set_fault(c, c->hung_up_ns ? "the peer closed the connection" : status_text(wc->status));
        return;
    }
    c->confirmed_ns = clock_ns();
    if (!(wc->wr_id & RECV_WORK)) {
        c->heard_ns =
            c->work[c->work_first].kind == RDMA_WORK_PROBE ? c->heard_ns : c->confirmed_ns;
        on_confirmed(c);
    } else if (!c->refusal) {
        on_message(c, (unsigned)(wc->wr_id & ~RECV_WORK), wc->byte_len);
    }
}

/* Works on what has completed, though not without end: a peer may send faster; how many. */
static unsigned take_completions(struct rdma_channel *c)
{
    struct ibv_wc wc[16];
    unsigned taken = 0;
    int n = 0;
    while (taken < RDMA_QUEUE && (n = ibv_poll_cq(c->cq, sizeof(wc) / sizeof(wc[0]), wc)) > 0) {
        for (int i = 0; i < n; i++) {
            on_completion(c, &wc[i]);
        }
        taken += (unsigned)n;
    }
    if (n < 0) {
        set_fault(c, "the completion queue failed");
    }
    return taken;
}

/* ---- the connection manager ---- */

static void on_hang_up(struct rdma_channel *c)
{
    c->hung_up_ns = c->hung_up_ns ? c->hung_up_ns : clock_ns();
    rdma_disconnect(c->id); /* what was received comes out, then the rest of the buffers, flushed */
}

/* Without waiting: the event channel does not block. */
static void take_cm_events(struct rdma_channel *c)
{
    struct rdma_cm_event *event;
    while (rdma_get_cm_event(c->events, &event) == 0) {
        enum rdma_cm_event_type type = event->event;
        rdma_ack_cm_event(event);
        if (type == RDMA_CM_EVENT_DISCONNECTED) {
            on_hang_up(c);
        } else if (type == RDMA_CM_EVENT_DEVICE_REMOVAL) {
            set_fault(c, "the RDMA device was taken away");
        }
    }
}

/* ---- waiting ---- */

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a && a < b ? a : b;
}

/* When a wait has something to look after, at the latest. */
static uint64_t next_deadline(const struct rdma_channel *c, const struct wait *w)
{
    uint64_t silence = w->timeout_ms < 0 ? 0 : c->heard_ns + (uint64_t)w->timeout_ms * NS_PER_MS;
    uint64_t own = c->hung_up_ns   ? c->hung_up_ns + HANG_UP_NS
                   : c->work_count ? c->confirmed_ns + CONFIRM_NS
                                   : c->confirmed_ns + PROBE_NS;
    return earlier(silence, own);
}

/* At a deadline: is the peer still there, has it said anything? */
static bool check_silence(struct rdma_channel *c, const struct wait *w, struct error **errp)
{
    uint64_t now = clock_ns();
    if (c->hung_up_ns && now >= c->hung_up_ns + HANG_UP_NS) {
        set_fault(c, "the peer closed the connection");
    } else if (c->work_count && now >= c->confirmed_ns + CONFIRM_NS) {
        set_fault(c, status_text(IBV_WC_RETRY_EXC_ERR));
    } else if (!c->work_count && now >= c->confirmed_ns + PROBE_NS) {
        rdma_write(c, RDMA_WORK_PROBE, NULL, 0, 0, 0, 0);
    }
    if (w->timeout_ms >= 0 && now >= c->heard_ns + (uint64_t)w->timeout_ms * NS_PER_MS) {
        struct wait named = *w;
        named.peer = c->peer;
        wait_set_timeout(&named, errp);
        return false;
    }
    return true;
}

static void take_notification(struct rdma_channel *c)
{
    struct ibv_cq *cq;
    void *context;
    if (ibv_get_cq_event(c->completions, &cq, &context) == 0) {
        ibv_ack_cq_events(cq, 1);
    }
}

/* Sleeps until there may be something to do. */
static bool sleep_a_while(struct rdma_channel *c, const struct wait *w, struct error **errp)
{
    struct pollfd fds[2] = {{.fd = c->completions->fd, .events = POLLIN},
                            {.fd = c->events->fd, .events = POLLIN}};
    ibv_req_notify_cq(c->cq, 0);
    if (take_completions(c)) {
        return true; /* it came before the notification was asked for */
    }
    int n = wait_any(fds, 2, next_deadline(c, w), w, errp);
    if (n <= 0) {
        return n == 0 && check_silence(c, w, errp);
    }
    if (fds[0].revents) {
        take_notification(c);
    }
    if (fds[1].revents) {
        take_cm_events(c);
    }
    return true;
}

void rdma_serve(struct rdma_channel *c)
{
    take_cm_events(c);
    take_completions(c);
    send_pending(c);
}

bool rdma_await(struct rdma_channel *c, bool (*done)(const struct rdma_channel *c, uint64_t n),
                uint64_t n, const struct wait *w, struct error **errp)
{
    c->heard_ns = clock_ns();
    for (;;) {
        take_completions(c);
        send_pending(c);
        if (done(c, n)) {
            return true;
        }
        if (c->refusal) {
            error_move(errp, c->refusal);
            c->refusal = NULL;
            return false;
        }
        if (c->fault[0]) {
            error_set(errp, "channel-closed", "%s: %s", c->peer, c->fault);
            return false;
        }
        /* Whatever comes meanwhile: a peer that never falls silent is no reason to stay. */
        if (wait_cancelled(w, errp) || !check_silence(c, w, errp) || !sleep_a_while(c, w, errp)) {
            return false;
        }
    }
}

/* ---- the byte stream ---- */

/* As much as fits into the next message; how much that was. */
static size_t gather(struct rdma_channel *c, struct iovec **iov, int *iovcnt)
{
    uint8_t *to = (uint8_t *)(next_message(c) + 1);
    size_t room = c->peer_buffer - sizeof(struct rdma_head);
    size_t filled = 0;
    while (*iovcnt && filled < room) {
        size_t n = (*iov)->iov_len < room - filled ? (*iov)->iov_len : room - filled;
        if (n) {
            memcpy(to + filled, (*iov)->iov_base, n);
        }
        filled += n;
        (*iov)->iov_base = (char *)(*iov)->iov_base + n;
        (*iov)->iov_len -= n;
        if (!(*iov)->iov_len) {
            (*iov)++;
            (*iovcnt)--;
        }
    }
    return filled;
}

/* What is written is ferryd's own memory: guest RAM is placed, so nothing can vanish here. */
static bool channel_write_stream(struct channel *channel, struct iovec *iov, int iovcnt,
                                 const struct wait *w, struct error **errp)
{
    struct rdma_channel *c = (struct rdma_channel *)channel;
    while (iovcnt) {
        if (!rdma_await(c, rdma_can_post, 0, w, errp)) {
            return false;
        }
        size_t length = gather(c, &iov, &iovcnt);
        if (length) {
            post_message(c, RDMA_DATA, length);
        }
    }
    return true;
}

static bool has_data(const struct rdma_channel *c, uint64_t unused)
{
    (void)unused;
    return c->received_count || c->ended;
}

static size_t take_data(struct rdma_channel *c, void *buf, size_t room)
{
    struct rdma_received *first = &c->received[c->received_first];
    size_t n = first->end - first->at < room ? first->end - first->at : room;
    memcpy(buf, c->arena + (size_t)RDMA_BUFFER * first->buffer + first->at, n);
    first->at += (uint32_t)n;
    if (first->at == first->end) {
        c->received_first = (c->received_first + 1) % RDMA_RECVS;
        c->received_count--;
        return_buffer(c, first->buffer);
    }
    return n;
}

static ssize_t channel_read_stream(struct channel *channel, void *buf, size_t room,
                                   const struct wait *w, struct error **errp)
{
    struct rdma_channel *c = (struct rdma_channel *)channel;
    size_t taken = 0;
    if (!rdma_await(c, has_data, 0, w, errp)) {
        return -1;
    }
    while (c->received_count && taken < room) {
        taken += take_data(c, (uint8_t *)buf + taken, room - taken);
    }
    send_pending(c);
    return (ssize_t)taken;
}

static bool channel_is_readable(struct channel *channel)
{
    struct rdma_channel *c = (struct rdma_channel *)channel;
    rdma_serve(c);
    return has_data(c, 0) || c->refusal || c->fault[0];
}

/* ---- the end ---- */

static void channel_end_stream(struct channel *channel)
{
    struct rdma_channel *c = (struct rdma_channel *)channel;
    c->end_wanted = true;
    send_pending(c);
}

/* The peer closes when it has taken everything. */
static bool channel_finish_stream(struct channel *channel, const struct wait *w,
                                  struct error **errp)
{
    char ignored[256];
    ssize_t n;
    channel_end_stream(channel);
    do {
        n = channel_read_stream(channel, ignored, sizeof(ignored), w, errp);
    } while (n > 0);
    return n == 0;
}

/* Until the peer's adapter has what was sent; nothing that goes wrong here matters any more. */
static void say_farewell(struct rdma_channel *c)
{
    uint64_t end = clock_ns() + FAREWELL_NS;
    const struct wait w = {.cancel_fd = -1, .timeout_ms = 20, .what = "the peer"};
    while (!rdma_is_idle(c, 0) && !c->fault[0] && clock_ns() < end) {
        rdma_await(c, rdma_is_idle, 0, &w, NULL);
    }
}

static void channel_close_all(struct channel *channel)
{
    struct rdma_channel *c = (struct rdma_channel *)channel;
    struct rdma_cm_id *id = c->id;
    struct rdma_event_channel *events = c->events;
    say_farewell(c);
    rdma_disconnect(id); /* nothing reads or writes the registered memory from here on */
    rdma_channel_free(c);
    rdma_destroy_id(id);
    rdma_destroy_event_channel(events);
}

static bool channel_share_memory(struct channel *channel, const struct channel_sharing *sharing,
                                 const struct wait *w, struct error **errp)
{
    struct rdma_channel *c = (struct rdma_channel *)channel;
    if (sharing->pin_all && !rdma_check_memlock(sharing, errp)) {
        return false;
    }
    return sharing->offer ? rdma_offer_share(c, sharing, w, errp)
                          : rdma_placer_share(c, sharing, w, errp);
}

static void channel_unshare_memory(struct channel *channel)
{
    rdma_offer_free((struct rdma_channel *)channel);
}

const struct channel_ops rdma_channel_ops = {
    .write = channel_write_stream,
    .read = channel_read_stream,
    .readable = channel_is_readable,
    .finish = channel_finish_stream,
    .end_writing = channel_end_stream,
    .close = channel_close_all,
    .share = channel_share_memory,
    .place = rdma_place,
    .unshare = channel_unshare_memory,
};
