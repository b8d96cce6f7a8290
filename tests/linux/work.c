// SPDX-License-Identifier: BSD-3-Clause
/* What the guest of the Linux tests does all the time, and how it checks itself: one static program.
 *
 *   work memory MIB [PAUSE_MS]  pages with patterns, each looked at in each pass, some written anew
 *   work clock                  clocks on all processors: none may go back
 *   work beat ADDRESS PORT      a datagram to the host every 10 ms, with its number
 *   work video FILE MIB         patterns in a display's memory
 *   work take MIB               memory that is written and given back at once
 *   work kinds                  what kind of page each is (/proc/kpageflags), in runs
 *
 * Each prints lines that begin with "ok" or "BAD". */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define WORDS (PAGE / sizeof(uint64_t))
#define MIB (1UL << 20)
#define SHARE 16 // one of so many pages is written anew in each pass
#define NS 1000000000LL

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A line at once: several programs write to the console. */
static void say(const char *format, ...)
{
    char line[256];
    va_list arguments;

    va_start(arguments, format);
    int length = vsnprintf(line, sizeof(line) - 1, format, arguments);
    va_end(arguments);
    line[length++] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)length) < 0) {
        exit(1);
    }
}

static void die(const char *what)
{
    say("BAD %s: %s", what, strerror(errno));
    exit(1);
}

static void rest(long ms)
{
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&time, NULL);
}

// ---- patterns ----

static uint64_t word_of(uint64_t page, uint64_t generation, uint64_t word)
{
    uint64_t mixed = (page + 1) * 0x9e3779b97f4a7c15ULL + generation * 0xbf58476d1ce4e5b9ULL;

    return mixed + word * 0x94d049bb133111ebULL;
}

static void write_page(volatile uint64_t *page, uint64_t number, uint64_t generation)
{
    for (uint64_t word = 0; word < WORDS; word++) {
        page[word] = word_of(number, generation, word);
    }
}

static int check_page(const char *what, volatile uint64_t *page, uint64_t number,
                      uint64_t generation)
{
    for (uint64_t word = 0; word < WORDS; word++) {
        uint64_t wanted = word_of(number, generation, word);
        if (page[word] != wanted) {
            say("BAD %s: page %" PRIu64 " word %" PRIu64 " is %" PRIx64 ", not %" PRIx64
                " (generation %" PRIu64 ")",
                what, number, word, page[word], wanted, generation);
            return 1;
        }
    }
    return 0;
}

/* For ever: looks at all pages, and writes some of them anew. */
static void mill(const char *what, volatile uint64_t *memory, uint64_t pages, long pause)
{
    uint32_t *generations = calloc(pages, sizeof(*generations));

    if (!generations) {
        die(what);
    }
    for (uint64_t number = 0; number < pages; number++) {
        write_page(memory + number * WORDS, number, 0);
    }
    for (uint64_t pass = 1;; pass++) {
        uint64_t bad = 0;
        for (uint64_t number = 0; number < pages; number++) {
            volatile uint64_t *page = memory + number * WORDS;
            bad += (uint64_t)check_page(what, page, number, generations[number]);
            if (number % SHARE == pass % SHARE) {
                write_page(page, number, ++generations[number]);
            }
        }
        if (bad) {
            say("BAD %s: %" PRIu64 " pages in pass %" PRIu64, what, bad, pass);
            exit(1);
        }
        say("ok %s %" PRIu64, what, pass);
        rest(pause);
    }
}

static void *map(int fd, uint64_t length, int flags)
{
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, 0);

    if (memory == MAP_FAILED) {
        die("mmap");
    }
    return memory;
}

static void memory(uint64_t mib, long pause)
{
    mill("memory", map(-1, mib * MIB, MAP_PRIVATE | MAP_ANONYMOUS), mib * MIB / PAGE, pause);
}

static void video(const char *path, uint64_t mib)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        die(path);
    }
    mill("video", map(fd, mib * MIB, MAP_SHARED), mib * MIB / PAGE, 300);
}

static void take(uint64_t mib)
{
    uint64_t *memory = map(-1, mib * MIB, MAP_PRIVATE | MAP_ANONYMOUS);

    for (uint64_t number = 0; number < mib * MIB / PAGE; number++) {
        write_page(memory + number * WORDS, number, 7);
    }
}

// ---- clocks ----

static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME};
static const char *const clock_names[] = {"monotonic", "boottime", "realtime"};
#define CLOCKS (sizeof(clocks) / sizeof(clocks[0]))

static int64_t now(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return time.tv_sec * NS + time.tv_nsec;
}

/* `last` is what any processor has seen: read before the clock is, so a clock may not be behind it. */
static void compare(_Atomic int64_t *last, size_t which)
{
    int64_t seen = *last;
    int64_t time = now(clocks[which]);

    if (time < seen) {
        say("BAD clock %s went back by %" PRId64 " ns", clock_names[which], seen - time);
    }
    while (time > seen && !__atomic_compare_exchange_n((int64_t *)last, &seen, time, 0,
                                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
}

static void watch_clocks(_Atomic int64_t *last, int cpu)
{
    int64_t before = now(CLOCK_MONOTONIC), said = before, longest = 0;
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set)) {
        die("sched_setaffinity");
    }
    for (uint64_t count = 1;; count++) {
        for (size_t which = 0; which < CLOCKS; which++) {
            compare(&last[which], which);
        }
        int64_t time = now(CLOCK_MONOTONIC);
        longest = time - before > longest ? time - before : longest;
        before = time;
        if (time - said >= NS) {
            say("ok clock cpu %d: %" PRIu64 " longest gap %" PRId64 " ms", cpu, count,
                longest / 1000000);
            said = time;
            longest = 0;
        }
        rest(5);
    }
}

static void watch(void)
{
    _Atomic int64_t *last = map(-1, PAGE, MAP_SHARED | MAP_ANONYMOUS);
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    for (int cpu = 1; cpu < cpus; cpu++) {
        if (fork() == 0) {
            watch_clocks(last, cpu);
        }
    }
    watch_clocks(last, 0);
}

// ---- network ----

static void beat(const char *address, uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int sock = socket(AF_INET, SOCK_DGRAM, 0);

    inet_pton(AF_INET, address, &to.sin_addr);
    for (uint64_t count = 1;; count++) {
        char text[32];
        int length = snprintf(text, sizeof(text), "%" PRIu64, count);
        // What the network does not take, the host misses: no fault of the guest's.
        (void)!sendto(sock, text, (size_t)length, 0, (struct sockaddr *)&to, sizeof(to));
        rest(10);
    }
}

// ---- kinds of pages ----

/* Lines "FIRST COUNT FLAGS", in pages and hexadecimal. */
static void kinds(void)
{
    int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
    uint64_t flags[512], last = 0, first = 0, page = 0;
    ssize_t got;

    if (fd < 0) {
        die("/proc/kpageflags");
    }
    while ((got = read(fd, flags, sizeof(flags))) > 0) {
        for (size_t i = 0; i < (size_t)got / sizeof(flags[0]); i++, page++) {
            if (page > 0 && flags[i] != last) {
                printf("%" PRIx64 " %" PRIx64 " %" PRIx64 "\n", first, page - first, last);
                first = page;
            }
            last = flags[i];
        }
    }
    printf("%" PRIx64 " %" PRIx64 " %" PRIx64 "\n", first, page - first, last);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    if (!strcmp(what, "memory") && argc > 2) {
        memory(strtoul(argv[2], NULL, 10), argc > 3 ? strtol(argv[3], NULL, 10) : 200);
    } else if (!strcmp(what, "clock")) {
        watch();
    } else if (!strcmp(what, "beat") && argc > 3) {
        beat(argv[2], (uint16_t)strtoul(argv[3], NULL, 10));
    } else if (!strcmp(what, "video") && argc > 3) {
        video(argv[2], strtoul(argv[3], NULL, 10));
    } else if (!strcmp(what, "take") && argc > 2) {
        take(strtoul(argv[2], NULL, 10));
    } else if (!strcmp(what, "kinds")) {
        kinds();
    } else {
        fprintf(stderr, "work: see its source\n");
        return 2;
    }
    return 0;
}
