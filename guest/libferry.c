/* SPDX-License-Identifier: BSD-3-Clause */
/* The public functions of libferry: what the VMM's own threads call. */
#include "guest/libferry_internal.h"

#include "common/bits.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/ferryd/guests.sock"

/* Members past what the caller's struct has read as zero: older VMMs, newer library. */
bool ferry_copy_sized(void *to, size_t room, const void *from, size_t size)
{
    if (size < sizeof(size_t)) {
        return false;
    }
    memset(to, 0, room);
    memcpy(to, from, size < room ? size : room);
    return true;
}

bool ferry_name_is_good(const char *name)
{
    return name && name[0] && strlen(name) <= FERRY_NAME_MAX;
}

static bool ops_are_complete(const struct ferry_ops *ops)
{
    return ops->stop && ops->resume && ops->save_state && ops->load_state;
}

static int init_locks(struct ferry *f)
{
    pthread_mutex_init(&f->lock, NULL);
    pthread_rwlock_init(&f->map_lock, NULL);
    f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return f->wake_fd < 0 ? -errno : 0;
}

int ferry_new(const struct ferry_config *config, struct ferry **out)
{
    struct ferry_config c;
    struct ferry_ops ops;
    *out = NULL;
    if (!ferry_copy_sized(&c, sizeof(c), config, config->size) || !c.ops ||
        !ferry_name_is_good(c.name) || !ferry_copy_sized(&ops, sizeof(ops), c.ops, c.ops->size) ||
        !ops_are_complete(&ops)) {
        return -EINVAL;
    }
    struct ferry *f = calloc(1, sizeof(*f));
    if (!f) {
        return -ENOMEM;
    }
    f->vm_fd = f->sock = f->wake_fd = -1;
    f->ops = ops;
    f->opaque = c.opaque;
    f->plain_log = c.plain_log;
    f->state = c.incoming ? FERRY_GUEST_INCOMING : FERRY_GUEST_RUNNING;
    f->name = strdup(c.name);
    f->socket_path = strdup(c.socket_path ? c.socket_path : DEFAULT_SOCKET);
    int err = init_locks(f);
    if (!f->name || !f->socket_path) {
        err = -ENOMEM;
    }
    if (err) {
        ferry_free(f);
        return err;
    }
    *out = f;
    return 0;
}

static bool overlaps(const struct ferry_block *a, const struct ferry_ram_block *b)
{
    return a->gpa < b->gpa + b->length && b->gpa < a->gpa + a->length;
}

static int check_block(const struct ferry *f, const struct ferry_ram_block *b)
{
    if (!ferry_name_is_good(b->name) || !b->length ||
        (b->offset | b->length | b->gpa) % FERRY_PAGE_SIZE || b->gpa + b->length < b->gpa ||
        (b->slot != FERRY_NO_SLOT && !b->hva)) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < f->nblocks; i++) {
        if (overlaps(&f->blocks[i], b) || strcmp(f->blocks[i].name, b->name) == 0) {
            return -EINVAL;
        }
    }
    return f->nblocks == FERRY_BLOCKS_MAX ? -E2BIG : 0;
}

int ferry_add_ram(struct ferry *f, const struct ferry_ram_block *block)
{
    struct ferry_ram_block b;
    if (f->started || !ferry_copy_sized(&b, sizeof(b), block, block->size)) {
        return -EINVAL;
    }
    int err = check_block(f, &b);
    if (err) {
        return err;
    }
    int fd = fcntl(b.fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    struct ferry_block *mine = &f->blocks[f->nblocks];
    *mine = (struct ferry_block){
        .fd = fd,
        .offset = b.offset,
        .length = b.length,
        .gpa = b.gpa,
        .has_slot = b.slot != FERRY_NO_SLOT,
        .slot = {.slot = b.slot,
                 .flags = b.kvm_flags,
                 .gpa = b.gpa,
                 .length = b.length,
                 .hva = (uint64_t)(uintptr_t)b.hva},
    };
    strcpy(mine->name, b.name);
    f->pages[f->nblocks++] = b.length / FERRY_PAGE_SIZE;
    return 0;
}

int ferry_set_kvm(struct ferry *f, int vm_fd)
{
    if (f->started || f->vm_fd >= 0) {
        return -EINVAL;
    }
    f->vm_fd = fcntl(vm_fd, F_DUPFD_CLOEXEC, 0);
    if (f->vm_fd < 0) {
        return -errno;
    }
    f->manual_protect = !f->plain_log && kvmlog_enable_manual_protect(f->vm_fd);
    return 0;
}

int ferry_start(struct ferry *f)
{
    if (f->started) {
        return -EALREADY;
    }
    bool slots = false;
    for (unsigned i = 0; i < f->nblocks; i++) {
        slots = slots || f->blocks[i].has_slot;
    }
    if (!f->nblocks || (slots && f->vm_fd < 0)) {
        return -EINVAL;
    }
    ferry_size_disks(f);
    /* The VMM's signals are for its own threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&f->thread, NULL, ferry_thread, f);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    f->started = !err;
    return err ? -EAGAIN : 0;
}

void ferry_wake(struct ferry *f)
{
    uint64_t one = 1;
    ssize_t ignored = write(f->wake_fd, &one, sizeof(one));
    (void)ignored;
}

void ferry_free(struct ferry *f)
{
    if (!f) {
        return;
    }
    if (f->started) {
        pthread_mutex_lock(&f->lock);
        f->stopping = true;
        pthread_mutex_unlock(&f->lock);
        ferry_wake(f);
        pthread_join(f->thread, NULL);
    }
    for (unsigned i = 0; i < f->nblocks; i++) {
        close(f->blocks[i].fd);
    }
    ferry_close_disks(f);
    if (f->vm_fd >= 0) {
        close(f->vm_fd);
    }
    if (f->wake_fd >= 0) {
        close(f->wake_fd);
    }
    pthread_rwlock_destroy(&f->map_lock);
    pthread_mutex_destroy(&f->lock);
    free(f->name);
    free(f->socket_path);
    free(f);
}

void ferry_mark_bits(struct ferry *f, unsigned index, uint64_t first, uint64_t end)
{
    _Atomic uint64_t *marks = dirtymap_marks(&f->map, f->pages, index);
    for (size_t w = first / BITS_PER_WORD; (uint64_t)w * BITS_PER_WORD < end; w++) {
        atomic_fetch_or(&marks[w], bits_mask_in_word(w, first, end));
    }
}

static void mark_block(struct ferry *f, unsigned index, uint64_t gpa, uint64_t end)
{
    const struct ferry_block *b = &f->blocks[index];
    uint64_t from = gpa > b->gpa ? gpa - b->gpa : 0;
    uint64_t to = (end < b->gpa + b->length ? end : b->gpa + b->length) - b->gpa;
    uint64_t first = from / FERRY_PAGE_SIZE;
    ferry_mark_bits(f, index, first, (to + FERRY_PAGE_SIZE - 1) / FERRY_PAGE_SIZE);
}

/*
 * The lock is taken even when no map is there: its atomic instruction orders the VMM's write before
 * the look at the map, so that a write is either marked or made before LOG_START was answered.
 */
void ferry_mark_dirty(struct ferry *f, uint64_t gpa, uint64_t length)
{
    uint64_t end = gpa + length < gpa ? UINT64_MAX : gpa + length;
    pthread_rwlock_rdlock(&f->map_lock);
    for (unsigned i = 0; f->map.base && i < f->nblocks; i++) {
        const struct ferry_block *b = &f->blocks[i];
        if (gpa < b->gpa + b->length && b->gpa < end) {
            mark_block(f, i, gpa, end);
        }
    }
    pthread_rwlock_unlock(&f->map_lock);
}

/* A guest that a migration has stopped is paused when it comes back from it. */
void ferry_guest_paused(struct ferry *f)
{
    pthread_mutex_lock(&f->lock);
    if (f->state == FERRY_GUEST_STOPPED) {
        f->was_paused = true;
    } else if (f->state == FERRY_GUEST_RUNNING) {
        f->state = FERRY_GUEST_PAUSED;
        f->tell_state = true;
    }
    pthread_mutex_unlock(&f->lock);
    ferry_wake(f);
}

int ferry_guest_running(struct ferry *f)
{
    pthread_mutex_lock(&f->lock);
    bool ours = !f->busy && (f->state == FERRY_GUEST_RUNNING || f->state == FERRY_GUEST_PAUSED);
    if (ours && f->state == FERRY_GUEST_PAUSED) {
        f->state = FERRY_GUEST_RUNNING;
        f->tell_state = true;
    }
    pthread_mutex_unlock(&f->lock);
    ferry_wake(f);
    return ours ? 0 : -EBUSY;
}

void ferry_guest_shutdown(struct ferry *f)
{
    pthread_mutex_lock(&f->lock);
    f->tell_shutdown = true;
    pthread_mutex_unlock(&f->lock);
    ferry_wake(f);
}

enum ferry_guest_state ferry_guest_state(struct ferry *f)
{
    pthread_mutex_lock(&f->lock);
    enum ferry_guest_state state = f->state;
    pthread_mutex_unlock(&f->lock);
    return state;
}

void ferry_set_state(struct ferry *f, enum ferry_guest_state state)
{
    pthread_mutex_lock(&f->lock);
    f->state = state;
    pthread_mutex_unlock(&f->lock);
}

void ferry_set_error(struct ferry *f, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(f->error, sizeof(f->error), format, args);
    va_end(args);
}

const char *ferry_version(void)
{
    return FERRY_VERSION;
}
