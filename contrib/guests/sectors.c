/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Finds out by itself whether its disk is what it wrote.  The first vCPU walks a set of blocks, a
 * page each and spread over the disk: reads one, checks it, writes its next generation, reads that
 * back.  Other vCPUs stand still.
 *
 * Each sector begins with its number, its generation and a checksum over both, and is filled with
 * that checksum.  Which generation to expect stands in RAM, in a table: a disk that is older or
 * newer than the RAM it belongs to shows.  Each block is read into a page of its own, which nobody
 * but the disk writes and which is checked again a pass later: what the disk writes into RAM must
 * not get lost either.
 *
 * Arguments: blocks (default 64), stride (pages from one to the next, default 16), skew (the first
 * one's sector, default 0: then blocks are whole pieces of an overlay), every (ms between lines,
 * default 500), rate (blocks a second, default 0: as fast as it goes), passes (end after so many;
 * default: never).
 */
#include "guest.h"

#define SECTOR_BYTES 512u
#define SECTOR_WORDS (SECTOR_BYTES / 4)
#define SECTORS      (PAGE_BYTES / SECTOR_BYTES) /* of a block */
#define HEAD         3u                          /* words */
#define LINES_MAX    20u                         /* the count goes on */

struct tester {
    uint32_t blocks, stride, skew;
    uint32_t *table;  /* the generation of each block */
    uint32_t *outbox; /* a page that is written to the disk */
    uint32_t pass;
    uint32_t done; /* blocks, in this pass and those before */
    uint32_t bad;
    uint64_t next_line;
    struct pace pace;
};

/* Another value for each pair, near or far. */
static uint32_t seal_of(uint32_t sector, uint32_t generation)
{
    uint32_t x = sector * 0x9e3779b1u ^ generation * 0x85ebca77u;

    x ^= x >> 15;
    x *= 0xc2b2ae3du;
    return x ^ x >> 13;
}

static uint32_t sector_of(const struct tester *tester, uint32_t block)
{
    return block * tester->stride * SECTORS + tester->skew;
}

/* The page that the disk reads this block into. */
static uint32_t *inbox(uint32_t block)
{
    return (uint32_t *)heap_page(block);
}

static void complain(struct tester *tester, uint32_t sector, const char *where, const char *what,
                     uint32_t found, uint32_t expected)
{
    tester->bad++;
    report(0)->bad = tester->bad;
    if (tester->bad <= LINES_MAX) {
        print("BAD sector %u %s: %s %u expected %u (pass %u)\n", sector, where, what, found,
              expected, tester->pass);
    }
}

/* One command; false, and said so, when the disk did not do it. */
static bool command(struct tester *tester, uint32_t what, uint32_t block, const void *page)
{
    outl(GUEST_PORT_DISK + GUEST_DISK_SECTOR, sector_of(tester, block));
    outl(GUEST_PORT_DISK + GUEST_DISK_ADDRESS, (uint32_t)page);
    outl(GUEST_PORT_DISK + GUEST_DISK_COUNT, SECTORS);
    outl(GUEST_PORT_DISK + GUEST_DISK_COMMAND, what);
    uint32_t status = inl(GUEST_PORT_DISK + GUEST_DISK_COMMAND);
    if (status != GUEST_DISK_DONE) {
        complain(tester, sector_of(tester, block), "disk", "status", status, GUEST_DISK_DONE);
    }
    return status == GUEST_DISK_DONE;
}

static void fill_block(const struct tester *tester, uint32_t block, uint32_t generation)
{
    for (uint32_t i = 0; i < SECTORS; i++) {
        uint32_t sector = sector_of(tester, block) + i;
        uint32_t *words = tester->outbox + i * SECTOR_WORDS;
        uint32_t *at = words + HEAD;
        uint32_t count = SECTOR_WORDS - HEAD;
        uint32_t seal = seal_of(sector, generation);
        words[0] = sector;
        words[1] = generation;
        words[2] = seal;
        __asm__ volatile("rep stosl" : "+D"(at), "+c"(count) : "a"(seal) : "memory");
    }
}

static void check_sector(struct tester *tester, uint32_t sector, const uint32_t *words,
                         uint32_t generation, const char *where)
{
    uint32_t seal = seal_of(sector, generation);
    const uint32_t *at = words + HEAD;
    uint32_t count = SECTOR_WORDS - HEAD;
    bool same;

    __asm__ volatile("repe scasl" : "+D"(at), "+c"(count), "=@cce"(same) : "a"(seal) : "memory");
    if (words[0] != sector) {
        complain(tester, sector, where, "number", words[0], sector);
    } else if (words[1] != generation) {
        complain(tester, sector, where, "generation", words[1], generation);
    } else if (words[2] != seal || !same) {
        complain(tester, sector, where, "checksum", words[2], seal);
    }
}

static void check_block(struct tester *tester, uint32_t block, const char *where)
{
    for (uint32_t i = 0; i < SECTORS; i++) {
        check_sector(tester, sector_of(tester, block) + i, inbox(block) + i * SECTOR_WORDS,
                     tester->table[block], where);
    }
}

static void renew_block(struct tester *tester, uint32_t block, uint32_t generation)
{
    fill_block(tester, block, generation);
    if (command(tester, GUEST_DISK_WRITE, block, tester->outbox)) {
        tester->table[block] = generation;
    }
}

static void read_block(struct tester *tester, uint32_t block)
{
    if (command(tester, GUEST_DISK_READ, block, inbox(block))) {
        check_block(tester, block, "on disk");
    }
}

static void one_pass(struct tester *tester, uint32_t every_us)
{
    for (uint32_t block = 0; block < tester->blocks; block++) {
        if (tester->pass > 1) {
            check_block(tester, block, "in RAM");
        }
        read_block(tester, block);
        renew_block(tester, block, tester->pass);
        read_block(tester, block);
        report(0)->progress = ++tester->done;
        pace_wait(&tester->pace, 1);
        if (is_due(&tester->next_line, every_us)) {
            print("sectors: pass %u blocks %u bad %u\n", tester->pass, tester->done, tester->bad);
        }
    }
}

/* The inboxes from the heap's start on, the outbox behind them, the table behind that. */
static void place(struct tester *tester)
{
    uint32_t table_pages = tester->blocks * 4 / PAGE_BYTES + 1;
    uint64_t end = (uint64_t)tester->blocks + 1 + table_pages;

    if (tester->blocks == 0 || end * PAGE_BYTES > params()->ram_low - GUEST_HEAP_GPA) {
        print("sectors: the blocks do not fit into RAM\n");
        shut_down();
    }
    tester->outbox = (uint32_t *)heap_page(tester->blocks);
    tester->table = (uint32_t *)heap_page(tester->blocks + 1);
}

void guest_main(uint32_t cpu)
{
    struct tester tester = {
        .blocks = arg("blocks", 64), .stride = arg("stride", 16), .skew = arg("skew", 0)};
    uint32_t every_us = arg("every", 500) * 1000;
    uint32_t passes = arg("passes", 0);

    while (cpu != 0) {
        __asm__ volatile("cli; hlt");
    }
    place(&tester);
    print("sectors: start blocks %u\n", tester.blocks);
    for (uint32_t block = 0; block < tester.blocks; block++) {
        renew_block(&tester, block, 0);
    }
    pace_init(&tester.pace, arg("rate", 0));
    for (tester.pass = 1; passes == 0 || tester.pass <= passes; tester.pass++) {
        one_pass(&tester, every_us);
    }
    print("sectors: done bad %u\n", tester.bad);
    shut_down();
}
