/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/bits.h"
#include "common/cleanup.h"
#include "ram/block.h"
#include "ram/fault.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

static void expect_refused(int fd, uint64_t offset, uint64_t length, const char *code)
{
    struct ram *ram = ram_new();
    struct error *err = NULL;
    ck_assert(!ram_add(ram, "ram", fd, offset, length, 0, &err));
    ck_assert_uint_eq(ram->count, 0);
    ck_assert_uint_eq(ram->bytes, 0);
    expect_error(err, code, "ram");
    ram_free(ram);
}

START_TEST(add)
{
    CLEANUP_CLOSE int fd = file_new(10);
    struct ram *ram = ram_new();
    struct error *err = NULL;
    file_fill(fd, 4, 1, 1);
    expect_ok(ram_add(ram, "low", fd, 0, 3 * PAGE, 0, &err), err);
    expect_ok(ram_add(ram, "high", fd, 3 * PAGE, 7 * PAGE, 1ULL << 32, &err), err);
    ck_assert_uint_eq(ram->count, 2);
    ck_assert_uint_eq(ram->bytes, 10 * PAGE);
    const struct ram_block *b = &ram->blocks[1];
    ck_assert_str_eq(b->name, "high");
    ck_assert_uint_eq(b->pages, 7);
    ck_assert_uint_eq(b->gpa, 1ULL << 32);
    ck_assert_int_ne(b->fd, fd);
    ck_assert(!b->no_pwrite);
    uint8_t page[RAM_PAGE_SIZE];
    ck_assert_int_eq(pread(fd, page, PAGE, 4 * PAGE), (ssize_t)PAGE);
    ck_assert_mem_eq(ram_page(b, 1), page, PAGE);
    ck_assert_uint_eq(bits_count(b->dirty, 0, 7) + bits_count(b->populated, 0, 7), 0);
    ram_free(ram);
}
END_TEST

/* The VMM's file position is its own. */
START_TEST(own_file_description)
{
    CLEANUP_CLOSE int fd = file_new(4);
    struct ram *ram = ram_new();
    struct error *err = NULL;
    ck_assert_int_eq(lseek(fd, 123, SEEK_SET), 123);
    expect_ok(ram_add(ram, "ram", fd, 0, 4 * PAGE, 0, &err), err);
    lseek(ram->blocks[0].fd, 0, SEEK_HOLE);
    ck_assert_int_eq(lseek(fd, 0, SEEK_CUR), 123);
    ram_free(ram);
}
END_TEST

START_TEST(bad_ranges)
{
    CLEANUP_CLOSE int fd = file_new(4);
    expect_refused(fd, 0, 0, "ram-layout");
    expect_refused(fd, 0, 100, "ram-layout");
    expect_refused(fd, 512, PAGE, "ram-layout");
    expect_refused(fd, 0, PAGE + 1, "ram-layout");
    expect_refused(fd, 0, RAM_BYTES_MAX + PAGE, "ram-layout");
    expect_refused(fd, RAM_BYTES_MAX + PAGE, PAGE, "ram-layout");
    expect_refused(fd, -PAGE, PAGE, "ram-layout");
    expect_refused(fd, 0, -PAGE, "ram-layout");
    expect_refused(fd, 0, 5 * PAGE, "ram-unusable");
    expect_refused(fd, 4 * PAGE, PAGE, "ram-unusable");
    expect_refused(fd, RAM_BYTES_MAX, RAM_BYTES_MAX, "ram-unusable");
}
END_TEST

START_TEST(bad_files)
{
    int ends[2];
    expect_refused(-1, 0, PAGE, "ram-unusable");
    expect_refused(987, 0, PAGE, "ram-unusable");
    ck_assert_int_eq(pipe(ends), 0);
    expect_refused(ends[0], 0, PAGE, "ram-unusable");
    close(ends[0]);
    close(ends[1]);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    expect_refused(ends[0], 0, PAGE, "ram-unusable");
    close(ends[0]);
    close(ends[1]);
    CLEANUP_CLOSE int folder = open("/", O_RDONLY | O_DIRECTORY);
    expect_refused(folder, 0, PAGE, "ram-unusable");
    CLEANUP_CLOSE int null = open("/dev/null", O_RDWR);
    expect_refused(null, 0, PAGE, "ram-unusable");
    CLEANUP_CLOSE int sealed = memfd_create("unit", MFD_ALLOW_SEALING);
    ck_assert_int_eq(ftruncate(sealed, PAGE), 0);
    ck_assert_int_eq(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE), 0);
    expect_refused(sealed, 0, PAGE, "ram-unusable");
}
END_TEST

START_TEST(too_many)
{
    CLEANUP_CLOSE int fd = file_new(1);
    struct ram *ram = ram_new();
    for (unsigned i = 0; i < RAM_BLOCKS_MAX; i++) {
        char name[16];
        struct error *err = NULL;
        snprintf(name, sizeof(name), "block%u", i);
        expect_ok(ram_add(ram, name, fd, 0, PAGE, i * PAGE, &err), err);
    }
    struct error *err = NULL;
    ck_assert(!ram_add(ram, "last", fd, 0, PAGE, 0, &err));
    expect_error(err, "ram-layout", "64");
    ck_assert_uint_eq(ram->count, RAM_BLOCKS_MAX);
    ram_free(ram);
}
END_TEST

START_TEST(sum_of_lengths)
{
    CLEANUP_CLOSE int fd = file_new(2);
    struct ram *ram = ram_new();
    struct error *err = NULL;
    expect_ok(ram_add(ram, "first", fd, 0, 2 * PAGE, 0, &err), err);
    ck_assert(!ram_add(ram, "second", fd, 0, RAM_BYTES_MAX - PAGE, 0, &err));
    expect_error(err, "ram-layout", "second");
    ck_assert_uint_eq(ram->bytes, 2 * PAGE);
    ram_free(ram);
}
END_TEST

START_TEST(count_dirty)
{
    CLEANUP_CLOSE int fd = file_new(200);
    struct ram *ram = ram_new();
    struct error *err = NULL;
    expect_ok(ram_add(ram, "a", fd, 0, 70 * PAGE, 0, &err), err);
    expect_ok(ram_add(ram, "b", fd, 70 * PAGE, 130 * PAGE, 70 * PAGE, &err), err);
    ck_assert_uint_eq(ram_count_dirty(ram), 0);
    bits_set(ram->blocks[0].dirty, 69);
    bits_set_range(ram->blocks[1].dirty, 60, 130);
    ck_assert_uint_eq(ram_count_dirty(ram), 71);
    ram_free(ram);
}
END_TEST

/* Wiping takes what the block holds, and nothing around it. */
START_TEST(wipe)
{
    CLEANUP_CLOSE int fd = file_new(12);
    struct ram *ram = ram_new();
    struct error *err = NULL;
    file_fill(fd, 0, 12, 1);
    expect_ok(ram_add(ram, "a", fd, 2 * PAGE, 3 * PAGE, 0, &err), err);
    expect_ok(ram_add(ram, "b", fd, 8 * PAGE, 2 * PAGE, 8 * PAGE, &err), err);
    const struct wait w = {.cancel_fd = -1};
    expect_ok(ram_wipe(ram, &w, &err), err);
    for (uint64_t page = 0; page < 12; page++) {
        bool wiped = (page >= 2 && page < 5) || (page >= 8 && page < 10);
        ck_assert_int_eq(file_is_hole(fd, page), wiped);
    }
    expect_ok(ram_wipe(ram, &w, &err), err); /* and again */
    ram_free(ram);
}
END_TEST

START_TEST(check_sizes)
{
    CLEANUP_CLOSE int fd = file_new(8);
    struct ram *ram = ram_new();
    struct error *err = NULL;
    expect_ok(ram_add(ram, "low", fd, 0, 2 * PAGE, 0, &err), err);
    expect_ok(ram_add(ram, "high", fd, 2 * PAGE, 4 * PAGE, 2 * PAGE, &err), err);
    expect_ok(ram_check_sizes(ram, &err), err);
    ck_assert_int_eq(ftruncate(fd, 6 * PAGE), 0);
    expect_ok(ram_check_sizes(ram, &err), err);
    ck_assert_int_eq(ftruncate(fd, 6 * PAGE - 1), 0);
    ck_assert(!ram_check_sizes(ram, &err));
    expect_error(err, "ram-vanished", "high");
    ram_free(ram);
}
END_TEST

struct reading {
    const struct ram_block *block;
    uint64_t sum;
    unsigned done; /* pages */
};

static void read_all(void *arg)
{
    struct reading *r = arg;
    for (r->done = 0; r->done < r->block->pages; r->done++) {
        r->sum += *(volatile uint8_t *)ram_page(r->block, r->done);
    }
}

/* The thread sanitizer's handler around ours leaves all signals blocked. */
static void unblock_sigbus(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

START_TEST(fault_on_shrunk_file)
{
    CLEANUP_CLOSE int fd = file_new(8);
    struct ram *ram = ram_new();
    struct error *err = NULL;
    expect_ok(ram_add(ram, "ram", fd, 0, 8 * PAGE, 0, &err), err);
    struct reading r = {.block = &ram->blocks[0]};
    ck_assert(fault_guarded(read_all, &r));
    for (int i = 0; i < 3; i++) { /* the guard is there each time */
        ck_assert_int_eq(ftruncate(fd, 5 * PAGE), 0);
        ck_assert(!fault_guarded(read_all, &r));
        unblock_sigbus();
        ck_assert_uint_eq(r.done, 5);
        ck_assert_int_eq(ftruncate(fd, 8 * PAGE), 0);
        ck_assert(fault_guarded(read_all, &r));
        ck_assert_uint_eq(r.done, 8);
    }
    ram_free(ram);
}
END_TEST

static void *read_in_thread(void *arg)
{
    return fault_guarded(read_all, arg) ? NULL : arg;
}

/* Two jobs' guards do not meet. */
START_TEST(fault_in_threads)
{
    CLEANUP_CLOSE int whole = file_new(600);
    CLEANUP_CLOSE int cut = file_new(600);
    struct ram *ram = ram_new();
    struct error *err = NULL;
    expect_ok(ram_add(ram, "whole", whole, 0, 600 * PAGE, 0, &err), err);
    expect_ok(ram_add(ram, "cut", cut, 0, 600 * PAGE, 600 * PAGE, &err), err);
    ck_assert_int_eq(ftruncate(cut, 599 * PAGE), 0);
    struct reading readings[2] = {{.block = &ram->blocks[0]}, {.block = &ram->blocks[1]}};
    for (int round = 0; round < 20; round++) {
        pthread_t threads[2];
        void *faulted[2];
        for (int i = 0; i < 2; i++) {
            pthread_create(&threads[i], NULL, read_in_thread, &readings[i]);
        }
        for (int i = 0; i < 2; i++) {
            pthread_join(threads[i], &faulted[i]);
        }
        ck_assert_ptr_null(faulted[0]);
        ck_assert_ptr_nonnull(faulted[1]);
    }
    ram_free(ram);
}
END_TEST

/* A fault that nobody guards is a bug, and ends the process. */
START_TEST(unguarded_fault)
{
    CLEANUP_CLOSE int fd = file_new(2);
    struct ram *ram = ram_new();
    struct error *err = NULL;
    expect_ok(ram_add(ram, "ram", fd, 0, 2 * PAGE, 0, &err), err);
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    struct reading r = {.block = &ram->blocks[0]};
    read_all(&r);
}
END_TEST

int main(void)
{
    fault_init();
    Suite *suite = suite_create("ram/block");
    unit_add(suite, "ram/block/add", add);
    unit_add(suite, "ram/block/own-file-description", own_file_description);
    unit_add(suite, "ram/block/bad-ranges", bad_ranges);
    unit_add(suite, "ram/block/bad-files", bad_files);
    unit_add(suite, "ram/block/too-many", too_many);
    unit_add(suite, "ram/block/sum-of-lengths", sum_of_lengths);
    unit_add(suite, "ram/block/count-dirty", count_dirty);
    unit_add(suite, "ram/block/wipe", wipe);
    unit_add(suite, "ram/block/check-sizes", check_sizes);
    unit_add(suite, "ram/fault/shrunk-file", fault_on_shrunk_file);
    unit_add(suite, "ram/fault/threads", fault_in_threads);
    TCase *fatal = tcase_create("ram/fault/unguarded");
    tcase_add_test_raise_signal(fatal, unguarded_fault, SIGBUS);
    suite_add_tcase(suite, fatal);
    return unit_run(suite);
}
