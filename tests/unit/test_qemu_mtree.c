/* SPDX-License-Identifier: BSD-3-Clause */
/* What QEMU 7.2 prints for `info mtree -f`, cut down to what matters, and what it never would. */
#include "qemu/mtree.h"
#include "tests/unit/unit.h"

#include <stdio.h>
#include <string.h>

/* -machine pc -m 64M */
static const char pc[] =
    "FlatView #0\n"
    " AS \"memory\", root: system\n"
    " AS \"cpu-memory-0\", root: system\n"
    " Root memory region: system\n"
    "  0000000000000000-00000000000bffff (prio 0, ram): mem0 KVM\n"
    "  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom KVM\n"
    "  00000000000e0000-00000000000fffff (prio 0, rom): pc.bios @0000000000020000 KVM\n"
    "  0000000000100000-0000000003ffffff (prio 0, ram): mem0 @0000000000100000 KVM\n"
    "  00000000fec00000-00000000fec00fff (prio 0, i/o): kvm-ioapic\n"
    "  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios KVM\n"
    "\n"
    "FlatView #1\n"
    " AS \"i440FX\", root: bus master container\n"
    " AS \"PIIX3\", root: bus master container\n"
    " Root memory region: (none)\n"
    "  No rendered FlatView\n"
    "\n"
    "FlatView #2\n"
    " AS \"I/O\", root: io\n"
    " Root memory region: io\n"
    "  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan\n"
    "  0000000000000071-0000000000000071 (prio 0, i/o): rtc @0000000000000001\n"
    "\n";

/* -machine q35 -m 4G with an IOMMU, VGA, two nodes (mem0, mem01) and a DIMM (mem1): another view
 * of memory comes first, as it does in other configurations. */
static const char q35[] =
    "FlatView #3\n"
    " AS \"vtd-root\", root: vtd-00.0\n"
    " AS \"vtd-root\", root: vtd-1f.3\n"
    " Root memory region: vtd-nodmar\n"
    "  0000000000002000-000000000009ffff (prio 0, ram): mem0 @0000000000002000\n"
    "\n"
    "FlatView #0\n"
    " AS \"memory\", root: system\n"
    " AS \"cpu-memory-0\", root: system\n"
    " AS \"cpu-memory-1\", root: system\n"
    " Root memory region: system\n"
    "  0000000000000000-000000000009ffff (prio 0, ram): mem0 KVM\n"
    "  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\n"
    "  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom KVM\n"
    "  0000000000100000-000000007fffffff (prio 0, ram): mem0 @0000000000100000 KVM\n"
    "  00000000fed90000-00000000fed9022f (prio 0, i/o): intel_iommu\n"
    "  0000000100000000-000000017fffffff (prio 0, ram): mem01 KVM\n"
    "  0000000180000000-000000019fffffff (prio 0, ram): mem1 KVM\n"
    "  0000000240000000-0000000247ffffff (prio 0, nv-ram): nv0 KVM\n"
    "\n";

static void expect_place(const char *text, const char *backend, uint64_t gpa, uint64_t offset)
{
    struct mtree_region region = {.name = backend};
    mtree_find(text, &region, 1);
    ck_assert(region.found);
    ck_assert_uint_eq(region.place.gpa, gpa);
    ck_assert_uint_eq(region.place.offset, offset);
}

static void expect_none(const char *text, const char *backend)
{
    struct mtree_region region = {.name = backend};
    mtree_find(text, &region, 1);
    ck_assert(!region.found);
}

START_TEST(a_pc)
{
    expect_place(pc, "mem0", 0, 0);
    expect_none(pc, "mem1");
    expect_none(pc, "dma-chan");
}
END_TEST

START_TEST(several_backends)
{
    expect_place(q35, "mem0", 0, 0);
    expect_place(q35, "mem01", 0x100000000, 0);
    expect_place(q35, "mem1", 0x180000000, 0);
    expect_place(q35, "nv0", 0x240000000, 0);
    expect_none(q35, "mem");
    expect_none(q35, "vga-lowmem");
    expect_none(q35, "intel_iommu");
}
END_TEST

/* In whatever order they are asked for, and as often. */
START_TEST(all_at_once)
{
    struct mtree_region regions[] = {{.name = "nv0"},   {.name = "mem1"}, {.name = "mem0"},
                                     {.name = "mem"},   {.name = ""},     {.name = "mem1"},
                                     {.name = "mem01"}, {.name = "zoo"},  {.name = "mem1"}};
    static const uint64_t places[] = {0x240000000, 0x180000000, 0, 1,          1,
                                      0x180000000, 0x100000000, 1, 0x180000000}; /* 1: nowhere */
    const unsigned count = sizeof(regions) / sizeof(regions[0]);
    mtree_find(q35, regions, count);
    for (unsigned i = 0; i < count; i++) {
        ck_assert_int_eq(regions[i].found, places[i] != 1);
        ck_assert_uint_eq(regions[i].found ? regions[i].place.gpa : 1, places[i]);
    }
    mtree_find(q35, regions, 0);
}
END_TEST

/* A ROM stands where the region begins: what is seen of it begins behind. */
START_TEST(overlaid)
{
    expect_place("FlatView #0\n"
                 " AS \"memory\", root: system\n"
                 "  0000000000000000-0000000000000fff (prio 1, rom): rom KVM\n"
                 "  0000000000001000-00000000000bffff (prio 0, ram): mem0 @0000000000001000 KVM\n",
                 "mem0", 0x1000, 0x1000);
    expect_place(pc, "pc.bios", 0xe0000, 0x20000);
}
END_TEST

/* x-use-canonical-path-for-ramblock-id=on */
START_TEST(canonical_path)
{
    static const char text[] =
        "FlatView #0\n AS \"memory\", root: system\n"
        "  0000000000000000-00000000000bffff (prio 0, ram): /objects/mem0 KVM\n";
    expect_place(text, "mem0", 0, 0);
    expect_none(text, "objects");
    expect_none(text, "");
}
END_TEST

/* Devices behind an IOMMU see memory elsewhere, or none. */
START_TEST(other_views)
{
    char text[sizeof(q35)];
    strcpy(text, q35);
    memcpy(strstr(text, "\"memory\""), "\"memOry\"", 8);
    expect_none(text, "mem0");
    expect_none("", "mem0");
    expect_none("FlatView #0\n AS \"memory\", root: system\n", "mem0");
    expect_none("  0000000000000000-00000000000bffff (prio 0, ram): mem0 KVM\n", "mem0");
    expect_none("unknown command: 'info mtree -f'\r\n", "mem0");
}
END_TEST

static const struct {
    const char *line;
    bool found;
    uint64_t gpa, offset;
} lines[] = {
    {"0000000000001000-00000000000bffff (prio 0, ram): mem0", true, 0x1000, 0},
    {"0000000000001000-00000000000bffff (prio 0, ram): mem0\r", true, 0x1000, 0},
    {"ffffffffffffffff-ffffffffffffffff (prio -7, ram): mem0 @ffffffffffffffff", true, UINT64_MAX,
     UINT64_MAX},
    {"0000000000001000-00000000000bffff (prio 0, ram): mem0 @x", true, 0x1000, 0},
    {"0000000000001000-00000000000bffff (prio 0, ram): mem01", false, 0, 0},
    {"0000000000001000-00000000000bffff (prio 0, ram): mem", false, 0, 0},
    {"0000000000001000-00000000000bffff (prio 0, ram): ", false, 0, 0},
    {"0000000000001000-00000000000bffff (prio 0, ram):", false, 0, 0},
    {"0000000000001000-00000000000bffff (prio 0, ram", false, 0, 0},
    {"0000000000001000-00000000000bffff (prio 0, i/o): mem0", false, 0, 0},
    {"0000000000001000-00000000000bffff (prio x, ram): mem0", false, 0, 0},
    {"0000000000001000-00000000000bffff (prio 0, much-too-long-a-type): mem0", false, 0, 0},
    {"10000000000000000-20000000000000000 (prio 0, ram): mem0", false, 0, 0},
    {"0000000000001000 (prio 0, ram): mem0", false, 0, 0},
    {"mem0", false, 0, 0},
};

START_TEST(strange_lines)
{
    char text[256];
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        snprintf(text, sizeof(text), "FlatView #0\n AS \"memory\", root: s\n  %s", lines[i].line);
        if (lines[i].found) {
            expect_place(text, "mem0", lines[i].gpa, lines[i].offset);
        } else {
            expect_none(text, "mem0");
        }
        expect_none(text, "");
    }
}
END_TEST

/* As much text as a monitor can send, of what takes the most steps, and as many backends: each byte
 * is looked at once. */
START_TEST(huge)
{
    static const char *const pieces[] = {"FlatView #", "\n", "FlatView #0\n AS \"memory\",\n",
                                         "  0000000000000000-00000000000bffff (prio 0, ram): mem0"};
    static struct mtree_region regions[1024];
    const size_t size = 8 << 20;
    for (unsigned i = 0; i < 1024; i++) {
        regions[i].name = "mem1";
    }
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        size_t length = strlen(pieces[i]);
        char *text = malloc(size + 64);
        for (size_t at = 0; at < size; at += length) {
            memcpy(text + at, pieces[i], length);
            text[at + length] = '\0';
        }
        mtree_find(text, regions, 1024);
        ck_assert(!regions[0].found);
        free(text);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qemu/mtree");
    unit_add(suite, "qemu/mtree/a-pc", a_pc);
    unit_add(suite, "qemu/mtree/several-backends", several_backends);
    unit_add(suite, "qemu/mtree/all-at-once", all_at_once);
    unit_add(suite, "qemu/mtree/overlaid", overlaid);
    unit_add(suite, "qemu/mtree/canonical-path", canonical_path);
    unit_add(suite, "qemu/mtree/other-views", other_views);
    unit_add(suite, "qemu/mtree/strange-lines", strange_lines);
    unit_add(suite, "qemu/mtree/huge", huge);
    return unit_run(suite);
}
