/* SPDX-License-Identifier: BSD-3-Clause */
/* Scope attributes: what a function opened is closed on every way out of it. */
#ifndef FERRY_COMMON_CLEANUP_H
#define FERRY_COMMON_CLEANUP_H

#include "common/error.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_ptr(void *p)
{
    free(*(void **)p);
}

static inline void cleanup_close_fd(const int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
}

static inline void cleanup_error_ptr(struct error **err)
{
    error_free(*err);
}

static inline void cleanup_unlock_mutex(pthread_mutex_t **lock)
{
    pthread_mutex_unlock(*lock);
}

#define CLEANUP_FREE  __attribute__((cleanup(cleanup_free_ptr)))
#define CLEANUP_CLOSE __attribute__((cleanup(cleanup_close_fd)))
#define CLEANUP_ERROR __attribute__((cleanup(cleanup_error_ptr)))

/* Holds `lock` until the end of the enclosing scope; one per scope. */
#define LOCK_SCOPE(lock)                                                                           \
    __attribute__((cleanup(cleanup_unlock_mutex))) pthread_mutex_t *scope_lock_ = (lock);          \
    pthread_mutex_lock(scope_lock_)

/* Gives up ownership of an fd variable: returns it and leaves -1 behind. */
static inline int fd_steal(int *fd)
{
    int stolen = *fd;
    *fd = -1;
    return stolen;
}

static inline void fd_close(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

#endif
