/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bytes as a hostile QMP monitor might send them, to a client with commands outstanding.  The first
 * byte chooses how the rest is cut into pieces.  Each command must have one end, and what is told
 * of events must have a name.  The same bytes stand for what a monitor prints of its memory, for a
 * stream of device state and for a return path; of these the ends are looked for.
 */
#include "common/wait.h"
#include "qemu/client.h"
#include "qemu/mtree.h"
#include "qemu/vmstate.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ASKED 4u

static void require(bool ok)
{
    if (!ok) {
        abort();
    }
}

/* ---- the client ---- */

struct outcome {
    unsigned calls, seen;
};

static void on_event(void *opaque, const char *name, const json_t *data)
{
    char words[CLIENT_WORDS];
    (void)opaque;
    require(name && client_words(data, words) == words);
}

static void on_seen(void *opaque, json_t *reply)
{
    struct outcome *o = opaque;
    require(reply && o->calls == 0);
    o->seen++;
}

static void on_done(void *opaque, json_t *reply, struct error *err)
{
    struct outcome *o = opaque;
    require(!reply == (err != NULL) && o->seen == (reply != NULL));
    for (const char *c = err ? err->text : ""; *c; c++) {
        require(*c >= ' ' && *c < 0x7f);
    }
    o->calls++;
    error_free(err);
}

static void ask_all(struct client *c, struct outcome outcomes[ASKED])
{
    for (unsigned i = 0; i < ASKED; i++) {
        struct client_command command = {
            .name = "query-status", .seen = on_seen, .opaque = &outcomes[i]};
        client_ask(c, &command, 1000, on_done, &outcomes[i]);
        client_tell(c, &(struct client_command){.name = "stop"});
    }
}

/* False: the client wants no more. */
static bool say(struct client *c, int far, const uint8_t *data, size_t size, size_t piece)
{
    while (size) {
        struct error *err = NULL;
        size_t n = size < piece ? size : piece;
        require(send(far, data, n, MSG_NOSIGNAL) == (ssize_t)n);
        bool ok = client_read(c, &err);
        require(ok == !err);
        error_free(err);
        if (!ok) {
            return false;
        }
        data += n;
        size -= n;
    }
    return true;
}

static void fuzz_client(const uint8_t *data, size_t size, size_t piece)
{
    const struct wait now = {.cancel_fd = -1, .timeout_ms = 0, .what = "QEMU"};
    struct outcome outcomes[ASKED] = {0};
    int ends[2];
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    struct client *c = client_new(ends[0], "guest 'fuzz'", on_event, NULL);
    require(c != NULL);
    ask_all(c, outcomes);
    say(c, ends[1], data, size, piece);
    client_greet(c, &now, NULL);
    client_expire(c);
    client_lost(c);
    for (unsigned i = 0; i < ASKED; i++) {
        require(outcomes[i].calls == 1);
    }
    client_free(c);
    close(ends[1]);
}

/* ---- the same bytes elsewhere ---- */

static void fuzz_texts(const uint8_t *data, size_t size)
{
    struct mtree_region regions[] = {{.name = "mem0"}, {.name = "mem1"}, {.name = ""}};
    char *text = malloc(size + 1);
    require(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    mtree_find(text, regions, sizeof(regions) / sizeof(regions[0]));
    require(!regions[2].found);
    free(text);
}

/* In a copy of its own, so that a byte too many is noticed. */
static void fuzz_stream(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    require(copy != NULL);
    memcpy(copy, data, size);
    if (vmstate_is_complete(copy, size)) {
        require(size > 7 && copy[size - 1] == '}');
    }
    vmstate_word(copy, size);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) {
        return 0;
    }
    fuzz_client(data + 1, size - 1, 1 + (size_t)data[0] * 16);
    fuzz_texts(data + 1, size - 1);
    fuzz_stream(data + 1, size - 1);
    return 0;
}
