/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The disk engine: extents, overlays and bases, and what a source saves put into place by a
 * destination, in rounds.  Disks are memory files, which have holes as others do.
 */
#include "common/bits.h"
#include "disk/base.h"
#include "disk/load.h"
#include "disk/save.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"
#include "tests/unit/waits.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGES       64u /* of a disk; four chunks */
#define CHUNK_PAGES (DISK_CHUNK / DISK_PIECE)
#define ODD         1536u /* bytes of a last piece */

static bool count_beat(void *opaque, struct error **errp)
{
    unsigned *left = opaque;
    if (left && (*left)-- == 0) {
        error_set(errp, "cancelled", "the test has had enough");
        return false;
    }
    return true;
}

static const struct disk_beat steady = {.beat = count_beat};

/* Opens a disk of that many bytes over `fd`; base -1: none. */
static struct disks *open_disk(int fd, int base, uint64_t length, bool inc)
{
    struct disks *disks = disks_new();
    struct error *err = NULL;
    const struct disk_source source = {
        .name = "d", .fd = fd, .base_fd = base, .length = length, .inc = inc, .writable = true};
    expect_ok(disks_add(disks, &source, &err), err);
    return disks;
}

/* ---- opening ---- */

static void expect_unusable(struct disk_source source, const char *part)
{
    struct disks *disks = disks_new();
    struct error *err = NULL;
    source.name = "d";
    ck_assert(!disks_add(disks, &source, &err));
    expect_error(err, "disk-unusable", part);
    ck_assert_uint_eq(disks->count, 0);
    disks_free(disks);
}

START_TEST(unusable)
{
    int fd = file_new(PAGES), ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    expect_unusable((struct disk_source){.fd = fd, .base_fd = -1}, "length");
    expect_unusable((struct disk_source){.fd = fd, .base_fd = -1, .length = 513}, "length");
    expect_unusable((struct disk_source){.fd = fd, .base_fd = -1, .length = UINT64_MAX & ~511ULL},
                    "length");
    expect_unusable((struct disk_source){.fd = fd, .base_fd = -1, .length = PAGES * PAGE + 512},
                    "its file only");
    expect_unusable((struct disk_source){.fd = ends[0], .base_fd = -1, .length = PAGE}, "opened");
    expect_unusable((struct disk_source){.fd = fd, .base_fd = ends[0], .length = PAGE}, "base");
    close(fd);
    close(ends[0]);
    close(ends[1]);
}
END_TEST

START_TEST(too_many)
{
    int fd = file_new(1);
    struct disks *disks = disks_new();
    struct disk_source source = {.name = "d", .fd = fd, .base_fd = -1, .length = PAGE};
    for (unsigned i = 0; i < DISKS_MAX; i++) {
        expect_ok(disks_add(disks, &source, NULL), NULL);
    }
    ck_assert_uint_eq(disks->bytes, DISKS_MAX * PAGE);
    ck_assert(!disks_add(disks, &source, NULL));
    disks_free(disks);
    close(fd);
}
END_TEST

/* The VMM's descriptor keeps its position, whatever is looked up and read. */
START_TEST(position)
{
    int fd = file_new(PAGES);
    uint64_t first, last;
    file_fill(fd, 3, 2, 1);
    ck_assert_int_eq(lseek(fd, 4711, SEEK_SET), 4711);
    struct disks *disks = open_disk(fd, -1, PAGES * PAGE, false);
    ck_assert(disk_next(&disks->list[0], 0, PAGES * PAGE, &first, &last));
    ck_assert_int_eq(lseek(fd, 0, SEEK_CUR), 4711);
    disks_free(disks);
    close(fd);
}
END_TEST

/* ---- extents ---- */

static void expect_extents(const struct disk *d, const uint64_t (*pages)[2], unsigned count)
{
    uint64_t at = 0, first, last;
    for (unsigned i = 0; i < count; i++) {
        ck_assert(disk_next(d, at, d->length, &first, &last));
        ck_assert_uint_eq(first, pages[i][0] * PAGE);
        ck_assert_uint_eq(last, pages[i][1] * PAGE);
        at = last;
    }
    ck_assert(!disk_next(d, at, d->length, &first, &last));
}

START_TEST(extents)
{
    static const uint64_t expected[][2] = {{0, 2}, {10, 11}, {60, 64}};
    int fd = file_new(PAGES);
    file_fill(fd, 0, 2, 1);
    file_zero(fd, 10, 1);
    file_fill(fd, 60, 4, 1);
    struct disks *disks = open_disk(fd, -1, PAGES * PAGE, false);
    expect_extents(&disks->list[0], expected, 3);
    disks_free(disks);
    close(fd);
}
END_TEST

/* What is written anywhere in a piece makes all of it data. */
START_TEST(whole_pieces)
{
    uint64_t first, last;
    int fd = file_new(PAGES);
    ck_assert_int_eq(pwrite(fd, "x", 1, 5 * PAGE + 100), 1);
    ck_assert(disk_extent(fd, 0, PAGES * PAGE, &first, &last));
    ck_assert_uint_eq(first, 5 * PAGE);
    ck_assert_uint_eq(last, 6 * PAGE);
    ck_assert(!disk_extent(fd, 6 * PAGE, PAGES * PAGE, &first, &last));
    ck_assert(!disk_extent(fd, 0, 5 * PAGE, &first, &last));
    close(fd);
}
END_TEST

/* ---- overlays ---- */

struct overlay {
    int fd, base;
    struct disks *disks;
    const struct disk *d;
};

/* Own pages 2 and 3, a base of pages 3 to 5; the base is shorter than the disk. */
static void open_overlay(struct overlay *o, bool inc)
{
    o->fd = file_new(PAGES);
    o->base = file_new(6);
    file_fill(o->fd, 2, 2, 1);
    file_fill(o->base, 3, 3, 2);
    o->disks = open_disk(o->fd, o->base, PAGES * PAGE, inc);
    o->d = &o->disks->list[0];
}

static void close_overlay(struct overlay *o)
{
    disks_free(o->disks);
    close(o->fd);
    close(o->base);
}

static bool page_equals(const uint8_t *bytes, int fd, uint64_t page)
{
    uint8_t other[RAM_PAGE_SIZE];
    ck_assert_int_eq(pread(fd, other, PAGE, (off_t)(page * PAGE)), (ssize_t)PAGE);
    return memcmp(bytes, other, PAGE) == 0;
}

START_TEST(overlay_reads)
{
    struct overlay o;
    uint8_t buf[8 * RAM_PAGE_SIZE];
    struct error *err = NULL;
    open_overlay(&o, false);
    expect_ok(disk_read(o.d, buf, 0, sizeof(buf), &err), err);
    ck_assert(disk_is_zero(buf, 2 * PAGE));
    ck_assert(page_equals(buf + 2 * PAGE, o.fd, 2));
    ck_assert(page_equals(buf + 3 * PAGE, o.fd, 3));
    ck_assert(page_equals(buf + 4 * PAGE, o.base, 4));
    ck_assert(page_equals(buf + 5 * PAGE, o.base, 5));
    ck_assert(disk_is_zero(buf + 6 * PAGE, 2 * PAGE));
    close_overlay(&o);
}
END_TEST

START_TEST(overlay_extents)
{
    static const uint64_t whole[][2] = {{2, 4}, {4, 6}}, own[][2] = {{2, 4}};
    struct overlay o;
    open_overlay(&o, false);
    expect_extents(o.d, whole, 2);
    close_overlay(&o);
    open_overlay(&o, true);
    expect_extents(o.d, own, 1);
    close_overlay(&o);
}
END_TEST

/* Zeroes hide the base, and take up space only where there is something to hide. */
START_TEST(overlay_zeroes)
{
    struct overlay o;
    uint8_t buf[8 * RAM_PAGE_SIZE];
    struct error *err = NULL;
    open_overlay(&o, false);
    expect_ok(disk_zero(o.d, 0, 5 * PAGE, &err), err);
    expect_ok(disk_read(o.d, buf, 0, sizeof(buf), &err), err);
    ck_assert(disk_is_zero(buf, 5 * PAGE));
    ck_assert(page_equals(buf + 5 * PAGE, o.base, 5));
    ck_assert_uint_eq(file_allocated(o.fd), 2 * PAGE);
    close_overlay(&o);
}
END_TEST

START_TEST(overlay_emptied)
{
    struct overlay o;
    uint8_t buf[8 * RAM_PAGE_SIZE];
    struct error *err = NULL;
    open_overlay(&o, true);
    expect_ok(disk_empty(o.d, &steady, &err), err);
    ck_assert_uint_eq(file_allocated(o.fd), 0);
    close_overlay(&o);
    open_overlay(&o, false);
    expect_ok(disk_empty(o.d, &steady, &err), err);
    expect_ok(disk_read(o.d, buf, 0, sizeof(buf), &err), err);
    ck_assert(disk_is_zero(buf, sizeof(buf)));
    close_overlay(&o);
}
END_TEST

/* ---- bases ---- */

static void hash_of(int base, uint8_t hash[DISK_HASH_SIZE])
{
    int fd = file_new(PAGES);
    struct error *err = NULL;
    struct disks *disks = open_disk(fd, base, PAGES * PAGE, true);
    expect_ok(disk_hash_base(&disks->list[0], disks->buffer, &steady, &err), err);
    memcpy(hash, disks->list[0].base_hash, DISK_HASH_SIZE);
    disks_free(disks);
    close(fd);
}

/* A hole and written zeroes are the same; anything else is not. */
START_TEST(hashes)
{
    uint8_t one[DISK_HASH_SIZE], two[DISK_HASH_SIZE];
    int a = file_new(700), b = file_new(700);
    file_fill(a, 300, 10, 1);
    file_fill(b, 300, 10, 1);
    file_zero(b, 100, 300 - 100);
    file_zero(b, 690, 10);
    hash_of(a, one);
    hash_of(b, two);
    ck_assert_mem_eq(one, two, DISK_HASH_SIZE);
    file_flip(b, 309 * PAGE);
    hash_of(b, two);
    ck_assert_mem_ne(one, two, DISK_HASH_SIZE);
    ck_assert_int_eq(ftruncate(a, 700 * PAGE + 1), 0);
    hash_of(a, two);
    ck_assert_mem_ne(one, two, DISK_HASH_SIZE);
    close(a);
    close(b);
}
END_TEST

START_TEST(hash_cancelled)
{
    unsigned left = 1;
    const struct disk_beat tired = {.beat = count_beat, .opaque = &left};
    int base = file_new(1000), fd = file_new(PAGES);
    struct error *err = NULL;
    file_fill(base, 0, 600, 1);
    struct disks *disks = open_disk(fd, base, PAGES * PAGE, true);
    ck_assert(!disk_hash_base(&disks->list[0], disks->buffer, &tired, &err));
    expect_error(err, "cancelled", NULL);
    disks_free(disks);
    close(base);
    close(fd);
}
END_TEST

/* ---- saving and loading ---- */

struct migration {
    int from, to;
    struct disks *source, *destination;
    struct disk_counters sent, taken;
    struct disk_saver saver;
    struct disk_loader loader;
    struct bytes stream;
    size_t allowance;
};

static size_t allow(void *opaque, size_t want, struct error **errp)
{
    const struct migration *m = opaque;
    if (!m->allowance) {
        error_set(errp, "cancelled", "the test allows nothing");
    }
    return m->allowance < want ? m->allowance : want;
}

static void begin_over(struct migration *m, int base, uint64_t length, bool zero_blocks)
{
    struct error *err = NULL;
    *m = (struct migration){.from = file_new(PAGES), .to = file_new(PAGES), .allowance = SIZE_MAX};
    file_fill(m->to, 0, PAGES, 99);
    m->source = open_disk(m->from, base, length, base >= 0);
    m->destination = open_disk(m->to, base, length, base >= 0);
    m->saver = (struct disk_saver){
        .disks = m->source,
        .zero_blocks = zero_blocks,
        .pacer = {.allow = allow, .opaque = m},
        .sink = bytes_sink(&m->stream),
        .counters = &m->sent,
    };
    m->loader = (struct disk_loader){
        .disks = m->destination, .zero_blocks = zero_blocks, .counters = &m->taken};
    expect_ok(disk_empty(&m->destination->list[0], &steady, &err), err);
    disk_save_begin(&m->saver);
}

static void begin(struct migration *m, uint64_t length, bool zero_blocks)
{
    begin_over(m, -1, length, zero_blocks);
}

static void end(struct migration *m)
{
    disks_free(m->source);
    disks_free(m->destination);
    bytes_free(&m->stream);
    close(m->from);
    close(m->to);
}

static bool load_one(struct migration *m, struct record_reader *r, struct record *rec,
                     struct error **errp)
{
    switch (rec->type) {
    case RECORD_DISK_DATA:
        return disk_load_data(&m->loader, r, rec, errp);
    case RECORD_DISK_ZERO:
        return disk_load_zero(&m->loader, rec, &patient, errp);
    default:
        return disk_load_end(&m->loader, rec, errp);
    }
}

/* Puts what was saved into place, up to the first error. */
static bool load(struct migration *m, struct error **errp)
{
    struct bytes_reader from = {.data = m->stream.data, .length = m->stream.length, .piece = 777};
    struct record_reader *r = bytes_open(&from);
    struct record rec;
    bool ok = true;
    while (ok && (from.at < from.length || record_reader_buffered(r))) {
        ok = record_read(r, &rec, errp) && load_one(m, r, &rec, errp);
    }
    record_reader_free(r);
    m->stream.length = 0;
    return ok;
}

static void expect_loaded(struct migration *m)
{
    struct error *err = NULL;
    expect_ok(load(m, &err), err);
    file_expect_equal(m->from, m->to, 0, PAGES);
    ck_assert_uint_eq(m->saver.tally.data, m->loader.tally.data);
    ck_assert_uint_eq(m->saver.tally.zeroes, m->loader.tally.zeroes);
    ck_assert_uint_eq(m->sent.transferred, m->taken.transferred);
}

static void save_first(struct migration *m)
{
    struct error *err = NULL;
    expect_ok(disk_save_first(&m->saver, &err), err);
    ck_assert_uint_eq(m->sent.remaining, 0);
}

static void mark(struct migration *m, uint64_t page, uint64_t count)
{
    struct disk *d = &m->source->list[0];
    bits_set_range(d->dirty, page / CHUNK_PAGES, (page + count - 1) / CHUNK_PAGES + 1);
}

static void save_dirty(struct migration *m)
{
    struct error *err = NULL;
    disk_save_count(&m->saver);
    expect_ok(disk_save_dirty(&m->saver, &err), err);
    ck_assert_uint_eq(m->sent.remaining, 0);
    ck_assert_uint_eq(disks_count_dirty(m->source), 0);
}

START_TEST(first_round)
{
    struct migration m;
    begin(&m, PAGES * PAGE, false);
    file_fill(m.from, 1, 3, 1);
    file_zero(m.from, 20, 2);
    file_fill(m.from, 40, 24, 2);
    ck_assert_uint_eq(m.sent.remaining, PAGES * PAGE);
    save_first(&m);
    expect_loaded(&m);
    ck_assert_uint_eq(m.saver.tally.data, 29 * PAGE);
    ck_assert_uint_eq(file_allocated(m.to), 29 * PAGE);
    end(&m);
}
END_TEST

START_TEST(zero_runs)
{
    struct migration m;
    begin(&m, PAGES * PAGE, true);
    file_zero(m.from, 0, PAGES);
    file_fill(m.from, 0, 1, 1);
    file_fill(m.from, 7, 2, 1);
    save_first(&m);
    expect_loaded(&m);
    ck_assert_uint_eq(m.saver.tally.data, 3 * PAGE);
    ck_assert_uint_eq(m.saver.tally.zeroes, (PAGES - 3) * PAGE);
    ck_assert_uint_eq(file_allocated(m.to), 3 * PAGE);
    end(&m);
}
END_TEST

/* Every other piece is zero: the most records that one buffer can make. */
START_TEST(zero_runs_alternate)
{
    struct migration m;
    begin(&m, PAGES * PAGE, true);
    file_fill(m.from, 0, PAGES, 1);
    for (uint64_t page = 0; page < PAGES; page += 2) {
        file_zero(m.from, page, 1);
    }
    save_first(&m);
    expect_loaded(&m);
    ck_assert_uint_eq(m.saver.tally.data, PAGES / 2 * PAGE);
    end(&m);
}
END_TEST

/* What lies behind the disk in its file is none of the disk's, and as it was. */
static void expect_kept_behind(int fd, uint64_t at)
{
    uint8_t bytes[RAM_PAGE_SIZE];
    ck_assert_int_eq(pread(fd, bytes, PAGE - ODD, (off_t)at), (ssize_t)(PAGE - ODD));
    for (size_t i = 0; i < PAGE - ODD; i++) {
        ck_assert_uint_eq(bytes[i], 0x77);
    }
}

/* A disk that ends in the middle of a piece, in a file that goes on. */
START_TEST(odd_length)
{
    struct migration m;
    uint64_t length = (PAGES - 1) * PAGE + ODD;
    uint8_t mine[ODD], theirs[ODD], behind[RAM_PAGE_SIZE];
    memset(behind, 0x77, sizeof(behind));
    for (int zero_blocks = 0; zero_blocks < 2; zero_blocks++) {
        begin(&m, length, zero_blocks);
        file_fill(m.from, PAGES - 1, 1, 1);
        ck_assert_int_eq(pwrite(m.to, behind, PAGE, (PAGES - 1) * PAGE), (ssize_t)PAGE);
        save_first(&m);
        ck_assert_uint_eq(m.saver.tally.data, ODD);
        expect_ok(load(&m, NULL), NULL);
        ck_assert_int_eq(pread(m.from, mine, ODD, (PAGES - 1) * PAGE), ODD);
        ck_assert_int_eq(pread(m.to, theirs, ODD, (PAGES - 1) * PAGE), ODD);
        ck_assert_mem_eq(mine, theirs, ODD);
        expect_kept_behind(m.to, length);
        end(&m);
    }
}
END_TEST

START_TEST(later_rounds)
{
    struct migration m;
    begin(&m, PAGES * PAGE, false);
    file_fill(m.from, 0, PAGES, 1);
    save_first(&m);
    expect_loaded(&m);
    file_fill(m.from, 17, 1, 2);
    file_fill(m.from, 63, 1, 2);
    mark(&m, 17, 1);
    mark(&m, 63, 1);
    disk_save_count(&m.saver);
    ck_assert_uint_eq(m.sent.remaining, 2 * DISK_CHUNK);
    save_dirty(&m);
    expect_loaded(&m);
    ck_assert_uint_eq(m.saver.tally.data, PAGES * PAGE + 2 * DISK_CHUNK);
    save_dirty(&m);
    ck_assert_uint_eq(m.stream.length, 0);
    end(&m);
}
END_TEST

START_TEST(discarded)
{
    for (int zero_blocks = 0; zero_blocks < 2; zero_blocks++) {
        struct migration m;
        begin(&m, PAGES * PAGE, zero_blocks);
        file_fill(m.from, 0, PAGES, 1);
        save_first(&m);
        expect_loaded(&m);
        file_punch(m.from, 16, 8);
        mark(&m, 16, 8);
        save_dirty(&m);
        expect_loaded(&m);
        ck_assert_uint_eq(m.saver.tally.zeroes, zero_blocks ? 8 * PAGE : 0);
        ck_assert_int_eq(file_is_hole(m.to, 16), zero_blocks);
        end(&m);
    }
}
END_TEST

START_TEST(incremental)
{
    struct migration m;
    int base = file_new(PAGES);
    file_fill(base, 0, PAGES, 5);
    begin_over(&m, base, PAGES * PAGE, false);
    file_fill(m.from, 10, 4, 1);
    save_first(&m);
    expect_loaded(&m);
    ck_assert_uint_eq(m.saver.tally.data, 4 * PAGE);
    ck_assert_uint_eq(file_allocated(m.to), 4 * PAGE);
    file_punch(m.from, 11, 1);
    mark(&m, 11, 1);
    save_dirty(&m);
    expect_loaded(&m);
    ck_assert_uint_eq(file_allocated(m.to), 3 * PAGE);
    close(base);
    end(&m);
}
END_TEST

/* A pace that allows next to nothing still gets on, by a piece at a time. */
START_TEST(little_by_little)
{
    struct migration m;
    begin(&m, PAGES * PAGE, false);
    m.allowance = 1;
    file_fill(m.from, 0, PAGES, 1);
    save_first(&m);
    expect_loaded(&m);
    end(&m);
}
END_TEST

START_TEST(not_allowed)
{
    struct migration m;
    struct error *err = NULL;
    begin(&m, PAGES * PAGE, false);
    m.allowance = 0;
    file_fill(m.from, 0, PAGES, 1);
    ck_assert(!disk_save_first(&m.saver, &err));
    expect_error(err, "cancelled", NULL);
    end(&m);
}
END_TEST

START_TEST(cut_short)
{
    struct migration m;
    struct error *err = NULL;
    begin(&m, PAGES * PAGE, false);
    file_fill(m.from, 0, PAGES, 1);
    save_first(&m);
    ck_assert_int_eq(ftruncate(m.from, (off_t)(20 * PAGE + 100)), 0);
    mark(&m, 16, 1);
    ck_assert(!disk_save_dirty(&m.saver, &err));
    expect_error(err, "disk-io", "'d' can't be read at byte 82020: its file became shorter");
    end(&m);
}
END_TEST

START_TEST(counts)
{
    struct migration m;
    struct error *err = NULL;
    begin(&m, PAGES * PAGE, true);
    file_fill(m.from, 0, 3, 1);
    file_zero(m.from, 3, 4);
    save_first(&m);
    expect_ok(disk_save_end(&m.saver, &err), err);
    expect_loaded(&m);
    expect_ok(disk_save_end(&m.saver, &err), err);
    m.loader.tally.zeroes++;
    ck_assert(!load(&m, &err));
    expect_error(err, "stream-corrupt", "bytes of disks");
    end(&m);
}
END_TEST

/* O_DIRECT descriptors are read and written as such, from buffers that lie as they must. */
START_TEST(direct)
{
    char path[] = "/var/tmp/ferry-unit-XXXXXX";
    int fd = mkostemp(path, O_DIRECT);
    struct error *err = NULL;
    if (fd < 0) {
        return; /* no file system here takes O_DIRECT */
    }
    unlink(path);
    ck_assert_int_eq(ftruncate(fd, PAGES * PAGE), 0);
    struct disks *disks = open_disk(fd, -1, PAGES * PAGE, false);
    struct disk *d = &disks->list[0];
    ck_assert_int_ne(fcntl(d->fd, F_GETFL) & O_DIRECT, 0);
    memset(disks->buffer, 0x5a, 2 * PAGE);
    expect_ok(disk_write(d, disks->buffer, 4 * PAGE, 2 * PAGE, &err), err);
    memset(disks->buffer, 0, 2 * PAGE);
    expect_ok(disk_read(d, disks->buffer, 4 * PAGE, 2 * PAGE, &err), err);
    ck_assert_uint_eq(disks->buffer[0], 0x5a);
    ck_assert_uint_eq(disks->buffer[2 * PAGE - 1], 0x5a);
    expect_ok(disk_empty(d, &steady, &err), err);
    expect_ok(disk_read(d, disks->buffer, 4 * PAGE, 2 * PAGE, &err), err);
    ck_assert(disk_is_zero(disks->buffer, 2 * PAGE));
    disks_free(disks);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("disk");
    unit_add(suite, "disk/open/unusable", unusable);
    unit_add(suite, "disk/open/too-many", too_many);
    unit_add(suite, "disk/open/position-is-kept", position);
    unit_add(suite, "disk/open/direct", direct);
    unit_add(suite, "disk/extents/in-order", extents);
    unit_add(suite, "disk/extents/whole-pieces", whole_pieces);
    unit_add(suite, "disk/overlay/reads", overlay_reads);
    unit_add(suite, "disk/overlay/extents", overlay_extents);
    unit_add(suite, "disk/overlay/zeroes-hide-the-base", overlay_zeroes);
    unit_add(suite, "disk/overlay/emptied", overlay_emptied);
    unit_add(suite, "disk/base/hash", hashes);
    unit_add(suite, "disk/base/hash-cancelled", hash_cancelled);
    unit_add(suite, "disk/save/first-round", first_round);
    unit_add(suite, "disk/save/zero-runs", zero_runs);
    unit_add(suite, "disk/save/zero-runs-alternate", zero_runs_alternate);
    unit_add(suite, "disk/save/odd-length", odd_length);
    unit_add(suite, "disk/save/later-rounds", later_rounds);
    unit_add(suite, "disk/save/discarded", discarded);
    unit_add(suite, "disk/save/incremental", incremental);
    unit_add(suite, "disk/save/little-by-little", little_by_little);
    unit_add(suite, "disk/save/not-allowed", not_allowed);
    unit_add(suite, "disk/save/cut-short", cut_short);
    unit_add(suite, "disk/load/counts", counts);
    return unit_run(suite);
}
