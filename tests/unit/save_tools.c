/* SPDX-License-Identifier: BSD-3-Clause */
#include "tests/unit/save_tools.h"

#include "common/bits.h"
#include "ram/delta.h"

#include <string.h>
#include <unistd.h>

#define CHANNEL_ROOM (256u << 10)

const uint64_t side_pages[BLOCKS] = {LOW, HIGH};
static const uint64_t side_from[BLOCKS] = {0, HIGH_FROM};
static const struct wait patient = {.cancel_fd = -1, .timeout_ms = 50000, .what = "the test"};

/* ---- the tracker and the pacer ---- */

static bool script_sync(void *opaque, struct ram *ram, struct error **errp)
{
    struct migration *m = opaque;
    if (m->sync_fails) {
        error_set(errp, "guest-lost", "no sync");
        return false;
    }
    for (unsigned i = 0; i < ram->count; i++) {
        for (size_t w = 0; w < bits_words(side_pages[i]); w++) {
            ram->blocks[i].dirty[w] |= m->written[i][w];
            m->written[i][w] = 0;
        }
    }
    return true;
}

static bool script_clear(void *opaque, unsigned block, uint64_t first, uint64_t count,
                         struct error **errp)
{
    struct migration *m = opaque;
    (void)errp;
    ck_assert_uint_lt(block, BLOCKS);
    ck_assert_uint_eq(first % RAM_CHUNK_PAGES, 0);
    ck_assert_uint_le(first + count, side_pages[block]);
    ck_assert(count == RAM_CHUNK_PAGES || first + count == side_pages[block]);
    m->clears++;
    if (m->on_clear) {
        m->on_clear(m, block, first);
    }
    return true;
}

static size_t script_allow(void *opaque, size_t want, struct error **errp)
{
    struct migration *m = opaque;
    if (!m->allowance) {
        error_set(errp, "cancelled", "no allowance");
        return 0;
    }
    m->asked++;
    m->asked_max = want > m->asked_max ? want : m->asked_max;
    return m->allowance < want ? m->allowance : want;
}

static bool script_check(void *opaque, struct error **errp)
{
    struct migration *m = opaque;
    if (m->interrupted) {
        error_set(errp, "cancelled", "no more");
    }
    return !m->interrupted;
}

struct record_pacer migration_pacer(struct migration *m)
{
    return (struct record_pacer){.allow = script_allow, .check = script_check, .opaque = m};
}

static bool sink_write(void *opaque, struct iovec *iov, int iovcnt, struct error **errp)
{
    struct migration *m = opaque;
    if (m->on_write) {
        m->on_write(m);
    }
    for (int i = 0; i < iovcnt; i++) {
        m->sent += iov[i].iov_len;
    }
    return channel_write(m->ends[0], iov, iovcnt, &patient, errp);
}

static long source_read(void *opaque, void *buf, size_t room, struct error **errp)
{
    return channel_read(opaque, buf, room, &patient, errp);
}

/* ---- the loader ---- */

/* ROUND is answered by a byte: everything before it was loaded.  END ends it. */
static bool load_one(struct migration *m, struct record_reader *r, struct record *rec,
                     struct error **errp)
{
    struct iovec iov = {.iov_base = (void *)"!", .iov_len = 1};
    if (rec->type == RECORD_RAM_PAGES) {
        return ram_load_pages(m->destination.ram, r, rec, &m->loaded, errp);
    }
    if (rec->type == RECORD_RAM_ZERO) {
        return ram_load_zero(m->destination.ram, rec, &m->loaded, errp);
    }
    if (rec->type == RECORD_RAM_DELTA) {
        return ram_load_delta(m->destination.ram, rec, &m->loaded, errp);
    }
    if (rec->type == RECORD_ROUND) {
        return channel_write(m->ends[1], &iov, 1, &patient, errp);
    }
    error_set(errp, "stream-order", "%s", record_type_name(rec->type));
    return false;
}

static void *run_loader(void *arg)
{
    struct migration *m = arg;
    struct record_reader *r = record_reader_new(
        &(struct record_source){.read = source_read, .opaque = m->ends[1], .in_place = true});
    struct record rec;
    while (record_read(r, &rec, &m->load_error) && rec.type != RECORD_END &&
           load_one(m, r, &rec, &m->load_error)) {
    }
    record_reader_free(r);
    channel_close(m->ends[1]);
    return NULL;
}

/* ---- a migration ---- */

void side_open(struct side *s)
{
    static const char *const names[BLOCKS] = {"low", "high"};
    s->ram = ram_new();
    for (int i = 0; i < BLOCKS; i++) {
        struct error *err = NULL;
        s->fds[i] = file_new(side_from[i] + side_pages[i] + 3);
        expect_ok(ram_add(s->ram, names[i], s->fds[i], side_from[i] * PAGE, side_pages[i] * PAGE,
                          (uint64_t)i << 32, &err),
                  err);
    }
}

void side_close(struct side *s)
{
    ram_free(s->ram);
    for (int i = 0; i < BLOCKS; i++) {
        close(s->fds[i]);
    }
}

void migration_open(struct migration *m, const struct memory_faults *faults)
{
    *m = (struct migration){.allowance = RECORD_PAYLOAD_MAX};
    side_open(&m->source);
    side_open(&m->destination);
    memory_pair(CHANNEL_ROOM, m->ends);
    if (faults) {
        memory_set_faults(m->ends[0], faults);
    }
    for (int i = 0; i < BLOCKS; i++) {
        m->written[i] = calloc(bits_words(side_pages[i]), sizeof(uint64_t));
    }
    m->saver = (struct ram_saver){
        .ram = m->source.ram,
        .tracker = {.sync = script_sync, .clear = script_clear, .opaque = m},
        .pacer = migration_pacer(m),
        .sink = {.write = sink_write, .opaque = m},
        .counters = &m->saved,
    };
    pthread_create(&m->loader, NULL, run_loader, m);
}

struct error *migration_close(struct migration *m)
{
    m->on_write = NULL;
    uint8_t end[24] = {0};
    record_write(&m->saver.sink, RECORD_END, end, sizeof(end), NULL);
    channel_end_writing(m->ends[0]);
    pthread_join(m->loader, NULL);
    channel_close(m->ends[0]);
    ram_delta_free(m->saver.delta);
    side_close(&m->source);
    side_close(&m->destination);
    for (int i = 0; i < BLOCKS; i++) {
        free(m->written[i]);
    }
    return m->load_error;
}

void expect_closed_well(struct migration *m)
{
    struct error *err = migration_close(m);
    expect_ok(true, err);
}

static uint64_t pages_done(const struct migration *m)
{
    return m->saved.normal + m->saved.duplicate + m->saved.skipped + m->saved.delta;
}

/* Waits until the loader has taken all that was sent. */
static void settle(struct migration *m)
{
    uint8_t body[16] = {0};
    char answer;
    struct error *err = NULL;
    expect_ok(record_write(&m->saver.sink, RECORD_ROUND, body, sizeof(body), &err), err);
    ssize_t n = channel_read(m->ends[0], &answer, 1, &patient, &err);
    expect_ok(n == 1, err);
}

void round_of(struct migration *m, enum ram_round kind)
{
    struct error *err = NULL;
    if (kind == RAM_ROUND_FIRST) {
        ram_save_begin(&m->saver);
    } else {
        expect_ok(ram_save_sync(&m->saver, &err), err);
    }
    uint64_t due = ram_count_dirty(m->source.ram);
    ck_assert_uint_eq(atomic_load(&m->saved.remaining), due);
    uint64_t before = pages_done(m);
    expect_ok(ram_save_round(&m->saver, kind, &err), err);
    ck_assert_uint_eq(atomic_load(&m->saved.remaining), 0);
    ck_assert_uint_eq(ram_count_dirty(m->source.ram), 0);
    ck_assert_uint_eq(pages_done(m) - before, due + m->returned);
    m->returned = 0;
    settle(m);
    ck_assert_uint_eq(m->loaded.delta, m->saved.delta);
    ck_assert_uint_eq(m->loaded.normal, m->saved.normal);
    ck_assert_uint_eq(m->loaded.duplicate, m->saved.duplicate);
}

/* ---- what a guest does ---- */

uint64_t in_file(unsigned block, uint64_t page)
{
    return side_from[block] + page;
}

void note_written(struct migration *m, unsigned block, uint64_t first, uint64_t count)
{
    bits_set_range(m->written[block], first, first + count);
}

void guest_writes(struct migration *m, unsigned block, uint64_t first, uint64_t count,
                  uint64_t seed)
{
    file_fill(m->source.fds[block], in_file(block, first), count, seed);
    note_written(m, block, first, count);
}

void guest_zeroes(struct migration *m, unsigned block, uint64_t first, uint64_t count)
{
    file_zero(m->source.fds[block], in_file(block, first), count);
    note_written(m, block, first, count);
}

void guest_frees(struct migration *m, unsigned block, uint64_t first, uint64_t count)
{
    file_punch(m->source.fds[block], in_file(block, first), count);
    note_written(m, block, first, count);
}

void guest_returns(struct migration *m, unsigned block, uint64_t first, uint64_t count)
{
    file_punch(m->source.fds[block], in_file(block, first), count);
}

static bool is_zero_page(int fd, uint64_t page)
{
    static const uint8_t zeroes[RAM_PAGE_SIZE];
    uint8_t bytes[RAM_PAGE_SIZE];
    ck_assert_int_eq(pread(fd, bytes, PAGE, (off_t)(page * PAGE)), (ssize_t)PAGE);
    return memcmp(bytes, zeroes, PAGE) == 0;
}

void expect_arrived(struct migration *m)
{
    for (unsigned i = 0; i < BLOCKS; i++) {
        int from = m->source.fds[i], to = m->destination.fds[i];
        file_expect_equal(from, to, side_from[i], side_pages[i]);
        for (uint64_t page = 0; page < side_pages[i]; page++) {
            ck_assert_int_eq(file_is_hole(to, in_file(i, page)),
                             is_zero_page(from, in_file(i, page)));
        }
        for (uint64_t page = 0; page < side_from[i]; page++) {
            ck_assert(file_is_hole(to, page));
        }
        ck_assert(file_is_hole(to, side_from[i] + side_pages[i]));
    }
}
