/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/stream.h"

#include "common/clock.h"

#include <string.h>

/* How long an end that gives up waits for the peer to take note; it holds nothing else up. */
#define FAREWELL_MS 300

/* What was placed is confirmed as the channel works on other things. */
static void publish_placed(const struct stream *s)
{
    if (s->placed) {
        atomic_store_explicit(s->placed, s->channel->placed, memory_order_relaxed);
    }
}

static void count_sent(struct stream *s, uint64_t bytes)
{
    s->sent += bytes;
    if (s->written) {
        atomic_fetch_add_explicit(s->written, bytes, memory_order_relaxed);
    }
    publish_placed(s);
}

static bool sink_write(void *opaque, struct iovec *iov, int iovcnt, struct error **errp)
{
    struct stream *s = opaque;
    uint64_t bytes = 0;
    if (wait_cancelled(&s->write_wait, errp)) {
        return false; /* a peer that takes everything at once must not keep us from noticing */
    }
    for (int i = 0; i < iovcnt; i++) {
        bytes += iov[i].iov_len;
    }
    uint64_t start = clock_ns();
    bool ok = channel_write(s->channel, iov, iovcnt, &s->write_wait, errp);
    s->send_ns += clock_ns() - start;
    count_sent(s, bytes);
    return ok;
}

static bool sink_place(void *opaque, unsigned block, uint64_t offset, uint64_t length, bool zeroes,
                       struct error **errp)
{
    struct stream *s = opaque;
    if (wait_cancelled(&s->write_wait, errp)) {
        return false;
    }
    uint64_t start = clock_ns();
    bool ok =
        s->channel->ops->place(s->channel, block, offset, length, zeroes, &s->write_wait, errp);
    s->send_ns += clock_ns() - start;
    count_sent(s, length);
    return ok;
}

static long source_read(void *opaque, void *buf, size_t room, struct error **errp)
{
    struct stream *s = opaque;
    if (wait_cancelled(&s->read_wait, errp)) {
        return -1;
    }
    ssize_t n = channel_read(s->channel, buf, room, &s->read_wait, errp);
    publish_placed(s);
    if (n > 0 && s->taken) {
        atomic_fetch_add_explicit(s->taken, (uint64_t)n, memory_order_relaxed);
    }
    return n;
}

void stream_open(struct stream *s, struct channel *channel, const struct wait *read_wait,
                 const struct wait *write_wait)
{
    *s = (struct stream){
        .channel = channel,
        .read_wait = *read_wait,
        .write_wait = *write_wait,
        .sink = {.write = sink_write, .opaque = s},
    };
    s->reader = record_reader_new(&(struct record_source){
        .read = source_read, .opaque = s, .in_place = channel->ops->in_place});
}

void stream_close(struct stream *s)
{
    channel_close(s->channel);
    record_reader_free(s->reader);
    s->channel = NULL;
    s->reader = NULL;
}

void stream_take(struct stream *s, struct stream *from)
{
    struct channel *channel = from->channel;
    from->channel = NULL;
    stream_close(s);
    stream_open(s, channel, &from->read_wait, &from->write_wait);
    stream_close(from);
}

bool stream_write_raw(struct stream *s, const void *bytes, size_t length, struct error **errp)
{
    struct iovec iov = {.iov_base = (void *)bytes, .iov_len = length};
    return sink_write(s, &iov, 1, errp);
}

bool stream_write(struct stream *s, uint32_t type, const void *body, size_t length,
                  struct error **errp)
{
    return record_write(&s->sink, type, body, length, errp);
}

bool stream_write_u64(struct stream *s, uint32_t type, uint64_t value, struct error **errp)
{
    uint8_t body[8];
    put_le64(body, value);
    return stream_write(s, type, body, sizeof(body), errp);
}

bool stream_share(struct stream *s, struct ram *ram, bool offer, bool pin_all, uint64_t chunk,
                  struct error **errp)
{
    struct channel_region regions[RAM_BLOCKS_MAX];
    if (!s->channel->ops->share) {
        return true;
    }
    for (unsigned i = 0; i < ram->count; i++) {
        const struct ram_block *b = &ram->blocks[i];
        regions[i] = (struct channel_region){
            .name = b->name, .fd = b->fd, .offset = b->offset, .length = b->length};
    }
    struct channel_sharing sharing = {.regions = regions,
                                      .count = ram->count,
                                      .offer = offer,
                                      .pin_all = pin_all,
                                      .chunk = chunk};
    const struct wait *w = offer ? &s->read_wait : &s->write_wait;
    if (!s->channel->ops->share(s->channel, &sharing, w, errp)) {
        stream_prefer_peers_word(s, errp);
        return false;
    }
    ram->placing = offer;
    s->sink.place = offer ? NULL : sink_place;
    return true;
}

bool stream_readable(struct stream *s)
{
    return record_reader_buffered(s->reader) || channel_readable(s->channel);
}

void stream_give_up(struct stream *s, const struct error *err)
{
    if (!s->channel) {
        return;
    }
    /* The job may have been cancelled: its cancel descriptor must not cut this short. */
    struct wait farewell = {.cancel_fd = -1, .timeout_ms = FAREWELL_MS, .what = "the peer"};
    s->read_wait = s->write_wait = farewell;
    size_t length = strlen(err->text);
    stream_write(s, RECORD_FAIL, err->text, length < 1024 ? length : 1024, NULL);
}

void stream_drain(struct stream *s)
{
    char ignored[4096];
    uint64_t end = clock_ns() + FAREWELL_MS * NS_PER_MS;
    if (!s->channel || !s->channel->two_way) {
        return;
    }
    channel_end_writing(s->channel);
    s->read_wait = (struct wait){.cancel_fd = -1, .timeout_ms = FAREWELL_MS, .what = "the peer"};
    while (clock_ns() < end &&
           channel_read(s->channel, ignored, sizeof(ignored), &s->read_wait, NULL) > 0) {
    }
}

void stream_prefer_peers_word(struct stream *s, struct error **errp)
{
    struct error *word = NULL;
    struct record rec;
    if (!errp || !*errp || strcmp((*errp)->code, "channel-closed") != 0 || !s->channel->two_way) {
        return;
    }
    s->read_wait.timeout_ms = FAREWELL_MS;
    if (!record_expect(s->reader, RECORD_FAIL, &rec, &word) &&
        strcmp(word->code, "peer-failed") == 0) {
        error_free(*errp);
        *errp = word;
    } else {
        error_free(word);
    }
}
