/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/sockets.h"

#include "common/cleanup.h"
#include "daemon/service.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define BACKLOG 128

/* A socket that nobody listens on any more is in the way; all else belongs to another. */
static bool clear_path(const struct sockaddr_un *addr, int type, struct error **errp)
{
    const char *path = addr->sun_path;
    struct stat st;
    if (lstat(path, &st) < 0) {
        return true;
    }
    CLEANUP_CLOSE int probe = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!S_ISSOCK(st.st_mode) ||
        connect(probe, (const struct sockaddr *)addr, sizeof(*addr)) == 0 ||
        errno != ECONNREFUSED) {
        error_set(errp, "listen-failed", "%s: %s", path,
                  S_ISSOCK(st.st_mode) ? "another daemon listens there" : "not a socket");
        return false;
    }
    unlink(path);
    return true;
}

/* Bound with no rights, which it is given before anybody can connect. */
static bool bind_and_listen(int fd, const struct sockaddr_un *addr, const struct socket_options *o)
{
    mode_t mask = umask(0777);
    bool bound = bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0;
    int err = errno;
    umask(mask);
    errno = err;
    return bound && (o->group == (gid_t)-1 || lchown(addr->sun_path, (uid_t)-1, o->group) == 0) &&
           chmod(addr->sun_path, o->mode) == 0 && listen(fd, BACKLOG) == 0;
}

int socket_listen(const struct socket_options *o, int type, struct error **errp)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(o->path) >= sizeof(addr.sun_path)) {
        error_set(errp, "listen-failed", "%s: a socket's path has at most %zu bytes", o->path,
                  sizeof(addr.sun_path) - 1);
        return -1;
    }
    strcpy(addr.sun_path, o->path);
    if (!clear_path(&addr, type, errp)) {
        return -1;
    }
    CLEANUP_CLOSE int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || !bind_and_listen(fd, &addr, o)) {
        error_set(errp, "listen-failed", "%s: %s", o->path, strerror(errno));
        return -1;
    }
    return fd_steal(&fd);
}

static int socket_option(int fd, int option)
{
    int value = -1;
    socklen_t length = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 ? value : -1;
}

static bool check_passed(const char *name, int fd, int type, struct error **errp)
{
    if (socket_option(fd, SO_DOMAIN) == AF_UNIX && socket_option(fd, SO_TYPE) == type &&
        socket_option(fd, SO_ACCEPTCONN) == 1 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0) {
        return true;
    }
    error_set(errp, "listen-failed",
              "The socket passed as '%s' is not a listening unix socket of type %s", name,
              type == SOCK_STREAM ? "stream" : "seqpacket");
    return false;
}

int socket_take_or_listen(const char *name, const struct socket_options *o, int type, bool *own,
                          struct error **errp)
{
    int fd = service_socket(name);
    *own = fd < 0;
    if (fd < 0) {
        return socket_listen(o, type, errp);
    }
    if (!check_passed(name, fd, type, errp)) {
        close(fd);
        return -1;
    }
    return fd;
}
