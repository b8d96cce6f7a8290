/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The device state on its way out.  The VMM can still change the file while it is sent: each byte
 * is read once, and hashed as it is sent, so that what arrives is what was hashed.
 */
#include "common/cleanup.h"
#include "daemon/outgoing.h"

#include <sys/stat.h>
#include <xxhash.h>

/* Offset and a reserved field, before each piece. */
#define FIXED_SIZE 16u

int outgoing_save_state(struct outgoing *o, struct error **errp)
{
    struct wait w = job_guest_wait(o->job);
    struct stat st = {0};
    int fd = o->job->guest->ops->save_state(o->job->guest, &w, errp);
    if (fd >= 0) {
        fstat(fd, &st);
        o->state_bytes = (uint64_t)st.st_size;
    }
    return fd;
}

/* Sends the `length` bytes that follow the fixed part in `body`. */
static bool send_piece(struct outgoing *o, uint8_t *body, uint64_t offset, size_t length,
                       struct error **errp)
{
    static const uint8_t padding[8];
    uint8_t head[RECORD_HEAD_SIZE];
    put_le64(body, offset);
    put_le64(body + 8, 0);
    record_head(head, RECORD_STATE, FIXED_SIZE + length, body, FIXED_SIZE);
    struct iovec iov[] = {{.iov_base = head, .iov_len = sizeof(head)},
                          {.iov_base = body, .iov_len = FIXED_SIZE + length},
                          {.iov_base = (void *)padding, .iov_len = -length & 7}};
    return o->stream.sink.write(&o->stream, iov, 3, errp);
}

static bool send_pieces(struct outgoing *o, int fd, uint8_t *body, XXH3_state_t *hash,
                        struct error **errp)
{
    for (uint64_t at = 0; at < o->state_bytes;) {
        uint64_t left = o->state_bytes - at;
        size_t want = left < RECORD_PAYLOAD_MAX ? (size_t)left : RECORD_PAYLOAD_MAX;
        ssize_t n = pread(fd, body + FIXED_SIZE, want, (off_t)at);
        if (n <= 0) {
            error_set(errp, "guest-refused", "The device state of guest '%s' became shorter",
                      o->job->guest_name);
            return false;
        }
        XXH3_64bits_update(hash, body + FIXED_SIZE, (size_t)n);
        if (!send_piece(o, body, at, (size_t)n, errp)) {
            return false;
        }
        at += (uint64_t)n;
    }
    return true;
}

bool outgoing_send_state(struct outgoing *o, int fd, struct error **errp)
{
    CLEANUP_FREE uint8_t *body = malloc(FIXED_SIZE + RECORD_PAYLOAD_MAX);
    XXH3_state_t *hash = XXH3_createState();
    if (!body || !hash) {
        abort();
    }
    XXH3_64bits_reset(hash);
    bool ok = send_pieces(o, fd, body, hash, errp);
    uint8_t end[16];
    put_le64(end, o->state_bytes);
    put_le64(end + 8, XXH3_64bits_digest(hash));
    XXH3_freeState(hash);
    return ok && stream_write(&o->stream, RECORD_STATE_END, end, sizeof(end), errp);
}
