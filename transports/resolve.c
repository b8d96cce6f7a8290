/* SPDX-License-Identifier: BSD-3-Clause */
#include "transports/resolve.h"

#include "common/cleanup.h"

#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

static bool port_is_good(const char *port)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(port, &end, 10);
    return port[0] >= '0' && port[0] <= '9' && !*end && !errno && n <= 65535;
}

/* Names are letters, digits, '-', '_' and '.'; addresses have ':', and after a '%' the name of an
 * interface.  What is not ASCII is for the resolver to judge. */
static bool host_is_good(const char *host, size_t length)
{
    static const char others[] = "-_.:";
    for (size_t i = 0; i < length && host[i] != '%'; i++) {
        unsigned char c = (unsigned char)host[i];
        if (c < 0x80 && !isalnum(c) && (!c || !strchr(others, c))) {
            return false;
        }
    }
    return true;
}

bool host_port_split(const char *text, char **host, char **port)
{
    const char *colon = strrchr(text, ':');
    *host = *port = NULL;
    if (!colon || !port_is_good(colon + 1)) {
        return false;
    }
    const char *from = text;
    size_t n = (size_t)(colon - text);
    if (n >= 2 && text[0] == '[' && colon[-1] == ']') {
        from++;
        n -= 2;
    } else if (memchr(text, ':', n)) {
        return false; /* an IPv6 address without brackets */
    }
    if (!host_is_good(from, n)) {
        return false;
    }
    *host = n ? strndup(from, n) : NULL;
    *port = strdup(colon + 1);
    if (!*port || (n && !*host)) {
        abort();
    }
    return true;
}

/* Shared by the job's thread and the resolver's; the last to let go frees it. */
struct lookup {
    _Atomic int users;
    int done_fd;
    char *host, *port;
    struct addrinfo hints;
    int result;
    struct addrinfo *found;
};

static void let_go(struct lookup *l)
{
    if (atomic_fetch_sub(&l->users, 1) > 1) {
        return;
    }
    if (l->found) {
        freeaddrinfo(l->found);
    }
    close(l->done_fd);
    free(l->host);
    free(l->port);
    free(l);
}

static void *run_lookup(void *arg)
{
    struct lookup *l = arg;
    uint64_t one = 1;
    l->result = getaddrinfo(l->host, l->port, &l->hints, &l->found);
    ssize_t ignored = write(l->done_fd, &one, sizeof(one));
    (void)ignored;
    let_go(l);
    return NULL;
}

static struct addrinfo *check_result(const char *host, int result, struct addrinfo *found,
                                     struct error **errp)
{
    if (result != 0) {
        error_set(errp, "resolve-failed", "address resolution failed for %s: %s",
                  host ? host : "any address", gai_strerror(result));
        return NULL;
    }
    return found;
}

static struct lookup *lookup_new(const char *host, const char *port, const struct addrinfo *hints)
{
    struct lookup *l = calloc(1, sizeof(*l));
    if (!l || !(l->host = strdup(host)) || !(l->port = strdup(port))) {
        abort();
    }
    l->users = 2;
    l->hints = *hints;
    l->done_fd = eventfd(0, EFD_CLOEXEC);
    return l;
}

static struct addrinfo *resolve_by_thread(const char *host, const char *port,
                                          const struct addrinfo *hints, const struct wait *w,
                                          struct error **errp)
{
    struct lookup *l = lookup_new(host, port, hints);
    struct addrinfo *found = NULL;
    pthread_t thread;
    if (l->done_fd < 0 || pthread_create(&thread, NULL, run_lookup, l) != 0) {
        l->users = 1;
        error_set(errp, "system-error", "No thread to look up '%s'", host);
    } else {
        pthread_detach(thread);
        struct wait named = *w;
        named.what = "the name service";
        if (wait_fd(l->done_fd, POLLIN, &named, errp)) {
            uint64_t one; /* reading, unlike polling, is known to order what was written before */
            ssize_t ignored = read(l->done_fd, &one, sizeof(one));
            (void)ignored;
            found = check_result(host, l->result, l->found, errp);
            l->found = NULL;
        }
    }
    let_go(l);
    return found;
}

struct addrinfo *resolve(const char *host, const char *port, bool listening, const struct wait *w,
                         struct error **errp)
{
    struct addrinfo hints = {
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | (listening ? AI_PASSIVE : 0),
    };
    struct addrinfo *found = NULL;
    int result = getaddrinfo(host, port, &hints, &found);
    if (result != EAI_NONAME || !host) {
        return check_result(host, result, found, errp);
    }
    hints.ai_flags &= ~AI_NUMERICHOST;
    return resolve_by_thread(host, port, &hints, w, errp);
}
