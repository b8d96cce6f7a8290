/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * QEMU's migration stream when it carries device state only, at the end of a socket pair whose
 * other end QEMU has.
 *
 * Out of the source's QEMU it is collected as it comes.  QEMU keeps its end open for the return
 * path, so the end of the stream is found in it: behind the end mark (a zero byte) stands the
 * description of the state, a byte 6, a length of four bytes (big-endian) and as many bytes of
 * JSON, and nothing more (QEMU, docs/devel/migration, "Stream structure").  JSON holds no byte 6,
 * so where the last ones are, the description begins, or nowhere.
 *
 * The return path carries messages {type, length (both two bytes, big-endian), payload} towards
 * the source.  SHUT says that the state was loaded, with a zero of four bytes, or was not.
 */
#ifndef FERRY_QEMU_VMSTATE_H
#define FERRY_QEMU_VMSTATE_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vmstate {
    int fd;         /* our end, non-blocking; -1: none */
    uint8_t *bytes; /* what has come; of the source's QEMU the stream, else the return path */
    size_t length, room;
    size_t max; /* of `length` */
    bool ended; /* QEMU has closed its end */
};

#define VMSTATE_NONE ((struct vmstate){.fd = -1})

/* Makes the pair, out of which at most `max` bytes are taken; *theirs is the caller's to pass on
 * and close. */
bool vmstate_open(struct vmstate *s, size_t max, int *theirs, struct error **errp);
void vmstate_close(struct vmstate *s);

/* Takes what there is.  Never blocks.  Errors: "state-too-large". */
bool vmstate_collect(struct vmstate *s, struct error **errp);

/* Whether the whole stream is there. */
bool vmstate_is_complete(const uint8_t *bytes, size_t length);

/* Tells the source's QEMU that its state has arrived: it is through with its guest.  False: QEMU
 * has closed its end. */
bool vmstate_confirm(const struct vmstate *s);

enum vmstate_word {
    VMSTATE_SILENT,
    VMSTATE_LOADED,
    VMSTATE_REJECTED, /* or no return path */
};

/* What a destination's QEMU has said by now. */
enum vmstate_word vmstate_word(const uint8_t *bytes, size_t length);

#endif
