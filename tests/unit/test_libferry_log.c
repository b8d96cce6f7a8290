/* SPDX-License-Identifier: BSD-3-Clause */
/* The dirty map and KVM's dirty log. */
#include "common/bits.h"
#include "common/cleanup.h"
#include "guest/dirtymap.h"
#include "tests/unit/libferry_stage.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* ---- the dirty map ---- */

static const uint64_t block_pages[] = {FIRST, SECOND, THIRD};

struct marks {
    struct dirtymap map;
};

static void start_log(struct stage *s, struct marks *m)
{
    CLEANUP_CLOSE int fd = dirtymap_create(block_pages, 3);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(dirtymap_map(&m->map, fd, block_pages, 3), 0);
    expect_done(&s->d, WIRE_LOG_START, NULL, fd, FERRY_GUEST_RUNNING);
}

/* The pages marked since the last time, as "0:3-5 1:0"; clears them. */
static void expect_marks(struct marks *m, const char *expected)
{
    char text[256] = "";
    for (unsigned i = 0; i < 3; i++) {
        uint64_t *marks = (uint64_t *)dirtymap_marks(&m->map, block_pages, i);
        /* Also what lies behind the block's last page. */
        uint64_t bits = bits_words(block_pages[i]) * BITS_PER_WORD, at = 0;
        while ((at = bits_next_set(marks, at, bits)) < bits) {
            uint64_t end = bits_next_clear(marks, at, bits);
            size_t n = strlen(text);
            snprintf(text + n, sizeof(text) - n, "%s%u:%ju-%ju", n ? " " : "", i, (uintmax_t)at,
                     (uintmax_t)(end - 1));
            at = end;
        }
        bits_clear_range(marks, 0, bits);
    }
    ck_assert_str_eq(text, expected);
}

START_TEST(mark_dirty)
{
    struct stage s;
    struct marks m;
    lib_stage_open(&s, false);
    ferry_mark_dirty(s.f, 0, FIRST * PAGE); /* nobody is listening */
    start_log(&s, &m);
    expect_marks(&m, "");
    ferry_mark_dirty(s.f, 0, 1);
    expect_marks(&m, "0:0-0");
    ferry_mark_dirty(s.f, 3 * PAGE - 1, 2);
    expect_marks(&m, "0:2-3");
    ferry_mark_dirty(s.f, 60 * PAGE, 8 * PAGE); /* over a word's border */
    expect_marks(&m, "0:60-67");
    ferry_mark_dirty(s.f, (FIRST - 1) * PAGE + 5, PAGE); /* into the next block */
    expect_marks(&m, "0:69-69 1:0-0");
    ferry_mark_dirty(s.f, 0, UINT64_MAX); /* all there is, and past it */
    expect_marks(&m, "0:0-69 1:0-9 2:0-2");
    ferry_mark_dirty(s.f, THIRD_GPA - PAGE, 2 * PAGE);
    expect_marks(&m, "2:0-0");
    ferry_mark_dirty(s.f, THIRD_GPA + 2 * PAGE, 100 * PAGE);
    expect_marks(&m, "2:2-2");
    ferry_mark_dirty(s.f, THIRD_GPA + 1, UINT64_MAX); /* its end wraps around */
    expect_marks(&m, "2:0-2");
    ferry_mark_dirty(s.f, 5 * PAGE, 0);
    ferry_mark_dirty(s.f, (FIRST + SECOND) * PAGE, PAGE); /* no RAM */
    ferry_mark_dirty(s.f, UINT64_MAX, UINT64_MAX);
    expect_marks(&m, "");
    expect_done(&s.d, WIRE_LOG_SYNC, NULL, -1, FERRY_GUEST_RUNNING);
    expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_RUNNING);
    ferry_mark_dirty(s.f, 0, PAGE);
    expect_marks(&m, "");
    expect_refusal(&s.d, WIRE_LOG_SYNC, NULL, -1, -EINVAL, "no dirty log");
    dirtymap_unmap(&m.map);
    lib_stage_close(&s);
}
END_TEST

static void *mark_all(void *arg)
{
    struct stage *s = arg;
    for (uint64_t page = 0; page < FIRST; page++) {
        ferry_mark_dirty(s->f, page * PAGE, 1);
    }
    return NULL;
}

/* Several threads mark; none of it is lost. */
START_TEST(mark_from_threads)
{
    struct stage s;
    struct marks m;
    pthread_t threads[4];
    lib_stage_open(&s, false);
    start_log(&s, &m);
    for (int i = 0; i < 4; i++) {
        pthread_create(&threads[i], NULL, mark_all, &s);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    expect_marks(&m, "0:0-69");
    dirtymap_unmap(&m.map);
    lib_stage_close(&s);
}
END_TEST

START_TEST(log_ends_with_the_connection)
{
    struct stage s;
    struct marks m;
    lib_stage_open(&s, false);
    start_log(&s, &m);
    reconnect(&s);
    expect_refusal(&s.d, WIRE_LOG_SYNC, NULL, -1, -EINVAL, "no dirty log");
    ferry_mark_dirty(s.f, 0, PAGE);
    expect_marks(&m, "");
    dirtymap_unmap(&m.map);
    lib_stage_close(&s);
}
END_TEST

/* A second LOG_START replaces the first one's map. */
START_TEST(log_starts_again)
{
    struct stage s;
    struct marks old, new;
    lib_stage_open(&s, false);
    start_log(&s, &old);
    start_log(&s, &new);
    ferry_mark_dirty(s.f, 0, PAGE);
    expect_marks(&old, "");
    expect_marks(&new, "0:0-0");
    dirtymap_unmap(&old.map);
    dirtymap_unmap(&new.map);
    lib_stage_close(&s);
}
END_TEST

static void expect_map_refused(struct stage *s, int fd)
{
    expect_refusal(&s->d, WIRE_LOG_START, NULL, fd, -EINVAL, "dirty map");
    expect_refusal(&s->d, WIRE_LOG_SYNC, NULL, -1, -EINVAL, "no dirty log");
    close(fd);
}

START_TEST(bad_maps)
{
    static const uint64_t other_pages[] = {FIRST, SECOND, 100000};
    struct stage s;
    int ends[2];
    lib_stage_open(&s, false);
    expect_map_refused(&s, dirtymap_create(other_pages, 3));
    expect_map_refused(&s, dirtymap_create(block_pages, 2));
    int unsealed = memfd_create("unsealed", MFD_CLOEXEC);
    ck_assert_int_eq(ftruncate(unsealed, 6 * 4096), 0);
    expect_map_refused(&s, unsealed);
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    close(ends[1]);
    expect_map_refused(&s, ends[0]);
    ferry_mark_dirty(s.f, 0, PAGE);
    lib_stage_close(&s);
}
END_TEST

START_TEST(clear_ranges)
{
    static const struct wire_log_clear bad[] = {
        {.block = 3, .first = 0, .count = 1},
        {.block = UINT32_MAX, .first = 0, .count = 1},
        {.block = 0, .first = 0, .count = FIRST + 1},
        {.block = 0, .first = FIRST + 1, .count = 0},
        {.block = 0, .first = 64, .count = UINT64_MAX},
        {.block = 1, .first = UINT64_MAX, .count = 1},
    };
    struct wire_log_clear good = {.block = 0, .first = 64, .count = FIRST - 64};
    struct stage s;
    struct marks m;
    lib_stage_open(&s, false);
    expect_refusal(&s.d, WIRE_LOG_CLEAR, &good, -1, -EINVAL, NULL);
    start_log(&s, &m);
    expect_done(&s.d, WIRE_LOG_CLEAR, &good, -1, FERRY_GUEST_RUNNING);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        expect_refusal(&s.d, WIRE_LOG_CLEAR, &bad[i], -1, -EINVAL, "outside");
    }
    dirtymap_unmap(&m.map);
    lib_stage_close(&s);
}
END_TEST

/* ---- KVM ---- */

/* Real mode, at 0x1000: mov byte [0x5000], 1; hlt. */
static const uint8_t code[] = {0xc6, 0x06, 0x00, 0x50, 0x01, 0xf4};

struct machine {
    int kvm, vm, vcpu;
    struct kvm_run *run;
    size_t run_size;
    uint8_t *ram;
};

static bool machine_open(struct machine *m, int fd)
{
    m->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    m->vm = m->kvm < 0 ? -1 : ioctl(m->kvm, KVM_CREATE_VM, 0);
    if (m->vm < 0) {
        fd_close(&m->kvm);
        return false;
    }
    m->ram = mmap(NULL, FIRST * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(m->ram, MAP_FAILED);
    memcpy(m->ram + 0x1000, code, sizeof(code));
    struct kvm_userspace_memory_region region = {
        .slot = 3, .memory_size = FIRST * PAGE, .userspace_addr = (uint64_t)(uintptr_t)m->ram};
    ck_assert_int_eq(ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
    m->vcpu = ioctl(m->vm, KVM_CREATE_VCPU, 0);
    ck_assert_int_ge(m->vcpu, 0);
    m->run_size = (size_t)ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    m->run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
    ck_assert_ptr_ne(m->run, MAP_FAILED);
    return true;
}

static void machine_close(struct machine *m)
{
    munmap(m->run, m->run_size);
    close(m->vcpu);
    close(m->vm);
    close(m->kvm);
    munmap(m->ram, FIRST * PAGE);
}

/* The guest writes page 5. */
static void machine_run(struct machine *m)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};
    ck_assert_int_eq(ioctl(m->vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = sregs.cs.selector = 0;
    sregs.ds.base = sregs.ds.selector = 0;
    ck_assert_int_eq(ioctl(m->vcpu, KVM_SET_SREGS, &sregs), 0);
    ck_assert_int_eq(ioctl(m->vcpu, KVM_SET_REGS, &regs), 0);
    ck_assert_int_eq(ioctl(m->vcpu, KVM_RUN, 0), 0);
    ck_assert_uint_eq(m->run->exit_reason, KVM_EXIT_HLT);
}

static bool slot_logs(const struct machine *m)
{
    uint64_t bitmap[2];
    struct kvm_dirty_log log = {.slot = 3, .dirty_bitmap = bitmap};
    return ioctl(m->vm, KVM_GET_DIRTY_LOG, &log) == 0;
}

static void machine_stage(struct stage *s, struct machine *m)
{
    struct ferry_config config = {.size = sizeof(config),
                                  .name = "unit",
                                  .socket_path = s->d.addr.sun_path,
                                  .ops = &all_ops,
                                  .opaque = &s->v};
    struct ferry_ram_block block = {.size = sizeof(block),
                                    .name = "first",
                                    .fd = s->fds[0],
                                    .length = FIRST * PAGE,
                                    .hva = m->ram,
                                    .slot = 3};
    ck_assert_int_eq(ferry_new(&config, &s->f), 0);
    ck_assert_int_eq(ferry_add_ram(s->f, &block), 0);
    ck_assert_int_eq(ferry_start(s->f), -EINVAL); /* a slot, and no VM */
    ck_assert_int_eq(ferry_set_kvm(s->f, m->vm), 0);
    ck_assert_int_eq(ferry_set_kvm(s->f, m->vm), -EINVAL);
    ck_assert_int_eq(ferry_start(s->f), 0);
    take_introduction(&s->d, s->fds);
    ck_assert(s->d.hello.features & WIRE_FEATURE_KVM_LOG);
    ck_assert_uint_eq(s->d.blocks[0].has_slot, 1);
    welcome(&s->d);
}

/* The log after a sync: how many pages, and whether page 5 is one of them. */
static uint64_t sync_log(struct stage *s, const struct dirtymap *map, bool *fifth)
{
    const uint64_t *log = dirtymap_log(map, block_pages, 0);
    expect_done(&s->d, WIRE_LOG_SYNC, NULL, -1, FERRY_GUEST_RUNNING);
    *fifth = bits_test(log, 5);
    return bits_count(log, 0, FIRST);
}

static void log_a_write(struct stage *s, struct machine *m, const struct dirtymap *map)
{
    static const struct wire_log_clear all = {.block = 0, .first = 0, .count = FIRST};
    bool manual = s->d.hello.features & WIRE_FEATURE_MANUAL_PROTECT;
    bool fifth;
    sync_log(s, map, &fifth);
    expect_done(&s->d, WIRE_LOG_CLEAR, &all, -1, FERRY_GUEST_RUNNING);
    ck_assert_uint_eq(sync_log(s, map, &fifth), 0);
    machine_run(m);
    ck_assert_uint_ge(sync_log(s, map, &fifth), 1);
    ck_assert(fifth);
    if (manual) { /* until it is cleared it stays */
        ck_assert_uint_ge(sync_log(s, map, &fifth), 1);
        ck_assert(fifth);
        expect_done(&s->d, WIRE_LOG_CLEAR, &all, -1, FERRY_GUEST_RUNNING);
    }
    sync_log(s, map, &fifth);
    ck_assert(!fifth);
}

START_TEST(kvm_log)
{
    struct stage s = {.fds = {file_new(FIRST), -1, -1}};
    struct machine m;
    if (!machine_open(&m, s.fds[0])) {
        printf("SKIP: no usable /dev/kvm\n");
        close(s.fds[0]);
        return;
    }
    struct dirtymap map;
    vmm_init(&s.v);
    ferryd_init(&s.d);
    machine_stage(&s, &m);
    CLEANUP_CLOSE int fd = dirtymap_create(block_pages, 1);
    ck_assert_int_eq(dirtymap_map(&map, fd, block_pages, 1), 0);
    ck_assert(!slot_logs(&m));
    expect_done(&s.d, WIRE_LOG_START, NULL, fd, FERRY_GUEST_RUNNING);
    ck_assert(slot_logs(&m));
    log_a_write(&s, &m, &map);
    expect_done(&s.d, WIRE_LOG_STOP, NULL, -1, FERRY_GUEST_RUNNING);
    ck_assert(!slot_logs(&m));
    expect_done(&s.d, WIRE_LOG_START, NULL, fd, FERRY_GUEST_RUNNING);
    ck_assert(slot_logs(&m));
    fd_close(&s.d.sock); /* a lost ferryd's log is turned off */
    take_introduction(&s.d, s.fds);
    ck_assert(!slot_logs(&m));
    dirtymap_unmap(&map);
    ferry_free(s.f);
    machine_close(&m);
    ferryd_end(&s.d);
    close(s.fds[0]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/libferry/log");
    unit_add(suite, "guest/libferry/log/mark-dirty", mark_dirty);
    unit_add(suite, "guest/libferry/log/mark-from-threads", mark_from_threads);
    unit_add(suite, "guest/libferry/log/ends-with-the-connection", log_ends_with_the_connection);
    unit_add(suite, "guest/libferry/log/starts-again", log_starts_again);
    unit_add(suite, "guest/libferry/log/bad-maps", bad_maps);
    unit_add(suite, "guest/libferry/log/clear-ranges", clear_ranges);
    unit_add(suite, "guest/libferry/kvm/log", kvm_log);
    return unit_run(suite);
}
