/* SPDX-License-Identifier: BSD-3-Clause */
#include "common/wait.h"

#include "common/clock.h"

#include <errno.h>
#include <string.h>

static void set_cancelled(struct error **errp)
{
    error_set(errp, "cancelled", "The migration was cancelled");
}

/* poll() that goes on after signals, until `deadline_ns` (0: none). */
static int poll_until(struct pollfd *fds, nfds_t count, uint64_t deadline_ns)
{
    for (;;) {
        struct timespec left;
        struct timespec *timeout = NULL;
        if (deadline_ns) {
            uint64_t now = clock_ns();
            uint64_t ns = deadline_ns > now ? deadline_ns - now : 0;
            left = (struct timespec){.tv_sec = (time_t)(ns / NS_PER_SEC),
                                     .tv_nsec = (long)(ns % NS_PER_SEC)};
            timeout = &left;
        }
        int n = ppoll(fds, count, timeout, NULL);
        if (n >= 0 || errno != EINTR) {
            return n;
        }
    }
}

int wait_any(struct pollfd *fds, unsigned count, uint64_t deadline_ns, const struct wait *w,
             struct error **errp)
{
    struct pollfd all[WAIT_ANY_MAX + 1] = {{.fd = w->cancel_fd, .events = POLLIN}};
    memcpy(all + 1, fds, count * sizeof(*fds));
    int n = poll_until(all, count + 1, deadline_ns);
    if (n < 0) {
        error_set(errp, "system-error", "poll: %s", strerror(errno));
        return -1;
    }
    if (all[0].revents) {
        set_cancelled(errp);
        return -1;
    }
    memcpy(fds, all + 1, count * sizeof(*fds));
    return n > 0;
}

int wait_any_until(struct pollfd *fds, unsigned count, uint64_t deadline_ns, const struct wait *w,
                   struct error **errp)
{
    int n = wait_any(fds, count, deadline_ns, w, errp);
    return n > 0 && deadline_ns && clock_ns() >= deadline_ns ? 0 : n;
}

void wait_set_timeout(const struct wait *w, struct error **errp)
{
    error_set(errp, "timeout", "No answer from %s%s%s%s within %d ms", w->what, w->peer ? " (" : "",
              w->peer ? w->peer : "", w->peer ? ")" : "", w->timeout_ms);
}

bool wait_fd(int fd, short events, const struct wait *w, struct error **errp)
{
    struct pollfd one = {.fd = fd, .events = events};
    uint64_t deadline = w->timeout_ms < 0 ? 0 : clock_ns() + (uint64_t)w->timeout_ms * NS_PER_MS;
    int n = wait_any(&one, 1, deadline, w, errp);
    if (n == 0) {
        wait_set_timeout(w, errp);
    }
    return n > 0;
}

bool wait_ns(uint64_t ns, const struct wait *w, struct error **errp)
{
    struct pollfd fd = {.fd = w->cancel_fd, .events = POLLIN};
    poll_until(&fd, 1, clock_ns() + ns);
    if (fd.revents) {
        set_cancelled(errp);
        return false;
    }
    return true;
}

bool wait_cancelled(const struct wait *w, struct error **errp)
{
    struct pollfd fd = {.fd = w->cancel_fd, .events = POLLIN};
    if (w->cancel_fd < 0 || poll(&fd, 1, 0) <= 0) {
        return false;
    }
    set_cancelled(errp);
    return true;
}
