/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Finds out by itself whether its memory is what it wrote.  Each vCPU owns a part of the working
 * set and walks it over and over: check a page, write its next generation.
 *
 * A page begins with its number, its generation and a checksum over both.  Each quarter of it holds
 * that checksum again in a run of words, whose place moves on with each generation; so the loss of
 * a part of a page shows, wherever it lies.  Which generation to expect is known from three places
 * that a migration moves apart from each other: a table in other pages, one word per page; the pass
 * that the walk is in, which each page of it shares; and that pass again in debug register 0, which
 * is not in RAM but moves with the vCPU's state.
 *
 * Arguments: set (MiB, default 16), run (words in a quarter page, default 16;
 * a power of two, 256 is the whole page), rate (pages a
 * second and vCPU, default 0: as fast as it goes), every (ms between lines, default 500), passes
 * (end after so many; default: never), dirty (MiB more, which are not checked but written to at
 * full speed in between, default 0).
 */
#include "guest.h"

#define WORDS     (PAGE_BYTES / 4)
#define HEAD      3u /* words */
#define QUARTERS  4u
#define QUARTER   (WORDS / QUARTERS)
#define LINES_MAX 20u  /* of one vCPU; the count goes on */
#define DIRTIED   256u /* pages of those that are not checked, for each that is */

static uint32_t finished;
static uint32_t run_words; /* the same for all vCPUs, whichever sets it */

struct checker {
    uint32_t cpu;
    struct range range;
    struct range unchecked;
    uint32_t dirtied; /* page of those, from which on they are written next */
    uint32_t *table;  /* the generation of each page of the range */
    uint32_t pass;
    uint32_t pages; /* checked in this pass and those before */
    uint32_t bad;
    uint64_t next_line;
    struct pace pace;
};

/* Another value for each pair, near or far. */
static uint32_t seal_of(uint32_t page, uint32_t generation)
{
    uint32_t x = page * 0x9e3779b1u ^ generation * 0x85ebca77u;

    x ^= x >> 15;
    x *= 0xc2b2ae3du;
    return x ^ x >> 13;
}

struct run {
    uint32_t first; /* word of the page */
    uint32_t words;
};

static struct run run_of(uint32_t quarter, uint32_t generation)
{
    struct run run = {
        .first = quarter * QUARTER + generation * run_words % QUARTER,
        .words = run_words,
    };

    if (run.first == 0) {
        run.first += HEAD;
        run.words -= HEAD;
    }
    return run;
}

static void write_page(uint32_t page, uint32_t generation)
{
    uint32_t *words = (uint32_t *)heap_page(page);
    uint32_t seal = seal_of(page, generation);

    words[0] = page;
    words[1] = generation;
    words[2] = seal;
    for (uint32_t quarter = 0; quarter < QUARTERS; quarter++) {
        struct run run = run_of(quarter, generation);
        uint32_t *at = words + run.first;
        __asm__ volatile("rep stosl" : "+D"(at), "+c"(run.words) : "a"(seal) : "memory");
    }
}

/* The first word of the runs that is not `seal`; WORDS when all are. */
static uint32_t first_wrong(const uint32_t *words, uint32_t generation, uint32_t seal)
{
    for (uint32_t quarter = 0; quarter < QUARTERS; quarter++) {
        struct run run = run_of(quarter, generation);
        const uint32_t *at = words + run.first;
        bool same;

        __asm__ volatile("repe scasl"
                         : "+D"(at), "+c"(run.words), "=@cce"(same)
                         : "a"(seal)
                         : "memory");
        if (!same) {
            return (uint32_t)(at - words) - 1;
        }
    }
    return WORDS;
}

static void complain(struct checker *checker, uint32_t page, const char *what, uint32_t found,
                     uint32_t expected)
{
    checker->bad++;
    report(checker->cpu)->bad = checker->bad;
    if (checker->bad <= LINES_MAX) {
        print("BAD page %u: %s %u expected %u (cpu %u pass %u)\n", page, what, found, expected,
              checker->cpu, checker->pass);
    }
}

static void check_page(struct checker *checker, uint32_t index)
{
    uint32_t page = checker->range.first + index;
    uint32_t expected = checker->pass - 1;
    const uint32_t *words = (const uint32_t *)heap_page(page);
    uint32_t seal = seal_of(page, expected);

    if (checker->table[index] != expected) {
        complain(checker, page, "table says generation", checker->table[index], expected);
    }
    if (words[0] != page) {
        complain(checker, page, "number", words[0], page);
    } else if (words[1] != expected) {
        complain(checker, page, "generation", words[1], expected);
    } else if (words[2] != seal) {
        complain(checker, page, "checksum", words[2], seal);
    } else {
        uint32_t wrong = first_wrong(words, expected, seal);
        if (wrong != WORDS) {
            complain(checker, page, "differs from word", wrong, WORDS);
        }
    }
}

static void renew_page(struct checker *checker, uint32_t index)
{
    write_page(checker->range.first + index, checker->pass);
    checker->table[index] = checker->pass;
}

static uint32_t witness(void)
{
    uint32_t value;

    __asm__ volatile("movl %%dr0, %0" : "=r"(value));
    return value;
}

static void begin_pass(struct checker *checker, uint32_t pass)
{
    checker->pass = pass;
    __asm__ volatile("movl %0, %%dr0" : : "r"(pass));
}

static void print_line(struct checker *checker)
{
    print("checker: cpu %u pass %u pages %u bad %u\n", checker->cpu, checker->pass, checker->pages,
          checker->bad);
}

static void dirty_unchecked(struct checker *checker)
{
    uint32_t left = checker->unchecked.pages - checker->dirtied;
    uint32_t count = left < DIRTIED ? left : DIRTIED;

    dirty_places((uint32_t)heap_page(checker->unchecked.first + checker->dirtied), PAGE_BYTES,
                 count);
    checker->dirtied = count == left ? 0 : checker->dirtied + count;
}

static void one_pass(struct checker *checker, uint32_t every_us)
{
    for (uint32_t i = 0; i < checker->range.pages; i++) {
        if (witness() != checker->pass) {
            complain(checker, checker->range.first + i, "vCPU knows pass", witness(),
                     checker->pass);
            begin_pass(checker, checker->pass);
        }
        check_page(checker, i);
        renew_page(checker, i);
        dirty_unchecked(checker);
        checker->pages++;
        report(checker->cpu)->progress = checker->pages;
        pace_wait(&checker->pace, 1);
        if (is_due(&checker->next_line, every_us)) {
            print_line(checker);
        }
    }
}

/* The tables lie behind all of the pages, where nobody else writes; what is not checked, behind
 * them. */
static void place_table(struct checker *checker, uint32_t cpus, uint32_t dirty_mib)
{
    uint32_t pages_all = checker->range.pages * cpus;
    uint32_t table_pages = (checker->range.pages + WORDS - 1) / WORDS;
    uint32_t dirty_each = dirty_mib * (MIB / PAGE_BYTES) / cpus;
    uint64_t end = (uint64_t)pages_all + ((uint64_t)table_pages + dirty_each) * cpus;

    if (checker->range.pages == 0 || end * PAGE_BYTES > params()->ram_low - GUEST_HEAP_GPA) {
        print("checker: the set and its table do not fit\n");
        shut_down();
    }
    checker->table = (uint32_t *)heap_page(pages_all + table_pages * checker->cpu);
    checker->unchecked = (struct range){
        .first = pages_all + table_pages * cpus + dirty_each * checker->cpu, .pages = dirty_each};
}

static void finish(const struct checker *checker)
{
    print("checker: cpu %u done bad %u\n", checker->cpu, checker->bad);
    if (__atomic_add_fetch(&finished, 1, __ATOMIC_ACQ_REL) == params()->cpus) {
        shut_down();
    }
}

void guest_main(uint32_t cpu)
{
    uint32_t cpus = params()->cpus;
    uint32_t every_us = arg("every", 500) * 1000;
    uint32_t passes = arg("passes", 0);
    struct checker checker = {.cpu = cpu, .range = working_set(arg("set", 16), cpu, cpus)};

    run_words = arg("run", 16);
    if (run_words <= HEAD || QUARTER % run_words != 0) {
        print("checker: run is not 4, 8, 16, 32, 64, 128 or 256\n");
        shut_down();
    }
    place_table(&checker, cpus, arg("dirty", 0));
    print("checker: start cpu %u pages %u\n", cpu, checker.range.pages);
    for (uint32_t i = 0; i < checker.range.pages; i++) {
        renew_page(&checker, i);
    }
    pace_init(&checker.pace, arg("rate", 0));
    for (uint32_t pass = 1; passes == 0 || pass <= passes; pass++) {
        begin_pass(&checker, pass);
        one_pass(&checker, every_us);
    }
    finish(&checker);
}
