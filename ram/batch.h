/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Records of RAM on their way into one writev: heads that are kept here, payload that stays where
 * it is (the guest's memory, the cache of deltas) until the batch is written.
 *
 * The pacer says how many bytes of payload a batch may collect.  Owned by the saver (save.h).
 */
#ifndef FERRY_RAM_BATCH_H
#define FERRY_RAM_BATCH_H

#include "ram/save.h"

#include <sys/uio.h>

/* Records per writev: two iovecs each, IOV_MAX (1024) in all. */
#define BATCH_RECORDS   512u
#define BATCH_IOVECS    (2 * BATCH_RECORDS)
#define BATCH_HEAD_SIZE 40u /* of RAM_ZERO and RAM_PLACED records, the largest */

/* Zero-initialised but for `saver`. */
struct batch {
    const struct ram_saver *saver;
    struct iovec iov[BATCH_IOVECS];
    uint8_t heads[BATCH_RECORDS][BATCH_HEAD_SIZE];
    int iovcnt;
    unsigned records; /* heads taken */
    size_t payload;   /* bytes collected */
    size_t limit;     /* bytes that the pacer has allowed */
    /* The last record while it is RAM_PAGES made of copies, which the next copy may extend: */
    uint8_t *run;       /* its head; NULL: it is another */
    unsigned run_block; /* its block, and its pages [run_from, run_end) */
    uint64_t run_from, run_end;
};

/* Writes what was collected.  Errors: the sink's; "ram-vanished" names the block. */
bool batch_flush(struct batch *b, struct error **errp);

/*
 * Makes room for one more record and a page of payload: writes a full batch, asks the pacer for a
 * new one.  To be called before each of the functions below.
 */
bool batch_reserve(struct batch *b, struct error **errp);

/* Pages of payload that there is room for: at least one after batch_reserve. */
uint64_t batch_room(const struct batch *b);

/* A record that names pages [first, end) and has no payload. */
void batch_put_range(struct batch *b, uint32_t type, unsigned block, uint64_t first, uint64_t end);

/* That much was placed, not collected: it counts against the limit as well. */
void batch_count_placed(struct batch *b, uint64_t pages);

/* RAM_PAGES with the guest's memory at `bytes`; at most batch_room pages. */
void batch_put_pages(struct batch *b, unsigned block, uint64_t first, uint64_t pages, void *bytes);

/* A page from a copy, which stays as it is until the batch is written; in one record with its
 * neighbour. */
void batch_put_copy(struct batch *b, unsigned block, uint64_t page, void *bytes);

/* A whole record, made elsewhere.  Those that lie one behind the other share an iovec. */
void batch_put_record(struct batch *b, struct iovec made);

#endif
