/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/transport_tools.h"
#include "transports/memory.h"

#include <string.h>

static void *write_much(void *arg)
{
    struct channel *c = arg;
    uint8_t bytes[1000];
    for (int i = 0; i < 100; i++) {
        memset(bytes, i, sizeof(bytes));
        struct iovec iov[] = {{.iov_base = bytes, .iov_len = 300},
                              {.iov_base = bytes, .iov_len = 700}};
        if (!channel_write(c, iov, 2, &patient, NULL)) {
            break;
        }
    }
    channel_end_writing(c);
    return NULL;
}

/* Reads it all; returns how many bytes there were, and that of the wrong ones. */
static size_t read_much(struct channel *c, size_t *wrong)
{
    uint8_t buf[777];
    size_t at = 0;
    ssize_t n;
    *wrong = 0;
    while ((n = channel_read(c, buf, sizeof(buf), &patient, NULL)) > 0) {
        for (ssize_t i = 0; i < n; i++, at++) {
            *wrong += buf[i] != at / 1000;
        }
    }
    return at;
}

static void through_memory(size_t room, const struct memory_faults *faults, size_t bytes,
                           size_t wrong_bytes)
{
    struct channel *ends[2];
    pthread_t thread;
    size_t wrong;
    memory_pair(room, ends);
    memory_set_faults(ends[0], faults);
    pthread_create(&thread, NULL, write_much, ends[0]);
    ck_assert_uint_eq(read_much(ends[1], &wrong), bytes);
    ck_assert_uint_eq(wrong, wrong_bytes);
    pthread_join(thread, NULL);
    channel_close(ends[0]);
    channel_close(ends[1]);
}

START_TEST(memory)
{
    static const size_t rooms[] = {7, 100, 1024, 200000};
    for (int i = 0; i < 4; i++) {
        through_memory(rooms[i], &(struct memory_faults){0}, 100000, 0);
        through_memory(rooms[i], &(struct memory_faults){.piece = 7}, 100000, 0);
        through_memory(rooms[i], &(struct memory_faults){.flip_mask = 1, .flip_at = 54321}, 100000,
                       1);
        through_memory(rooms[i], &(struct memory_faults){.cut = true, .cut_at = 12345}, 12345, 0);
        through_memory(rooms[i], &(struct memory_faults){.cut = true}, 0, 0);
    }
}
END_TEST

START_TEST(memory_waits)
{
    struct canceller canceller;
    struct channel *ends[2];
    struct error *err = NULL;
    char byte;
    memory_pair(4, ends);
    ck_assert(!channel_readable(ends[0]));
    ck_assert_int_eq(channel_read(ends[0], &byte, 1, &hasty, &err), -1);
    expect_error(err, "timeout", NULL);
    err = NULL;
    ck_assert(!write_text(ends[0], "five5", &hasty, &err));
    expect_error(err, "timeout", NULL);
    err = NULL;
    ck_assert(channel_readable(ends[1]));
    struct wait w = cancel_begin(&canceller, -1, 0);
    ck_assert(!write_text(ends[0], "x", &w, &err));
    cancel_end(&canceller, err);
    err = NULL;
    expect_text(ends[1], "five");
    memory_break(ends[1]);
    ck_assert(!write_text(ends[0], "x", &patient, &err));
    expect_error(err, "channel-closed", NULL);
    expect_end(ends[0]);
    channel_close(ends[0]);
    channel_close(ends[1]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory");
    unit_add(suite, "transports/memory/bytes", memory);
    unit_add(suite, "transports/memory/waits", memory_waits);
    return unit_run(suite);
}
