/* SPDX-License-Identifier: BSD-3-Clause */
/* Descriptors that clients have passed with getfd, until they are used or closed. */
#include "daemon/ferryd.h"

#include "common/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* More names than any orchestrator needs at once; each holds a descriptor of ours. */
#define NAMED_FDS_MAX 64

struct named_fd {
    char *name;
    int fd;
    TAILQ_ENTRY(named_fd) link;
};

static struct named_fd *find(struct ferryd *d, const char *name)
{
    struct named_fd *f;
    TAILQ_FOREACH(f, &d->fds, link)
    {
        if (strcmp(f->name, name) == 0) {
            break;
        }
    }
    return f;
}

static unsigned count(struct ferryd *d)
{
    unsigned n = 0;
    struct named_fd *f;
    TAILQ_FOREACH(f, &d->fds, link)
    {
        n++;
    }
    return n;
}

/* Forgets the name; the descriptor is the caller's. */
static int remove_fd(struct ferryd *d, struct named_fd *f)
{
    int fd = f->fd;
    TAILQ_REMOVE(&d->fds, f, link);
    free(f->name);
    free(f);
    return fd;
}

bool fds_add(struct ferryd *d, const char *name, int fd, struct error **errp)
{
    struct named_fd *f = find(d, name);
    if (name[0] >= '0' && name[0] <= '9') {
        error_set(errp, "fd-name-invalid",
                  "Parameter 'fdname' expects a name not starting with a digit");
        close(fd);
        return false;
    }
    if (!f && count(d) == NAMED_FDS_MAX) {
        error_set(errp, "fd-too-many", "%d descriptors are held already: close some with closefd",
                  NAMED_FDS_MAX);
        close(fd);
        return false;
    }
    if (!f) {
        f = calloc(1, sizeof(*f));
        if (!f || !(f->name = strdup(name))) {
            abort();
        }
        f->fd = -1;
        TAILQ_INSERT_TAIL(&d->fds, f, link);
    }
    fd_close(&f->fd);
    f->fd = fd;
    return true;
}

static void set_unknown(const char *name, struct error **errp)
{
    error_set(errp, "fd-unknown", "File descriptor named '%s' has not been found", name);
}

bool fds_close(struct ferryd *d, const char *name, struct error **errp)
{
    struct named_fd *f = find(d, name);
    if (!f) {
        set_unknown(name, errp);
        return false;
    }
    close(remove_fd(d, f));
    return true;
}

/* fd:NUMBER: one that the daemon was started with, past its standard ones; it is duplicated. */
static int take_inherited(const char *name, struct error **errp)
{
    char *end;
    errno = 0;
    long number = strtol(name, &end, 10);
    int flags = *end || errno || number > INT32_MAX ? -1 : fcntl((int)number, F_GETFD);
    /* All of the daemon's own are close-on-exec; what it inherited by design is not. */
    if (number < 3 || flags < 0 || (flags & FD_CLOEXEC)) {
        set_unknown(name, errp);
        return -1;
    }
    int fd = fcntl((int)number, F_DUPFD_CLOEXEC, 3);
    if (fd < 0) {
        set_unknown(name, errp);
    }
    return fd;
}

int fds_take(void *opaque, const char *name, struct error **errp)
{
    struct ferryd *d = opaque;
    if (name[0] >= '0' && name[0] <= '9') {
        return take_inherited(name, errp);
    }
    struct named_fd *f = find(d, name);
    if (!f) {
        set_unknown(name, errp);
        return -1;
    }
    return remove_fd(d, f);
}

void fds_free(struct ferryd *d)
{
    struct named_fd *f;
    while ((f = TAILQ_FIRST(&d->fds))) {
        close(remove_fd(d, f));
    }
}
