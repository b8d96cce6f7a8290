/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/bits.h"
#include "common/clock.h"
#include "guest/borrow.h"
#include "guest/process.h"
#include "guest/wptrack.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"
#include "tests/unit/victims.h"
#include "tests/unit/waits.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES 2048u /* four page tables */

/* ---- a process that does to its memory what it is told ---- */

struct order {
    void (*run)(const struct order *o, uint8_t *memory, int fd);
    uint64_t first, count; /* pages */
};

struct writer {
    pid_t pid;
    int fd; /* its memory's file */
    uint64_t pages;
    uint8_t *memory; /* mapped at the same address in the test */
    int orders[2], answers[2];
};

static void do_write(const struct order *o, uint8_t *memory, int fd)
{
    (void)fd;
    for (uint64_t i = 0; i < o->count; i++) {
        memory[(o->first + i) * PAGE]++;
    }
}

struct threaded {
    const struct order *order;
    uint8_t *memory;
};

static void *write_in_thread(void *opaque)
{
    const struct threaded *t = opaque;
    do_write(t->order, t->memory, -1);
    return NULL;
}

static void do_write_in_thread(const struct order *o, uint8_t *memory, int fd)
{
    struct threaded t = {.order = o, .memory = memory};
    pthread_t thread;
    (void)fd;
    pthread_create(&thread, NULL, write_in_thread, &t);
    pthread_join(thread, NULL);
}

/* The kernel writes for it. */
static void do_read_file(const struct order *o, uint8_t *memory, int fd)
{
    int random = open("/dev/urandom", O_RDONLY);
    (void)fd;
    ssize_t n = read(random, memory + o->first * PAGE, o->count * PAGE);
    close(random);
    if (n != (ssize_t)(o->count * PAGE)) {
        _exit(1);
    }
}

static void do_look(const struct order *o, uint8_t *memory, int fd)
{
    volatile uint8_t sum = 0;
    (void)fd;
    for (uint64_t i = 0; i < o->count; i++) {
        sum = (uint8_t)(sum + memory[(o->first + i) * PAGE]);
    }
}

/* The content stays in the file; the process's page tables go. */
static void do_forget(const struct order *o, uint8_t *memory, int fd)
{
    (void)fd;
    madvise(memory + o->first * PAGE, o->count * PAGE, MADV_DONTNEED);
}

static void do_unmap(const struct order *o, uint8_t *memory, int fd)
{
    (void)fd;
    munmap(memory + o->first * PAGE, o->count * PAGE);
}

static void do_map_other(const struct order *o, uint8_t *memory, int fd)
{
    int other = memfd_create("other", MFD_CLOEXEC);
    (void)fd;
    if (ftruncate(other, (off_t)((o->first + o->count) * PAGE)) < 0) {
        _exit(1);
    }
    mmap(memory + o->first * PAGE, o->count * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
         other, (off_t)(o->first * PAGE));
}

/* The same file, at another place of it. */
static void do_map_elsewhere(const struct order *o, uint8_t *memory, int fd)
{
    mmap(memory + o->first * PAGE, o->count * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
         fd, 0);
}

static void obey(const struct writer *w)
{
    struct order o;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(w->orders[1]);
    while (read(w->orders[0], &o, sizeof(o)) == sizeof(o)) {
        o.run(&o, w->memory, w->fd);
        if (write(w->answers[1], "", 1) != 1) {
            break;
        }
    }
    _exit(0);
}

static void writer_start(struct writer *w, uint64_t pages)
{
    *w = (struct writer){.fd = file_new(pages), .pages = pages};
    /* With an edge that is no page table's: ranges need not begin at one. */
    uint8_t *room = mmap(NULL, pages * PAGE + (4 << 20), PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uintptr_t at = ((uintptr_t)room + (2 << 20)) / (2 << 20) * (2 << 20) + 5 * PAGE;
    w->memory =
        mmap((void *)at, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, w->fd, 0);
    ck_assert(w->memory != MAP_FAILED);
    ck_assert_int_eq(pipe2(w->orders, O_CLOEXEC), 0);
    ck_assert_int_eq(pipe2(w->answers, O_CLOEXEC), 0);
    w->pid = fork();
    if (w->pid == 0) {
        obey(w);
    }
}

static void writer_do(struct writer *w, void (*run)(const struct order *, uint8_t *, int),
                      uint64_t first, uint64_t count)
{
    struct order o = {.run = run, .first = first, .count = count};
    char done;
    ck_assert_int_eq(write(w->orders[1], &o, sizeof(o)), sizeof(o));
    ck_assert_int_eq(read(w->answers[0], &done, 1), 1);
}

static void writer_kill(struct writer *w)
{
    kill(w->pid, SIGKILL);
    ck_assert_int_eq(waitpid(w->pid, NULL, 0), w->pid);
}

static void writer_end(struct writer *w)
{
    int status;
    close(w->orders[1]);
    ck_assert_int_eq(waitpid(w->pid, &status, 0), w->pid);
    ck_assert_int_eq(status, 0);
    close(w->orders[0]);
    close(w->answers[0]);
    close(w->answers[1]);
    close(w->fd);
}

/* ---- tracking it ---- */

static int borrow(pid_t pid)
{
    struct error *err = NULL;
    uint64_t stopped;
    int uffd = borrow_userfaultfd(pid, &patient, &stopped, &err);
    expect_ok(uffd >= 0, err);
    return uffd;
}

static struct wptrack_range range_of(const struct writer *w)
{
    return (struct wptrack_range){
        .address = (uintptr_t)w->memory, .length = w->pages * PAGE, .fd = w->fd};
}

static struct wptrack *track(const struct writer *w)
{
    struct error *err = NULL;
    struct wptrack_range range = range_of(w);
    struct wptrack *t = wptrack_start(w->pid, borrow(w->pid), &range, 1, &patient, &err);
    expect_ok(t != NULL, err);
    return t;
}

/* A new bitmap of what a sync reports. */
static uint64_t *sync_of(struct wptrack *t, uint64_t pages)
{
    struct error *err = NULL;
    uint64_t *dirty = calloc(bits_words(pages), sizeof(*dirty));
    expect_ok(wptrack_sync(t, &dirty, &patient, &err), err);
    return dirty;
}

/* Fails unless a sync reports [first, first + count) and nothing else. */
static void expect_written(struct wptrack *t, uint64_t first, uint64_t count)
{
    uint64_t *dirty = sync_of(t, PAGES);
    ck_assert_uint_eq(bits_count(dirty, first, first + count), count);
    ck_assert_uint_eq(bits_count(dirty, 0, PAGES), count);
    free(dirty);
}

static void expect_sync_fails(struct wptrack *t, const char *code)
{
    struct error *err = NULL;
    uint64_t *dirty = calloc(bits_words(PAGES), sizeof(*dirty));
    ck_assert(!wptrack_sync(t, &dirty, &patient, &err));
    expect_error(err, code, NULL);
    free(dirty);
}

static void expect_check_fails(struct wptrack *t, const char *code)
{
    struct error *err = NULL;
    ck_assert(!wptrack_check(t, &err));
    expect_error(err, code, NULL);
}

START_TEST(supported)
{
    struct error *err = NULL;
    expect_ok(wptrack_supported(&err), err);
}
END_TEST

static void (*const ways[])(const struct order *, uint8_t *, int) = {do_write, do_write_in_thread,
                                                                     do_read_file};

/* Reported once after each write, and exactly. */
START_TEST(each_way_of_writing)
{
    struct writer w;
    writer_start(&w, PAGES);
    file_fill(w.fd, 0, PAGES, 1);
    struct wptrack *t = track(&w);
    expect_written(t, 0, 0);
    writer_do(&w, ways[_i], 600, 3);
    expect_written(t, 600, 3);
    expect_written(t, 600, 0);
    writer_do(&w, do_look, 0, PAGES);
    expect_written(t, 0, 0);
    writer_do(&w, ways[_i], 601, 1);
    writer_do(&w, ways[_i], 601, 1);
    expect_written(t, 601, 1);
    writer_do(&w, ways[_i], 0, PAGES);
    expect_written(t, 0, PAGES);
    expect_written(t, 0, 0);
    wptrack_stop(t);
    writer_end(&w);
}
END_TEST

START_TEST(kvm_writes)
{
    struct error *err = NULL;
    struct victim v;
    uint64_t dirty = 0, *const map = &dirty;
    if (!victim_can_run(victim_kind("kvm-run"))) {
        fprintf(stderr, "skipped: /dev/kvm is missing\n");
        return;
    }
    victim_start(&v, victim_kind("kvm-run"));
    victim_goes_on(&v, 1);
    struct wptrack_range range = {
        .address = (uintptr_t)v.ram, .length = VICTIM_RAM, .fd = v.ram_fd};
    struct wptrack *t = wptrack_start(v.pid, borrow(v.pid), &range, 1, &patient, &err);
    expect_ok(t != NULL, err);
    for (int i = 0; i < 100; i++) {
        victim_goes_on(&v, 2); /* a whole turn: one page is written after the other */
        dirty = 0;
        expect_ok(wptrack_sync(t, &map, &patient, &err), err);
        ck_assert_uint_eq(dirty, 1ULL << VICTIM_COUNTER / PAGE | 1ULL << VICTIM_SECOND / PAGE);
    }
    kill(v.pid, SIGSTOP);
    expect_ok(wptrack_sync(t, &map, &patient, &err), err);
    dirty = 0;
    expect_ok(wptrack_sync(t, &map, &patient, &err), err);
    ck_assert_uint_eq(dirty, 0);
    kill(v.pid, SIGCONT);
    wptrack_stop(t);
    victim_goes_on(&v, 1);
    victim_end(&v);
}
END_TEST

/* A page table that comes to be after arming: its pages are reported, then as any others. */
START_TEST(written_where_nothing_was)
{
    struct writer w;
    writer_start(&w, PAGES);
    struct wptrack *t = track(&w);
    writer_do(&w, do_write, 700, 1);
    uint64_t *dirty = sync_of(t, PAGES);
    ck_assert(bits_test(dirty, 700));
    ck_assert_uint_le(bits_count(dirty, 0, PAGES), 512);
    free(dirty);
    expect_written(t, 0, 0);
    writer_do(&w, do_write, 701, 1);
    expect_written(t, 701, 1);
    wptrack_stop(t);
    writer_end(&w);
}
END_TEST

/* Pages that were written and whose page table was given back since. */
START_TEST(page_tables_given_back)
{
    struct writer w;
    writer_start(&w, PAGES);
    file_fill(w.fd, 0, PAGES, 1);
    struct wptrack *t = track(&w);
    writer_do(&w, do_write, 0, PAGES);
    writer_do(&w, do_forget, 0, PAGES);
    uint64_t *dirty = sync_of(t, PAGES);
    ck_assert_uint_eq(bits_count(dirty, 0, PAGES), PAGES);
    free(dirty);
    writer_do(&w, do_write, 9, 1);
    dirty = sync_of(t, PAGES);
    ck_assert(bits_test(dirty, 9));
    free(dirty);
    wptrack_stop(t);
    writer_end(&w);
}
END_TEST

static int64_t page_tables_of(pid_t pid)
{
    return process_status(pid, pid, "VmPTE:", 10);
}

START_TEST(holes_cost_nothing)
{
    const uint64_t pages = (8ULL << 30) / PAGE;
    struct stat st;
    struct writer w;
    writer_start(&w, pages);
    int64_t before = page_tables_of(w.pid);
    struct wptrack *t = track(&w);
    for (int i = 0; i < 2; i++) {
        uint64_t *dirty = sync_of(t, pages);
        ck_assert_uint_eq(bits_count(dirty, 0, pages), 0);
        free(dirty);
    }
    fstat(w.fd, &st);
    ck_assert_int_eq(st.st_blocks, 0);
    ck_assert_int_le(page_tables_of(w.pid), before + 8);
    writer_do(&w, do_write, pages / 2, 1);
    uint64_t *dirty = sync_of(t, pages);
    ck_assert(bits_test(dirty, pages / 2));
    ck_assert_uint_le(bits_count(dirty, 0, pages), 512);
    free(dirty);
    wptrack_stop(t);
    writer_end(&w);
}
END_TEST

/* ---- it misses nothing ---- */

struct scribbler {
    uint8_t *memory;
    uint64_t seed;
};

static void *scribble(void *opaque)
{
    struct scribbler *s = opaque;
    for (;;) {
        uint64_t at = next_random(&s->seed) % (PAGES * PAGE);
        __atomic_add_fetch(&s->memory[at], 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void do_scribble(const struct order *o, uint8_t *memory, int fd)
{
    static struct scribbler scribblers[2];
    (void)o, (void)fd;
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        scribblers[i] = (struct scribbler){.memory = memory, .seed = (uint64_t)i + 1};
        pthread_create(&thread, NULL, scribble, &scribblers[i]);
    }
}

/* What a migration does: what is reported is copied while it is written on. */
static void copy_reported(struct wptrack *t, const struct writer *w, uint8_t *copy)
{
    uint64_t *dirty = sync_of(t, PAGES);
    for (uint64_t p = 0; (p = bits_next_set(dirty, p, PAGES)) < PAGES; p++) {
        ck_assert_int_eq(pread(w->fd, copy + p * PAGE, PAGE, (off_t)(p * PAGE)), PAGE);
    }
    free(dirty);
}

static int64_t is_stopped(pid_t pid)
{
    char text[1024];
    const char *state =
        process_read(pid, pid, "stat", text, sizeof(text)) > 0 ? strrchr(text, ')') : NULL;
    return state && state[2] == 'T';
}

START_TEST(copies_converge)
{
    struct writer w;
    uint8_t *copy = calloc(PAGES, PAGE);
    writer_start(&w, PAGES);
    struct wptrack *t = track(&w);
    writer_do(&w, do_scribble, 0, 0);
    for (int i = 0; i < 300; i++) {
        copy_reported(t, &w, copy);
    }
    kill(w.pid, SIGSTOP);
    await_number(is_stopped, w.pid, 1);
    copy_reported(t, &w, copy);
    ck_assert_int_eq(memcmp(copy, w.memory, PAGES * PAGE), 0);
    wptrack_stop(t);
    writer_kill(&w);
    free(copy);
}
END_TEST

/* ---- what changes under it ---- */

struct change {
    void (*run)(const struct order *, uint8_t *, int);
    bool unmapped; /* a scan says nothing of what is not there */
};

static const struct change changes[] = {
    {.run = do_unmap, .unmapped = true}, {.run = do_map_other}, {.run = do_map_elsewhere}};

START_TEST(memory_changed)
{
    struct error *err = NULL;
    struct writer w;
    writer_start(&w, PAGES);
    file_fill(w.fd, 0, PAGES, 1);
    struct wptrack *t = track(&w);
    expect_ok(wptrack_check(t, &err), err);
    writer_do(&w, changes[_i].run, 1000, 24);
    expect_check_fails(t, "guest-changed");
    if (!changes[_i].unmapped) {
        expect_sync_fails(t, "guest-changed");
    }
    wptrack_stop(t);
    writer_end(&w);
}
END_TEST

/* madvise() and the like split a mapping: it is the same memory all the same. */
START_TEST(memory_split)
{
    struct error *err = NULL;
    struct writer w;
    writer_start(&w, PAGES);
    struct wptrack *t = track(&w);
    mprotect(w.memory, PAGE, PROT_READ); /* the test's own mapping is none of it */
    writer_do(&w, do_forget, 10, 10);
    expect_ok(wptrack_check(t, &err), err);
    wptrack_stop(t);
    writer_end(&w);
}
END_TEST

START_TEST(not_what_is_mapped)
{
    struct error *err = NULL;
    struct writer w;
    writer_start(&w, PAGES);
    struct wptrack_range range = range_of(&w);
    range.fd = file_new(PAGES);
    ck_assert_ptr_null(wptrack_start(w.pid, borrow(w.pid), &range, 1, &patient, &err));
    expect_error(err, "guest-changed", NULL);
    close(range.fd);
    wptrack_stop(track(&w)); /* nothing is left registered */
    writer_end(&w);
}
END_TEST

START_TEST(process_ends)
{
    struct writer w;
    writer_start(&w, PAGES);
    file_fill(w.fd, 0, PAGES, 1);
    struct wptrack *t = track(&w);
    writer_do(&w, do_write, 5, 1);
    writer_kill(&w);
    expect_sync_fails(t, "guest-lost");
    expect_check_fails(t, "guest-lost");
    wptrack_stop(t);
}
END_TEST

START_TEST(process_ends_before)
{
    struct error *err = NULL;
    struct writer w;
    writer_start(&w, PAGES);
    struct wptrack_range range = range_of(&w);
    int uffd = borrow(w.pid);
    writer_kill(&w);
    ck_assert_ptr_null(wptrack_start(w.pid, uffd, &range, 1, &patient, &err));
    expect_error(err, "guest-lost", NULL);
}
END_TEST

/* ---- nothing is left ---- */

START_TEST(stopped)
{
    struct writer w;
    writer_start(&w, PAGES);
    file_fill(w.fd, 0, PAGES, 1);
    for (int i = 0; i < 3; i++) {
        struct wptrack *t = track(&w); /* what is registered can't be registered again */
        expect_written(t, 0, 0);
        wptrack_stop(t);
    }
    writer_end(&w);
}
END_TEST

/* While it is tracked nobody else can. */
START_TEST(tracked_twice)
{
    struct error *err = NULL;
    struct writer w;
    writer_start(&w, PAGES);
    struct wptrack_range range = range_of(&w);
    struct wptrack *t = track(&w);
    ck_assert_ptr_null(wptrack_start(w.pid, borrow(w.pid), &range, 1, &patient, &err));
    expect_error(err, "no-tracking", NULL);
    writer_do(&w, do_write, 7, 1);
    uint64_t *dirty = sync_of(t, PAGES);
    ck_assert(bits_test(dirty, 7));
    free(dirty);
    wptrack_stop(t);
    writer_end(&w);
}
END_TEST

START_TEST(tracker_killed)
{
    struct writer w;
    int ready = eventfd(0, 0);
    eventfd_t value;
    writer_start(&w, PAGES);
    file_fill(w.fd, 0, PAGES, 1);
    pid_t tracker = fork();
    if (tracker == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        track(&w);
        eventfd_write(ready, 1);
        pause();
    }
    eventfd_read(ready, &value);
    writer_do(&w, do_write, 5, 1);
    kill(tracker, SIGKILL);
    waitpid(tracker, NULL, 0);
    writer_do(&w, do_write, 0, PAGES);
    struct wptrack *t = track(&w);
    expect_written(t, 0, 0);
    wptrack_stop(t);
    writer_end(&w);
    close(ready);
}
END_TEST

START_TEST(cancelled)
{
    struct error *err = NULL;
    struct writer w;
    int cancel = eventfd(1, 0);
    const struct wait over = {.cancel_fd = cancel, .timeout_ms = 30000, .what = "the test"};
    writer_start(&w, PAGES);
    file_fill(w.fd, 0, PAGES, 1);
    struct wptrack_range range = range_of(&w);
    ck_assert_ptr_null(wptrack_start(w.pid, borrow(w.pid), &range, 1, &over, &err));
    expect_error(err, "cancelled", NULL);
    err = NULL;
    struct wptrack *t = track(&w);
    uint64_t *dirty = calloc(bits_words(PAGES), sizeof(*dirty));
    ck_assert(!wptrack_sync(t, &dirty, &over, &err));
    expect_error(err, "cancelled", NULL);
    free(dirty);
    wptrack_stop(t);
    writer_end(&w);
    close(cancel);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/wptrack");
    unit_add(suite, "guest/wptrack/supported", supported);
    unit_add_loop(suite, "guest/wptrack/each-way-of-writing", each_way_of_writing,
                  sizeof(ways) / sizeof(ways[0]));
    unit_add(suite, "guest/wptrack/kvm-writes", kvm_writes);
    unit_add(suite, "guest/wptrack/written-where-nothing-was", written_where_nothing_was);
    unit_add(suite, "guest/wptrack/page-tables-given-back", page_tables_given_back);
    unit_add(suite, "guest/wptrack/holes-cost-nothing", holes_cost_nothing);
    unit_add(suite, "guest/wptrack/copies-converge", copies_converge);
    unit_add_loop(suite, "guest/wptrack/memory-changed", memory_changed,
                  sizeof(changes) / sizeof(changes[0]));
    unit_add(suite, "guest/wptrack/memory-split", memory_split);
    unit_add(suite, "guest/wptrack/not-what-is-mapped", not_what_is_mapped);
    unit_add(suite, "guest/wptrack/process-ends", process_ends);
    unit_add(suite, "guest/wptrack/process-ends-before", process_ends_before);
    unit_add(suite, "guest/wptrack/stopped", stopped);
    unit_add(suite, "guest/wptrack/tracked-twice", tracked_twice);
    unit_add(suite, "guest/wptrack/tracker-killed", tracker_killed);
    unit_add(suite, "guest/wptrack/cancelled", cancelled);
    return unit_run(suite);
}
