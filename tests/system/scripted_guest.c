/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The guest of scripted-vmm: a background writer in the place of vCPUs, and libferry's callbacks,
 * which do what the script told them to.  Each callback that happens is an "event" line on stdout.
 */
#include "scripted_guest.h"

#include "scripted_state.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ull
#define PERIOD_NS 1000000ull

void say(const char *format, ...)
{
    char line[512];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    printf("%s\n", line);
    fflush(stdout);
}

/* The writer. */

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

static void nap(uint64_t ns)
{
    struct timespec time = {.tv_sec = (time_t)(ns / SECOND_NS), .tv_nsec = (long)(ns % SECOND_NS)};

    nanosleep(&time, NULL);
}

static void begin_writing(struct guest *guest)
{
    guest->started = now_ns();
    guest->done = 0;
}

/* What is due by now, at most 256 pages; the throttle takes its part off. */
static uint64_t due_pages(const struct guest *guest)
{
    uint64_t due = 256;

    if (guest->work.rate != 0) {
        uint64_t rate = guest->work.rate * (100 - guest->throttle) / 100;
        uint64_t all = (now_ns() - guest->started) / 1000 * rate / 1000000;
        due = all > guest->done ? all - guest->done : 0;
    }
    return due > 256 ? 256 : due;
}

static void write_pages(const struct work *work, uint64_t from, uint64_t count)
{
    for (uint64_t i = from; i < from + count; i++) {
        ram_count_page(work->target, work->first_page + i % work->pages, i + 1, work->page_bytes);
    }
}

/* One turn, with the lock held but for the writing itself. */
static void writer_turn(struct guest *guest)
{
    uint64_t count = due_pages(guest);
    uint64_t from = guest->written;
    unsigned throttle = guest->throttle;
    uint64_t began = now_ns();

    guest->busy = true;
    pthread_mutex_unlock(&guest->lock);
    write_pages(&guest->work, from, count);
    uint64_t took = now_ns() - began;
    pthread_mutex_lock(&guest->lock);
    guest->busy = false;
    guest->done += count;
    guest->written += count;
    pthread_cond_broadcast(&guest->changed);
    pthread_mutex_unlock(&guest->lock);
    if (throttle > 0 && guest->work.rate == 0) {
        nap(took * throttle / (100 - throttle));
    } else if (count == 0) {
        nap(PERIOD_NS);
    }
    pthread_mutex_lock(&guest->lock);
}

static bool may_write(const struct guest *guest)
{
    return guest->writing && !guest->stopped;
}

static void *writer_main(void *opaque)
{
    struct guest *guest = opaque;

    pthread_mutex_lock(&guest->lock);
    while (!guest->ending) {
        if (!may_write(guest)) {
            pthread_cond_wait(&guest->changed, &guest->lock);
            continue;
        }
        begin_writing(guest);
        while (may_write(guest) && !guest->ending) {
            writer_turn(guest);
        }
    }
    pthread_mutex_unlock(&guest->lock);
    return NULL;
}

static void wait_until_quiet(struct guest *guest)
{
    while (guest->busy) {
        pthread_cond_wait(&guest->changed, &guest->lock);
    }
}

int guest_dirty(struct guest *guest, const struct work *work)
{
    uint64_t all = ram_pages(work->target);
    int rc = 0;

    if (work->pages == 0 || work->first_page >= all || work->pages > all - work->first_page ||
        work->page_bytes == 0 || work->page_bytes > RAM_PAGE ||
        work->page_bytes % sizeof(uint64_t) != 0) {
        return -ERANGE;
    }
    pthread_mutex_lock(&guest->lock);
    if (guest->writing) {
        rc = -EBUSY;
    } else {
        guest->work = *work;
        guest->writing = true;
        begin_writing(guest); /* the thread may not have noticed that it was stopped */
        pthread_cond_broadcast(&guest->changed);
    }
    pthread_mutex_unlock(&guest->lock);
    return rc;
}

uint64_t guest_dirty_stop(struct guest *guest)
{
    pthread_mutex_lock(&guest->lock);
    guest->writing = false;
    wait_until_quiet(guest);
    uint64_t written = guest->written;
    pthread_mutex_unlock(&guest->lock);
    return written;
}

void guest_pause(struct guest *guest, bool paused)
{
    if (!paused && ferry_guest_running(guest->ferry) != 0) {
        return; /* a migration has the guest */
    }
    pthread_mutex_lock(&guest->lock);
    guest->stopped = paused;
    wait_until_quiet(guest);
    pthread_cond_broadcast(&guest->changed);
    pthread_mutex_unlock(&guest->lock);
    if (paused) {
        ferry_guest_paused(guest->ferry);
    }
}

/* What the script wants of the callbacks. */

void guest_behave(struct guest *guest, enum callback which, enum behaviour how)
{
    pthread_mutex_lock(&guest->lock);
    guest->behaviours[which] = how;
    pthread_cond_broadcast(&guest->changed);
    pthread_mutex_unlock(&guest->lock);
}

void guest_set_state_size(struct guest *guest, uint64_t bytes)
{
    pthread_mutex_lock(&guest->lock);
    guest->state_size = bytes;
    pthread_mutex_unlock(&guest->lock);
}

/* Hangs as long as it is told to; 0 or the failure the script asked for. */
static int obey(struct guest *guest, enum callback which)
{
    pthread_mutex_lock(&guest->lock);
    while (guest->behaviours[which] == BEHAVE_HANG && !guest->ending) {
        pthread_cond_wait(&guest->changed, &guest->lock);
    }
    bool fails = guest->behaviours[which] == BEHAVE_FAIL;
    pthread_mutex_unlock(&guest->lock);
    if (fails) {
        ferry_set_error(guest->ferry, "the script told this callback to fail");
        return -EIO;
    }
    return 0;
}

/* libferry's callbacks. */

static int on_stop(void *opaque)
{
    struct guest *guest = opaque;

    say("event stop");
    int rc = obey(guest, CALLBACK_STOP);
    if (rc != 0) {
        return rc;
    }
    pthread_mutex_lock(&guest->lock);
    guest->stopped = true;
    wait_until_quiet(guest);
    pthread_mutex_unlock(&guest->lock);
    return 0;
}

static int on_resume(void *opaque)
{
    struct guest *guest = opaque;

    say("event resume");
    int rc = obey(guest, CALLBACK_RESUME);
    if (rc != 0) {
        return rc;
    }
    pthread_mutex_lock(&guest->lock);
    guest->stopped = false;
    pthread_cond_broadcast(&guest->changed);
    pthread_mutex_unlock(&guest->lock);
    return 0;
}

static int on_save(void *opaque, int fd)
{
    struct guest *guest = opaque;

    pthread_mutex_lock(&guest->lock);
    uint64_t size = guest->state_size;
    uint64_t written = guest->written;
    pthread_mutex_unlock(&guest->lock);
    say("event save %llu", (unsigned long long)size);
    int rc = obey(guest, CALLBACK_SAVE);
    return rc == 0 ? state_put(fd, size, written) : rc;
}

static int on_load(void *opaque, int fd)
{
    struct guest *guest = opaque;
    struct stat info = {0};
    uint64_t written = 0;

    fstat(fd, &info);
    say("event load %llu", (unsigned long long)info.st_size);
    int rc = obey(guest, CALLBACK_LOAD);
    if (rc != 0) {
        return rc;
    }
    rc = state_check(fd, &written);
    if (rc != 0) {
        ferry_set_error(guest->ferry, "the device state is damaged: %s", strerror(-rc));
        return rc;
    }
    pthread_mutex_lock(&guest->lock);
    guest->written = written;
    pthread_mutex_unlock(&guest->lock);
    return 0;
}

static int on_throttle(void *opaque, unsigned percent)
{
    struct guest *guest = opaque;

    say("event throttle %u", percent);
    pthread_mutex_lock(&guest->lock);
    guest->throttle = percent > 99 ? 99 : percent;
    begin_writing(guest); /* what is due from now on */
    pthread_mutex_unlock(&guest->lock);
    return 0;
}

static void on_released(void *opaque)
{
    (void)opaque;
    say("event released");
}

static void on_attached(void *opaque)
{
    (void)opaque;
    say("event attached");
}

static void on_detached(void *opaque, const char *reason)
{
    (void)opaque;
    say("event detached %s", reason);
}

static void on_announce(void *opaque)
{
    say("event announce");
    obey(opaque, CALLBACK_ANNOUNCE);
}

static int on_wakeup(void *opaque)
{
    say("event wakeup");
    return obey(opaque, CALLBACK_WAKEUP);
}

static void on_migration(void *opaque, enum ferry_migration_status status, bool outgoing)
{
    static const char *const names[] = {
        [FERRY_MIGRATION_SETUP] = "setup",
        [FERRY_MIGRATION_ACTIVE] = "active",
        [FERRY_MIGRATION_PRE_SWITCHOVER] = "pre-switchover",
        [FERRY_MIGRATION_DEVICE] = "device",
        [FERRY_MIGRATION_COMPLETED] = "completed",
        [FERRY_MIGRATION_FAILED] = "failed",
        [FERRY_MIGRATION_CANCELLING] = "cancelling",
        [FERRY_MIGRATION_CANCELLED] = "cancelled",
    };

    (void)opaque;
    say("event migration %s %s", names[status], outgoing ? "outgoing" : "incoming");
}

static const struct ferry_ops ops = {
    .size = sizeof(struct ferry_ops),
    .stop = on_stop,
    .resume = on_resume,
    .save_state = on_save,
    .load_state = on_load,
    .throttle = on_throttle,
    .released = on_released,
    .attached = on_attached,
    .detached = on_detached,
    .announce = on_announce,
    .wakeup = on_wakeup,
    .migration = on_migration,
};

/* Its life. */

int guest_init(struct guest *guest, bool stopped)
{
    *guest = (struct guest){.stopped = stopped, .state_size = RAM_PAGE, .disks = {.disks = true}};
    pthread_mutex_init(&guest->lock, NULL);
    pthread_cond_init(&guest->changed, NULL);
    int rc = pthread_create(&guest->writer, NULL, writer_main, guest);
    guest->writer_started = rc == 0;
    return -rc;
}

int guest_start(struct guest *guest, const struct ferry_config *config)
{
    struct ferry_config own = *config;

    own.ops = &ops;
    own.opaque = guest;
    int rc = ferry_new(&own, &guest->ferry);
    for (unsigned i = 0; i < guest->ram.count && rc == 0; i++) {
        const struct ram_block *block = &guest->ram.blocks[i];
        struct ferry_ram_block described = {
            .size = sizeof(described),
            .name = block->name,
            .fd = block->fd,
            .length = block->length,
            .gpa = block->gpa,
            .slot = FERRY_NO_SLOT,
        };
        rc = ferry_add_ram(guest->ferry, &described);
    }
    for (unsigned i = 0; i < guest->disks.count && rc == 0; i++) {
        const struct ram_block *disk = &guest->disks.blocks[i];
        struct ferry_disk described = {
            .size = sizeof(described),
            .name = disk->name,
            .fd = disk->fd,
            .length = disk->length,
            .base_fd = disk->base_fd,
            .has_base = disk->base_fd >= 0,
        };
        rc = ferry_add_disk(guest->ferry, &described);
    }
    if (rc == 0) {
        guest->ram.ferry = guest->disks.ferry = guest->ferry;
        rc = ferry_start(guest->ferry);
    }
    return rc;
}

void guest_free(struct guest *guest)
{
    pthread_mutex_lock(&guest->lock);
    guest->ending = true;
    pthread_cond_broadcast(&guest->changed);
    pthread_mutex_unlock(&guest->lock);
    if (guest->writer_started) {
        pthread_join(guest->writer, NULL);
    }
    ferry_free(guest->ferry);
    ram_free(&guest->ram);
    ram_free(&guest->disks);
    pthread_cond_destroy(&guest->changed);
    pthread_mutex_destroy(&guest->lock);
}
