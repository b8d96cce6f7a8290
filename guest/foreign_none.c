/* SPDX-License-Identifier: BSD-3-Clause */
/* In place of all that acts on a foreign process, where the processor is none that it knows. */
#include "guest/borrow.h"
#include "guest/vcpus.h"
#include "guest/wptrack.h"

#include <stddef.h>
#include <unistd.h>

static void set_unknown(struct error **errp)
{
    error_set(errp, "no-tracking",
              "A VMM can be tracked from outside on x86-64 only; let it link libferry");
}

bool borrow_permitted(pid_t pid, struct error **errp)
{
    (void)pid;
    set_unknown(errp);
    return false;
}

int borrow_userfaultfd(pid_t pid, const struct wait *w, uint64_t *stopped_ns, struct error **errp)
{
    (void)pid, (void)w, (void)stopped_ns;
    set_unknown(errp);
    return -1;
}

bool wptrack_supported(struct error **errp)
{
    set_unknown(errp);
    return false;
}

bool wptrack_reports_holes(void)
{
    return false;
}

struct wptrack *wptrack_start(pid_t pid, int uffd, const struct wptrack_range *ranges,
                              unsigned count, const struct wait *w, struct error **errp)
{
    (void)pid, (void)ranges, (void)count, (void)w;
    close(uffd);
    set_unknown(errp);
    return NULL;
}

bool wptrack_sync(struct wptrack *t, uint64_t *const dirty[], const struct wait *w,
                  struct error **errp)
{
    (void)t, (void)dirty, (void)w;
    set_unknown(errp);
    return false;
}

bool wptrack_check(const struct wptrack *t, struct error **errp)
{
    (void)t;
    set_unknown(errp);
    return false;
}

void wptrack_stop(struct wptrack *t)
{
    (void)t;
}

struct vcpus *vcpus_hold(pid_t pid, const pid_t *tids, unsigned count, struct error **errp)
{
    (void)pid, (void)tids, (void)count;
    set_unknown(errp);
    return NULL;
}

bool vcpus_set(struct vcpus *v, unsigned percent)
{
    (void)v, (void)percent;
    return false;
}

void vcpus_release(struct vcpus *v)
{
    (void)v;
}
