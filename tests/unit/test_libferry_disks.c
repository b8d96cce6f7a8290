/* SPDX-License-Identifier: BSD-3-Clause */
/* How a VMM registers disks with libferry: what is taken and what is not. */
#include "guest/libferry.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

static int nothing(void *opaque)
{
    (void)opaque;
    return 0;
}

static int no_state(void *opaque, int fd)
{
    (void)opaque;
    (void)fd;
    return 0;
}

static struct ferry *new_ferry(void)
{
    static const struct ferry_ops ops = {.size = sizeof(ops),
                                         .stop = nothing,
                                         .resume = nothing,
                                         .save_state = no_state,
                                         .load_state = no_state};
    const struct ferry_config config = {
        .size = sizeof(config), .name = "unit", .socket_path = "/nonexistent", .ops = &ops};
    struct ferry *f;
    ck_assert_int_eq(ferry_new(&config, &f), 0);
    return f;
}

static int add(struct ferry *f, struct ferry_disk disk)
{
    disk.size = sizeof(disk);
    return ferry_add_disk(f, &disk);
}

START_TEST(refused)
{
    struct ferry *f = new_ferry();
    int fd = file_new(4);
    struct ferry_disk good = {.name = "d", .fd = fd, .length = PAGE}, bad;
    const struct ferry_disk sizeless = good;
    ck_assert_int_eq(ferry_add_disk(f, &sizeless), -EINVAL);
    bad = good, bad.name = NULL;
    ck_assert_int_eq(add(f, bad), -EINVAL);
    bad = good, bad.name = "";
    ck_assert_int_eq(add(f, bad), -EINVAL);
    bad = good, bad.length = 0;
    ck_assert_int_eq(add(f, bad), -EINVAL);
    bad = good, bad.length = 513;
    ck_assert_int_eq(add(f, bad), -EINVAL);
    bad = good, bad.length = (1ULL << 46) + 512;
    ck_assert_int_eq(add(f, bad), -EINVAL);
    bad = good, bad.fd = -1;
    ck_assert_int_eq(add(f, bad), -EBADF);
    bad = good, bad.has_base = true, bad.base_fd = -1;
    ck_assert_int_eq(add(f, bad), -EBADF);
    ck_assert_int_eq(add(f, good), 0);
    ck_assert_int_eq(add(f, good), -EINVAL); /* the name again */
    ferry_free(f);
    close(fd);
}
END_TEST

START_TEST(too_many)
{
    struct ferry *f = new_ferry();
    int fd = file_new(4);
    char name[16];
    for (int i = 0; i <= FERRY_DISKS_MAX; i++) {
        snprintf(name, sizeof(name), "d%d", i);
        ck_assert_int_eq(add(f, (struct ferry_disk){.name = name, .fd = fd, .length = 512}),
                         i < FERRY_DISKS_MAX ? 0 : -E2BIG);
    }
    ferry_free(f);
    close(fd);
}
END_TEST

START_TEST(too_late)
{
    struct ferry *f = new_ferry();
    int fd = file_new(4);
    const struct ferry_ram_block ram = {
        .size = sizeof(ram), .name = "ram", .fd = fd, .length = PAGE, .slot = FERRY_NO_SLOT};
    ck_assert_int_eq(ferry_add_ram(f, &ram), 0);
    ck_assert_int_eq(ferry_start(f), 0);
    ck_assert_int_eq(add(f, (struct ferry_disk){.name = "d", .fd = fd, .length = 512}), -EINVAL);
    ferry_free(f);
    close(fd);
}
END_TEST

/* Without a migration, and for what is no disk of the guest. */
START_TEST(marks_that_nobody_wants)
{
    struct ferry *f = new_ferry();
    int fd = file_new(4);
    ck_assert_int_eq(add(f, (struct ferry_disk){.name = "d", .fd = fd, .length = PAGE}), 0);
    ferry_mark_disk_dirty(f, 0, 0, 512);
    ferry_mark_disk_dirty(f, 0, UINT64_MAX, UINT64_MAX);
    ferry_mark_disk_dirty(f, 0, 512, UINT64_MAX);
    ferry_mark_disk_dirty(f, 1, 0, 512);
    ferry_mark_disk_dirty(f, UINT32_MAX, 0, 512);
    ferry_free(f);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/libferry/disks");
    unit_add(suite, "guest/libferry/disks/refused", refused);
    unit_add(suite, "guest/libferry/disks/too-many", too_many);
    unit_add(suite, "guest/libferry/disks/too-late", too_late);
    unit_add(suite, "guest/libferry/disks/marks-that-nobody-wants", marks_that_nobody_wants);
    return unit_run(suite);
}
