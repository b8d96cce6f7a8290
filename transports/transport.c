/* SPDX-License-Identifier: BSD-3-Clause */
#include "transports/transport.h"

#include "transports/allow.h"

#include <string.h>

static const struct endpoint_ops *const transports[] = {
    &transport_tcp,
    &transport_unix,
    &transport_fd,
    &transport_exec,
    &transport_rdma,
};

struct endpoint *endpoint_parse(const char *uri, const struct fd_finder *fds, struct error **errp)
{
    const char *colon = strchr(uri, ':');
    for (size_t i = 0; colon && i < sizeof(transports) / sizeof(transports[0]); i++) {
        const char *scheme = transports[i]->scheme;
        size_t length = (size_t)(colon - uri);
        if (strlen(scheme) == length && memcmp(scheme, uri, length) == 0) {
            return transports[i]->parse(colon + 1, fds, errp);
        }
    }
    error_set(errp, "uri-unknown", "unknown migration protocol: %s", uri);
    return NULL;
}

void endpoint_restrict(struct endpoint *e, struct allow_list *allowed)
{
    e->allowed = allow_list_ref(allowed);
}

void endpoint_free(struct endpoint *e)
{
    if (e) {
        allow_list_unref(e->allowed);
        e->ops->free(e);
    }
}
