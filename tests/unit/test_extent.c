/* SPDX-License-Identifier: BSD-3-Clause */
#include "ram/extent.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#define BEFORE 3u  /* pages of the file before the block */
#define PAGES  32u /* of the block */
#define BEHIND 5u

/* A block in the middle of a file, whose other pages exist. */
struct stage {
    int fd;
    struct ram *ram;
    struct ram_block *block;
};

static void stage_open(struct stage *s)
{
    struct error *err = NULL;
    s->fd = file_new(BEFORE + PAGES + BEHIND);
    file_fill(s->fd, 0, BEFORE, 1);
    file_fill(s->fd, BEFORE + PAGES, BEHIND, 1);
    s->ram = ram_new();
    expect_ok(ram_add(s->ram, "ram", s->fd, BEFORE * PAGE, PAGES * PAGE, 0, &err), err);
    s->block = &s->ram->blocks[0];
}

static void stage_close(struct stage *s)
{
    ram_free(s->ram);
    close(s->fd);
}

static void fill(struct stage *s, uint64_t first, uint64_t count)
{
    file_fill(s->fd, BEFORE + first, count, 1);
}

/* Fails unless the next existing pages of [from, end) are [first, last); first == last: none. */
static void expect_next(struct stage *s, struct extent_cursor *c, uint64_t from, uint64_t end,
                        uint64_t first, uint64_t last)
{
    uint64_t f, l;
    bool found = extent_next(s->block, c, from, end, &f, &l);
    ck_assert_int_eq(found, first < last);
    if (found) {
        ck_assert_uint_eq(f, first);
        ck_assert_uint_eq(l, last);
    }
}

START_TEST(all_hole)
{
    struct stage s;
    struct extent_cursor c = {0};
    stage_open(&s);
    expect_next(&s, &c, 0, PAGES, 0, 0);
    expect_next(&s, &c, PAGES - 1, PAGES, 0, 0);
    ck_assert_uint_eq(extent_skip_hole(s.block, 0, PAGES), PAGES);
    stage_close(&s);
}
END_TEST

START_TEST(all_data)
{
    struct stage s;
    struct extent_cursor c = {0};
    stage_open(&s);
    fill(&s, 0, PAGES);
    expect_next(&s, &c, 0, PAGES, 0, PAGES);
    expect_next(&s, &c, 7, 9, 7, 9);
    expect_next(&s, &c, PAGES - 1, PAGES, PAGES - 1, PAGES);
    ck_assert_uint_eq(extent_skip_hole(s.block, 4, PAGES), 4);
    stage_close(&s);
}
END_TEST

START_TEST(pieces)
{
    struct stage s;
    struct extent_cursor c = {0};
    stage_open(&s);
    fill(&s, 4, 3);
    fill(&s, 10, 1);
    fill(&s, PAGES - 1, 1);
    expect_next(&s, &c, 0, PAGES, 4, 7);
    expect_next(&s, &c, 5, 6, 5, 6);
    expect_next(&s, &c, 7, PAGES, 10, 11);
    expect_next(&s, &c, 11, PAGES - 1, 0, 0);
    expect_next(&s, &c, 11, PAGES, PAGES - 1, PAGES);
    expect_next(&s, &c, 0, 4, 0, 0); /* and back again */
    expect_next(&s, &c, 0, 5, 4, 5);
    ck_assert_uint_eq(extent_skip_hole(s.block, 0, PAGES), 4);
    ck_assert_uint_eq(extent_skip_hole(s.block, 7, 9), 9);
    ck_assert_uint_eq(extent_skip_hole(s.block, 7, PAGES), 10);
    stage_close(&s);
}
END_TEST

START_TEST(same_as_asking_for_each_page)
{
    struct stage s;
    uint64_t seed = 3;
    stage_open(&s);
    for (int i = 0; i < 300; i++) {
        uint64_t page = next_random(&seed) % PAGES;
        if (next_random(&seed) & 1) {
            fill(&s, page, 1);
        } else {
            file_punch(s.fd, BEFORE + page, 1);
        }
        struct extent_cursor c = {0};
        bool exists[PAGES] = {0};
        uint64_t at = 0, first, last;
        while (at < PAGES && extent_next(s.block, &c, at, PAGES, &first, &last)) {
            ck_assert_uint_ge(first, at);
            for (at = first; at < last; at++) {
                exists[at] = true;
            }
        }
        for (uint64_t p = 0; p < PAGES; p++) {
            ck_assert_int_eq(exists[p], !file_is_hole(s.fd, BEFORE + p));
        }
    }
    stage_close(&s);
}
END_TEST

/* A cursor answers from memory: data and holes are as of when it asked. */
START_TEST(cursor_remembers)
{
    struct stage s;
    struct extent_cursor c = {0};
    stage_open(&s);
    fill(&s, 8, 8);
    expect_next(&s, &c, 0, PAGES, 8, 16);
    fill(&s, 2, 1);
    file_punch(s.fd, BEFORE + 10, 1);
    expect_next(&s, &c, 0, PAGES, 8, 16);
    expect_next(&s, &c, 9, PAGES, 9, 16);
    stage_close(&s);
}
END_TEST

START_TEST(forget_holes)
{
    struct stage s;
    struct extent_cursor c = {0};
    stage_open(&s);
    fill(&s, 8, 8);
    expect_next(&s, &c, 0, PAGES, 8, 16);
    fill(&s, 2, 1);
    extent_forget_holes(&c);
    expect_next(&s, &c, 0, PAGES, 2, 3);
    /* Also behind the last data, where there was nothing. */
    expect_next(&s, &c, 16, PAGES, 0, 0);
    fill(&s, 20, 2);
    extent_forget_holes(&c);
    expect_next(&s, &c, 16, PAGES, 20, 22);
    stage_close(&s);
}
END_TEST

/* Data is not forgotten: a sweep asks for an extent once. */
START_TEST(forget_keeps_data)
{
    struct stage s;
    struct extent_cursor c = {0};
    stage_open(&s);
    fill(&s, 8, 8);
    expect_next(&s, &c, 0, PAGES, 8, 16);
    file_punch(s.fd, BEFORE + 12, 4);
    extent_forget_holes(&c);
    expect_next(&s, &c, 10, PAGES, 10, 16);
    stage_close(&s);
}
END_TEST

struct puncher {
    struct stage *stage;
    _Atomic bool stop;
};

static void *punch_and_fill(void *arg)
{
    struct puncher *p = arg;
    while (!atomic_load(&p->stop)) {
        fill(p->stage, 4, 1);
        file_punch(p->stage->fd, BEFORE + 4, 1);
    }
    return NULL;
}

/* A page that comes and goes while it is asked for hides none of those behind it. */
START_TEST(punched_while_asked)
{
    struct stage s;
    stage_open(&s);
    fill(&s, 20, 2);
    struct puncher p = {.stage = &s};
    pthread_t thread;
    pthread_create(&thread, NULL, punch_and_fill, &p);
    bool missed = false;
    for (int i = 0; i < 50000 && !missed; i++) {
        struct extent_cursor c = {0};
        uint64_t at = 0, first, last;
        missed = true;
        while (missed && at < PAGES && extent_next(s.block, &c, at, PAGES, &first, &last)) {
            missed = !(first <= 20 && last >= 22);
            at = last;
        }
    }
    atomic_store(&p.stop, true);
    pthread_join(thread, NULL);
    ck_assert(!missed);
    stage_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ram/extent");
    unit_add(suite, "ram/extent/all-hole", all_hole);
    unit_add(suite, "ram/extent/all-data", all_data);
    unit_add(suite, "ram/extent/pieces", pieces);
    unit_add(suite, "ram/extent/same-as-asking-for-each-page", same_as_asking_for_each_page);
    unit_add(suite, "ram/extent/cursor-remembers", cursor_remembers);
    unit_add(suite, "ram/extent/forget-holes", forget_holes);
    unit_add(suite, "ram/extent/forget-keeps-data", forget_keeps_data);
    unit_add(suite, "ram/extent/punched-while-asked", punched_while_asked);
    return unit_run(suite);
}
