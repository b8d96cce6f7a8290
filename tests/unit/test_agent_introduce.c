/* SPDX-License-Identifier: BSD-3-Clause */
/* How ferryd takes the introduction of a guest, or refuses it. */
#include "common/cleanup.h"
#include "tests/unit/agent_stage.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

START_TEST(introduction)
{
    struct stage s;
    struct stat a, b;
    agent_stage_open(&s);
    struct wire_hello hello = good_hello();
    hello.state = GUEST_GIVEN_AWAY;
    hello.released = 1;
    memcpy(hello.job, "0123456789abcdef", 16);
    introduce(&s, hello);
    expect_read(&s);
    ck_assert_uint_eq(vmm_receive(&s, WIRE_WELCOME, NULL).body.welcome.version, WIRE_VERSION);
    ck_assert_uint_eq(s.attached, 1);
    ck_assert_uint_eq(s.changes, 0);
    const struct guest *g = s.g;
    ck_assert_str_eq(g->name, "unit");
    ck_assert_uint_eq(g->nblocks, 2);
    ck_assert_uint_eq(g->ram, 80 * PAGE);
    ck_assert_int_eq(g->pid, getpid());
    ck_assert(g->released);
    ck_assert_mem_eq(g->job, hello.job, 16);
    ck_assert_str_eq(g->tracking, "kvm-manual-protect");
    ck_assert_int_eq(guest_get_state(s.g), GUEST_GIVEN_AWAY);
    ck_assert_str_eq(g->blocks[1].name, "high");
    ck_assert_uint_eq(g->blocks[1].offset, PAGE);
    ck_assert_uint_eq(g->blocks[1].length, 10 * PAGE);
    ck_assert_uint_eq(g->blocks[1].gpa, 70 * PAGE);
    fstat(g->blocks[1].fd, &a);
    fstat(s.files[1], &b);
    ck_assert_uint_eq(a.st_ino, b.st_ino);
    agent_stage_close(&s);
}
END_TEST

START_TEST(tracking)
{
    static const struct {
        uint32_t features;
        const char *tracking;
    } rows[] = {
        {0, "marks"},
        {WIRE_FEATURE_MANUAL_PROTECT, "marks"},
        {WIRE_FEATURE_KVM_LOG, "kvm-log"},
        {WIRE_FEATURE_KVM_LOG | WIRE_FEATURE_MANUAL_PROTECT | 1u << 31, "kvm-manual-protect"},
    };
    for (size_t i = 0; i < 4; i++) {
        struct stage s;
        agent_stage_open(&s);
        struct wire_hello hello = good_hello();
        hello.features = rows[i].features;
        introduce(&s, hello);
        expect_read(&s);
        ck_assert_str_eq(s.g->tracking, rows[i].tracking);
        agent_stage_close(&s);
    }
}
END_TEST

/* A newer libferry that still speaks our version is welcome. */
START_TEST(newer_version)
{
    struct stage s;
    agent_stage_open(&s);
    struct wire_hello hello = good_hello();
    hello.version = 1000;
    introduce(&s, hello);
    expect_read(&s);
    ck_assert_uint_eq(vmm_receive(&s, WIRE_WELCOME, NULL).body.welcome.version, WIRE_VERSION);
    agent_stage_close(&s);
}
END_TEST

/* What the VMM has sent is refused, with the error's text for both. */
static void expect_refused(struct stage *s, const char *code, const char *part)
{
    struct error *err = NULL;
    ck_assert(!read_all(s, &err));
    ck_assert_ptr_nonnull(err);
    struct wire_message msg = vmm_receive(s, WIRE_REFUSE, NULL);
    ck_assert_str_eq(msg.body.refuse.text, err->text);
    expect_error(err, code, part);
    agent_stage_close(s);
}

static void hello_refused(struct wire_hello hello, const char *code, const char *part)
{
    struct stage s;
    agent_stage_open(&s);
    vmm_send(&s, WIRE_HELLO, 0, &hello, -1);
    expect_refused(&s, code, part);
}

START_TEST(hello_refusals)
{
    static const char *const names[] = {"",     "a b",  "a\"b", "a'b",
                                        "a\\b", "a\nb", "\x7f", "\xc3\xa9"};
    struct wire_hello h = good_hello();
    h.magic++;
    hello_refused(h, "guest-protocol", "libferry's protocol");
    h = good_hello();
    h.version = 0;
    h.version_min = 0;
    hello_refused(h, "guest-version", "versions 0 to 0");
    h = good_hello();
    h.version = h.version_min = WIRE_VERSION + 1;
    hello_refused(h, "guest-version", NULL);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        h = good_hello();
        strcpy(h.name, names[i]);
        hello_refused(h, "guest-invalid", "name");
    }
    h = good_hello();
    memset(h.name, 'a', sizeof(h.name)); /* without an end */
    hello_refused(h, "guest-invalid", "name");
    h = good_hello();
    h.page_size = 65536;
    hello_refused(h, "guest-invalid", "65536");
    h = good_hello();
    h.blocks = 0;
    hello_refused(h, "guest-invalid", "0 RAM blocks");
    h.blocks = GUEST_BLOCKS_MAX + 1;
    hello_refused(h, "guest-invalid", "65 RAM blocks");
    h = good_hello();
    h.state = WIRE_STATES;
    hello_refused(h, "guest-invalid", NULL);
}
END_TEST

/* A hello, a good first block, and this as the second. */
static void block_refused(struct wire_block block, int fd, const char *part)
{
    struct stage s;
    agent_stage_open(&s);
    struct wire_hello hello = good_hello();
    struct wire_block first = good_block(0);
    vmm_send(&s, WIRE_HELLO, 0, &hello, -1);
    vmm_send(&s, WIRE_BLOCK, 0, &first, s.files[0]);
    vmm_send(&s, WIRE_BLOCK, 0, &block, fd == -2 ? s.files[1] : fd);
    expect_refused(&s, "guest-invalid", part);
}

START_TEST(block_refusals)
{
    const int good = -2;
    struct wire_block b = good_block(1);
    b.name[0] = '\0';
    block_refused(b, good, "printable name");
    b = good_block(1);
    memset(b.name, 'a', sizeof(b.name));
    block_refused(b, good, "printable name");
    b = good_block(1);
    strcpy(b.name, "low");
    block_refused(b, good, "two RAM blocks named 'low'");
    b = good_block(1);
    b.gpa = 69 * PAGE;
    block_refused(b, good, "overlap");
    b = good_block(1);
    b.length = 0;
    block_refused(b, good, "empty");
    b.length = PAGE + 1;
    block_refused(b, good, "not aligned");
    b = good_block(1);
    b.offset = 8;
    block_refused(b, good, "not aligned");
    b = good_block(1);
    b.gpa += 8;
    block_refused(b, good, "not aligned");
    b = good_block(1);
    b.length = 1ULL << 46; /* with the first one's */
    block_refused(b, good, "past");
    b.length = -PAGE;
    block_refused(b, good, "past");
    b = good_block(1);
    b.offset = -PAGE;
    block_refused(b, good, "past");
    b = good_block(1);
    b.gpa = -PAGE;
    block_refused(b, good, "past");
    b = good_block(1);
    b.offset = 91 * PAGE;
    block_refused(b, good, "ends at byte");
}
END_TEST

START_TEST(block_files)
{
    int ends[2];
    struct wire_block b = good_block(1);
    block_refused(b, -1, "memory file");
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    block_refused(b, ends[0], "memory file");
    block_refused(b, ends[1], "memory file");
    CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    block_refused(b, null, "memory file");
    CLEANUP_CLOSE int fd = file_new(100);
    char path[40];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    CLEANUP_CLOSE int readonly = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(readonly, 0);
    block_refused(b, readonly, "memory file");
    close(ends[0]);
    close(ends[1]);
}
END_TEST

static void order_refused(const uint32_t *types, size_t count)
{
    struct stage s;
    agent_stage_open(&s);
    int blocks = 0;
    for (size_t i = 0; i < count; i++) {
        struct wire_hello hello = good_hello();
        struct wire_block block = good_block(blocks % 2);
        union wire_body other = {0};
        if (types[i] == WIRE_HELLO) {
            vmm_send(&s, WIRE_HELLO, 0, &hello, -1);
        } else if (types[i] == WIRE_BLOCK) {
            vmm_send(&s, WIRE_BLOCK, 0, &block, s.files[blocks++]);
        } else {
            vmm_send(&s, types[i], 0, &other, -1);
        }
    }
    expect_refused(&s, "guest-protocol", "was due");
}

#define ORDER_REFUSED(...)                                                                         \
    order_refused((const uint32_t[]){__VA_ARGS__},                                                 \
                  sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

START_TEST(order_refusals)
{
    ORDER_REFUSED(WIRE_BLOCK);
    ORDER_REFUSED(WIRE_READY);
    ORDER_REFUSED(WIRE_REPLY);
    ORDER_REFUSED(WIRE_STATE);
    ORDER_REFUSED(WIRE_WELCOME);
    ORDER_REFUSED(WIRE_BLOCKER);
    ORDER_REFUSED(WIRE_HELLO, WIRE_HELLO);
    ORDER_REFUSED(WIRE_HELLO, WIRE_BLOCK, WIRE_BLOCKER);
    ORDER_REFUSED(WIRE_HELLO, WIRE_READY);
    ORDER_REFUSED(WIRE_HELLO, WIRE_BLOCK, WIRE_READY);
    ORDER_REFUSED(WIRE_HELLO, WIRE_BLOCK, WIRE_BLOCK, WIRE_BLOCK);
    ORDER_REFUSED(WIRE_HELLO, WIRE_BLOCK, WIRE_BLOCK, WIRE_STATE);
}
END_TEST

START_TEST(owner_refuses)
{
    struct stage s;
    agent_stage_open(&s);
    s.refusing = true;
    introduce(&s, good_hello());
    expect_refused(&s, "guest-exists", "there is one already");
}
END_TEST

static unsigned count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;
    while (readdir(dir)) {
        count++;
    }
    closedir(dir);
    return count;
}

/* Sends these with a descriptor each, the last of which is refused. */
static void waste_descriptors(const uint32_t *types, size_t count)
{
    struct stage s;
    struct error *err = NULL;
    agent_stage_open(&s);
    for (size_t i = 0; i < count; i++) {
        struct wire_hello hello = good_hello();
        union wire_body body = {0};
        body.hello = types[i] == WIRE_HELLO ? hello : body.hello;
        vmm_send(&s, types[i], 0, &body, s.files[0]);
    }
    ck_assert(!read_all(&s, &err));
    error_free(err);
    agent_stage_close(&s);
}

/* Descriptors that came and were not wanted are closed. */
START_TEST(unwanted_descriptors)
{
    unsigned before = count_fds();
    waste_descriptors((const uint32_t[]){WIRE_HELLO, WIRE_READY}, 2);
    waste_descriptors((const uint32_t[]){WIRE_HELLO, WIRE_BLOCK}, 2); /* an empty block */
    waste_descriptors((const uint32_t[]){WIRE_REPLY}, 1);
    ck_assert_uint_eq(count_fds(), before);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("guest/agent/introduce");
    unit_add(suite, "guest/agent/introduce/all", introduction);
    unit_add(suite, "guest/agent/introduce/tracking", tracking);
    unit_add(suite, "guest/agent/introduce/newer-version", newer_version);
    unit_add(suite, "guest/agent/introduce/hello-refused", hello_refusals);
    unit_add(suite, "guest/agent/introduce/block-refused", block_refusals);
    unit_add(suite, "guest/agent/introduce/block-files", block_files);
    unit_add(suite, "guest/agent/introduce/order-refused", order_refusals);
    unit_add(suite, "guest/agent/introduce/owner-refuses", owner_refuses);
    unit_add(suite, "guest/agent/introduce/unwanted-descriptors", unwanted_descriptors);
    return unit_run(suite);
}
