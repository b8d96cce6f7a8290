/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/loop.h"

#include "common/cleanup.h"

#include <errno.h>
#include <event2/event.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>

struct work {
    void (*fn)(void *arg);
    void *arg;
    STAILQ_ENTRY(work) link;
};

STAILQ_HEAD(work_queue, work);

struct loop {
    struct event_base *base;
    struct event *wake_event;
    int wake_fd;
    pthread_mutex_t lock; /* queue */
    struct work_queue queue;
};

static void run_queue(struct loop *loop)
{
    struct work_queue todo = STAILQ_HEAD_INITIALIZER(todo);
    pthread_mutex_lock(&loop->lock);
    STAILQ_CONCAT(&todo, &loop->queue);
    pthread_mutex_unlock(&loop->lock);
    struct work *work;
    while ((work = STAILQ_FIRST(&todo))) {
        STAILQ_REMOVE_HEAD(&todo, link);
        work->fn(work->arg);
        free(work);
    }
}

static void on_wake(evutil_socket_t fd, short events, void *arg)
{
    uint64_t count;
    (void)events;
    ssize_t ignored = read(fd, &count, sizeof(count));
    (void)ignored;
    run_queue(arg);
}

struct loop *loop_new(struct error **errp)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (!loop) {
        abort();
    }
    pthread_mutex_init(&loop->lock, NULL);
    STAILQ_INIT(&loop->queue);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->base = event_base_new();
    if (loop->base && loop->wake_fd >= 0) {
        loop->wake_event =
            event_new(loop->base, loop->wake_fd, EV_READ | EV_PERSIST, on_wake, loop);
    }
    if (!loop->wake_event || event_add(loop->wake_event, NULL) < 0) {
        error_set(errp, "system-error", "No event loop: %s", strerror(errno));
        loop_free(loop);
        return NULL;
    }
    return loop;
}

void loop_free(struct loop *loop)
{
    if (loop->wake_event) {
        event_free(loop->wake_event);
    }
    if (loop->base) {
        event_base_free(loop->base);
    }
    fd_close(&loop->wake_fd);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

struct event_base *loop_base(struct loop *loop)
{
    return loop->base;
}

void loop_post(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    struct work *work = malloc(sizeof(*work));
    uint64_t one = 1;
    if (!work) {
        abort();
    }
    *work = (struct work){.fn = fn, .arg = arg};
    pthread_mutex_lock(&loop->lock);
    STAILQ_INSERT_TAIL(&loop->queue, work, link);
    pthread_mutex_unlock(&loop->lock);
    ssize_t ignored = write(loop->wake_fd, &one, sizeof(one));
    (void)ignored;
}

void loop_run(struct loop *loop)
{
    event_base_dispatch(loop->base);
    run_queue(loop);
}

void loop_quit(struct loop *loop)
{
    event_base_loopbreak(loop->base);
}
