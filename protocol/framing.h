/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Finds where requests begin and end in a stream of bytes.
 *
 * A request is one JSON object (or array, which is refused later, with better words).  Its end is
 * found by matching brackets outside of strings, byte by byte, so that each byte is looked at once
 * however the stream was cut.  What no JSON text can contain is noticed at the byte where it
 * stands; from there all input up to the next newline is dropped, which is how a client gets back
 * in step. Everything else about JSON is left to the parser, which sees only whole requests.
 *
 * Pure: no allocation, no I/O.  The caller keeps the bytes.
 */
#ifndef FERRY_PROTOCOL_FRAMING_H
#define FERRY_PROTOCOL_FRAMING_H

#include <stddef.h>
#include <stdint.h>

/* The longest request has some hundred bytes; this bounds what a session can make us hold. */
#define FRAMING_MAX_REQUEST ((size_t)1024 * 1024)
/* Arguments nest four deep.  The levels must fit the bits of framing.arrays. */
#define FRAMING_MAX_DEPTH 64

enum framing_state {
    FRAMING_BETWEEN, /* between requests; also the initial state, all else zero but the limit */
    FRAMING_RESYNC,  /* after an error, up to the next newline */
    FRAMING_STRUCTURE,
    FRAMING_STRING,
    FRAMING_ESCAPE, /* after a backslash in a string */
};

enum framing_result {
    FRAMING_SKIPPED,  /* the bytes used belong to no request: drop them */
    FRAMING_PARTIAL,  /* the bytes used belong to a request that goes on: keep them */
    FRAMING_COMPLETE, /* with the bytes used the request is whole */
    FRAMING_INVALID,  /* these three: drop the request's bytes; the scan goes on */
    FRAMING_TOO_DEEP,
    FRAMING_TOO_LARGE,
};

struct framing {
    enum framing_state state;
    unsigned depth;
    uint64_t arrays; /* bit n is set when level n + 1 is an array */
    size_t length;   /* bytes of the unfinished request that earlier scans have used */
    size_t limit;    /* the user's: bytes of the longest request; 0: FRAMING_MAX_REQUEST */
};

/*
 * Scans `len` (> 0) bytes that follow those scanned before, and stores in *used how many of them
 * the result is about, at least one.  Call again with the rest.
 */
enum framing_result framing_scan(struct framing *framing, const char *bytes, size_t len,
                                 size_t *used);

#endif
