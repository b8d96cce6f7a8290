/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One end of a migration stream: a channel with its records.  Owned by a job's thread.
 */
#ifndef FERRY_DAEMON_STREAM_H
#define FERRY_DAEMON_STREAM_H

#include "ram/block.h"
#include "ram/records.h"
#include "transports/channel.h"

#include <stdatomic.h>

struct stream {
    struct channel *channel; /* NULL: closed */
    struct record_reader *reader;
    struct record_sink sink;
    struct wait read_wait;
    struct wait write_wait;
    uint64_t sent;    /* bytes written */
    uint64_t send_ns; /* time spent in writing them, for the bandwidth */
    /* Bytes written and read, for others to see; either may be NULL. */
    _Atomic uint64_t *written;
    _Atomic uint64_t *taken;
    _Atomic uint64_t *placed; /* bytes placed at the peer, confirmed */
};

/* Takes over `channel`; nothing is counted yet. */
void stream_open(struct stream *s, struct channel *channel, const struct wait *read_wait,
                 const struct wait *write_wait);
void stream_close(struct stream *s); /* again is allowed */

/* Closes `s` and gives it the channel of `from`, of which nothing must be buffered. */
void stream_take(struct stream *s, struct stream *from);

bool stream_write_raw(struct stream *s, const void *bytes, size_t length, struct error **errp);
bool stream_write(struct stream *s, uint32_t type, const void *body, size_t length,
                  struct error **errp);

/* A record whose only field is a 64-bit number. */
bool stream_write_u64(struct stream *s, uint32_t type, uint64_t value, struct error **errp);

/*
 * Where the channel places memory at the peer: agrees on it with the peer, and lets sink.place do
 * it.  On other channels does nothing.  `offer`: the destination, whose memory is placed into.
 */
bool stream_share(struct stream *s, struct ram *ram, bool offer, bool pin_all, uint64_t chunk,
                  struct error **errp);

/* Whether a record has come, or the end of the stream; never waits. */
bool stream_readable(struct stream *s);

/* Tells the peer that this end gives up and why, as well as that can be told in a moment. */
void stream_give_up(struct stream *s, const struct error *err);

/*
 * Ends the stream so that the peer can read all of it: a socket closed with unread bytes would
 * throw away what was sent.  Takes a moment; closing is left to stream_close.
 */
void stream_drain(struct stream *s);

/*
 * After a failed write: a peer that gave up has said why before it closed, and that is the better
 * error.  Replaces *errp when there is such a word.
 */
void stream_prefer_peers_word(struct stream *s, struct error **errp);

#endif
