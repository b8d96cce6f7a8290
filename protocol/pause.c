/* SPDX-License-Identifier: BSD-3-Clause */
#include "protocol/pause.h"

#include "common/log.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <string.h>

/* Time for some descriptors to become free. */
static const struct timeval rest = {.tv_usec = 100 * 1000L};

static void on_resume(evutil_socket_t fd, short events, void *arg)
{
    struct accept_pause *p = arg;
    (void)fd;
    (void)events;
    evconnlistener_enable(p->listener);
}

bool accept_pause_init(struct accept_pause *p, struct event_base *base, const char *what)
{
    *p = (struct accept_pause){.what = what, .resume = event_new(base, -1, 0, on_resume, p)};
    return p->resume;
}

void accept_pause_destroy(struct accept_pause *p)
{
    if (p->resume) {
        event_free(p->resume);
        p->resume = NULL;
    }
}

void accept_pause_begin(struct accept_pause *p)
{
    log_warning("can't accept %s: %s", p->what, strerror(errno));
    if (event_add(p->resume, &rest) == 0) {
        evconnlistener_disable(p->listener);
    }
}
