/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/maps.h"
#include "tests/unit/ram_tools.h"
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES (8 * 4096UL)

/* The entry that begins at `at`, or false; its path is copied into `path`. */
static bool find(pid_t pid, const void *at, struct map_entry *found, char path[256])
{
    struct error *err = NULL;
    struct maps *maps = maps_open(pid, &err);
    expect_ok(maps != NULL, err);
    bool seen = false;
    while (!seen && maps_next(maps, found, &err)) {
        seen = found->start == (uintptr_t)at;
        snprintf(path, 256, "%s", found->path);
    }
    ck_assert_ptr_null(err);
    maps_close(maps);
    return seen;
}

START_TEST(a_file)
{
    struct map_entry entry;
    struct stat st;
    char path[256];
    char name[] = "/dev/shm/ferry maps\nXXXXXX";
    int fd = mkstemp(name);
    ck_assert_int_eq(ftruncate(fd, 2 * BYTES), 0);
    void *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, BYTES);
    fstat(fd, &st);
    ck_assert(find(getpid(), at, &entry, path));
    ck_assert_uint_eq(entry.end, (uintptr_t)at + BYTES);
    ck_assert_str_eq(entry.perms, "rw-s");
    ck_assert_uint_eq(entry.offset, BYTES);
    ck_assert_uint_eq(entry.dev, st.st_dev);
    ck_assert_uint_eq(entry.inode, st.st_ino);
    ck_assert_ptr_nonnull(strstr(path, "/dev/shm/ferry maps\\012"));
    unlink(name);
    ck_assert(find(getpid(), at, &entry, path));
    ck_assert_ptr_nonnull(strstr(path, " (deleted)"));
    munmap(at, BYTES);
    ck_assert(!find(getpid(), at, &entry, path));
    close(fd);
}
END_TEST

START_TEST(no_file)
{
    struct map_entry entry;
    char path[256];
    /* With a neighbour of other rights on either side: the kernel merges what is alike. */
    char *at = mmap(NULL, 3 * BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(at + BYTES, BYTES, PROT_READ);
    ck_assert(find(getpid(), at + BYTES, &entry, path));
    ck_assert_str_eq(entry.perms, "r--p");
    ck_assert_uint_eq(entry.inode, 0);
    ck_assert_str_eq(path, "");
    munmap(at, 3 * BYTES);
}
END_TEST

START_TEST(ascending)
{
    struct error *err = NULL;
    struct map_entry entry;
    uint64_t last = 0;
    unsigned count = 0, vdso = 0;
    struct maps *maps = maps_open(getpid(), &err);
    expect_ok(maps != NULL, err);
    while (maps_next(maps, &entry, &err)) {
        ck_assert_uint_ge(entry.start, last);
        ck_assert_uint_gt(entry.end, entry.start);
        last = entry.end;
        vdso += strcmp(entry.path, "[vdso]") == 0;
        count++;
    }
    ck_assert_ptr_null(err);
    maps_close(maps);
    ck_assert_uint_gt(count, 10);
    ck_assert_uint_eq(vdso, 1);
}
END_TEST

/* A process that has ended and is reaped; one that is not reaped yet has no memory left. */
START_TEST(process_gone)
{
    struct error *err = NULL;
    struct map_entry entry;
    siginfo_t info;
    pid_t pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
    struct maps *maps = maps_open(pid, &err);
    if (maps) {
        ck_assert(!maps_next(maps, &entry, &err));
        maps_close(maps);
    }
    error_free(err);
    err = NULL;
    waitpid(pid, NULL, 0);
    ck_assert_ptr_null(maps_open(pid, &err));
    ck_assert_str_eq(err->code, "guest-lost");
    error_free(err);
}
END_TEST

/* Another user's process may not be looked at without privileges. */
START_TEST(not_permitted)
{
    if (geteuid() != 0) {
        fprintf(stderr, "skipped: only root can become another user\n");
        return;
    }
    pid_t asker = fork();
    if (asker == 0) {
        struct error *err = NULL;
        if (setresuid(65534, 65534, 65534) < 0 || maps_open(getppid(), &err) || !err) {
            _exit(1);
        }
        bool right = strcmp(err->code, "no-permission") == 0;
        error_free(err);
        _exit(right ? 0 : 2);
    }
    int status;
    waitpid(asker, &status, 0);
    ck_assert_int_eq(status, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/maps");
    unit_add(suite, "guest/maps/a-file", a_file);
    unit_add(suite, "guest/maps/no-file", no_file);
    unit_add(suite, "guest/maps/ascending", ascending);
    unit_add(suite, "guest/maps/process-gone", process_gone);
    unit_add(suite, "guest/maps/not-permitted", not_permitted);
    return unit_run(suite);
}
