/* SPDX-License-Identifier: BSD-3-Clause */
/* What all drivers share. */
#include "guest/guest.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Names go into JSON, logs and file names of others: printable ASCII without spaces and quotes. */
bool guest_name_is_good(const char name[GUEST_NAME_SIZE])
{
    size_t n = strnlen(name, GUEST_NAME_SIZE);
    if (!n || n == GUEST_NAME_SIZE) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (name[i] <= ' ' || name[i] >= 0x7f || strchr("\"'\\", name[i])) {
            return false;
        }
    }
    return true;
}

static void *close_fds(void *arg)
{
    int *fds = arg;
    for (int i = 0; fds[i] >= 0; i++) {
        close(fds[i]);
    }
    free(fds);
    return NULL;
}

void guest_close_files(struct guest *g)
{
    int *fds = calloc(g->nblocks + 2 * g->ndisks + 1, sizeof(*fds));
    unsigned n = 0;
    pthread_t thread;
    if (!fds) {
        abort();
    }
    for (unsigned i = 0; i < g->nblocks; i++) {
        fds[n++] = g->blocks[i].fd;
    }
    for (unsigned i = 0; i < g->ndisks; i++) {
        fds[n++] = g->disks[i].fd;
        if (g->disks[i].base_fd >= 0) {
            fds[n++] = g->disks[i].base_fd;
        }
    }
    fds[n] = -1;
    if (n == 0 || pthread_create(&thread, NULL, close_fds, fds) != 0) {
        close_fds(fds);
    } else {
        pthread_detach(thread);
    }
}
