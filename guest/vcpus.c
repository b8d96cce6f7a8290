/* SPDX-License-Identifier: BSD-3-Clause */
/* ferryd's side; vcpus_holder.c does it. */
#include "guest/vcpus.h"

#include "common/log.h"
#include "guest/helper.h"
#include "guest/vcpus_holder.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct vcpus {
    struct helper helper;
    struct vcpus_plan plan;
};

struct vcpus *vcpus_hold(pid_t pid, const pid_t *tids, unsigned count, struct error **errp)
{
    struct vcpus *v = calloc(1, sizeof(*v));
    if (!v) {
        abort();
    }
    v->plan.pid = pid;
    v->plan.count = count < VCPUS_MAX ? count : VCPUS_MAX;
    memcpy(v->plan.tids, tids, v->plan.count * sizeof(*tids));
    if (!helper_start(&v->helper, vcpus_main, &v->plan, errp)) {
        free(v);
        return NULL;
    }
    return v;
}

bool vcpus_set(struct vcpus *v, unsigned percent)
{
    const struct vcpus_order order = {.percent = percent < 99 ? percent : 99};
    return send(v->helper.sock, &order, sizeof(order), MSG_NOSIGNAL | MSG_DONTWAIT) ==
           sizeof(order);
}

void vcpus_release(struct vcpus *v)
{
    if (v) {
        if (!helper_end(&v->helper)) {
            log_warning("The helper that throttles process %d gets no CPU", v->plan.pid);
        }
        free(v);
    }
}
