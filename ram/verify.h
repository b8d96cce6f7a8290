/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The capability `verify`: once the guest is stopped, the source sends a hash (XXH3, 64 bits) of
 * every page that exists, and the destination compares them with its own.  Pages that no hash
 * covers must be zero there.  A difference names the block and the first page.
 */
#ifndef FERRY_RAM_VERIFY_H
#define FERRY_RAM_VERIFY_H

#include "ram/block.h"
#include "ram/records.h"

/* Sends VERIFY records for all of RAM. */
bool verify_send(struct ram *ram, const struct record_sink *sink, struct error **errp);

/* How far the destination has compared; zero-initialised before the first record. */
struct verify_progress {
    unsigned block;
    uint64_t page;
};

/* Compares one record's pages, and what lies between the last record's and them. */
bool verify_record(struct ram *ram, struct verify_progress *progress, const struct record *rec,
                   struct error **errp);

/* Compares what lies behind the last record. */
bool verify_finish(struct ram *ram, struct verify_progress *progress, struct error **errp);

#endif
