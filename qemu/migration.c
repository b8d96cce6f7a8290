/* SPDX-License-Identifier: BSD-3-Clause */
/* The VMM's own migration, as both ends use it: its stream, its end, its failure. */
#include "qemu/internal.h"

#include "common/cleanup.h"
#include "common/clock.h"

static bool take_stream(void *opaque, struct error **errp)
{
    struct qemu *q = opaque;
    bool ok = vmstate_collect(&q->state, errp);
    if (!ok || q->state.ended) {
        client_attend(q->client, -1, NULL, NULL);
    }
    return ok;
}

bool qemu_open_stream(struct qemu *q, size_t max, const struct wait *w, struct error **errp)
{
    CLEANUP_CLOSE int theirs = -1;
    if (!vmstate_open(&q->state, max, &theirs, errp)) {
        return false;
    }
    client_attend(q->client, q->state.fd, take_stream, q);
    return (!guardian_is_on(&q->guardian) || qemu_entrust(q, qemu_only_settings, errp)) &&
           client_send_fd(q->client, QEMU_STREAM_NAME, theirs, w, errp);
}

/* QEMU keeps the name only where no migration has taken its descriptor: else there is none. */
void qemu_close_stream(struct qemu *q)
{
    struct client_command command = {.name = "closefd",
                                     .arguments = json_pack("{s:s}", "fdname", QEMU_STREAM_NAME)};
    if (q->state.fd >= 0) {
        client_tell(q->client, &command);
    } else {
        json_decref(command.arguments);
    }
    client_attend(q->client, -1, NULL, NULL);
    vmstate_close(&q->state);
}

bool qemu_migration_has_begun(const struct qemu *q)
{
    return atomic_load(&q->migration) != QEMU_MIGRATION_NONE;
}

bool qemu_migration_is_over(const struct qemu *q)
{
    int migration = atomic_load(&q->migration);
    return migration == QEMU_MIGRATION_COMPLETED || migration == QEMU_MIGRATION_FAILED;
}

static bool cancel_is_safe(const struct qemu *q)
{
    int migration = atomic_load(&q->migration);
    return migration == QEMU_MIGRATION_PRE_SWITCHOVER || migration == QEMU_MIGRATION_DEVICE;
}

void qemu_cancel_if_safe(struct qemu *q)
{
    if (cancel_is_safe(q) && atomic_exchange(&q->cancel_due, false)) {
        qemu_tell(q, "migrate_cancel");
    }
}

bool qemu_await(struct qemu *q, bool (*reached)(const struct qemu *q), const char *what,
                const struct wait *w, struct error **errp)
{
    uint64_t deadline = clock_ns() + (uint64_t)w->timeout_ms * NS_PER_MS;
    for (;;) {
        client_woken(q->client);
        if (reached(q) || client_is_lost(q->client)) {
            return true;
        }
        int n = client_sleep(q->client, deadline, w, errp);
        if (n == 0) {
            error_set(errp, "guest-timeout", "The VMM of guest '%s' did not %s within %d ms",
                      q->guest.name, what, w->timeout_ms);
        }
        if (n <= 0) {
            return false;
        }
    }
}

bool qemu_await_end(struct qemu *q, const struct wait *w, struct error **errp)
{
    return qemu_await(q, qemu_migration_is_over, "end its migration", w, errp);
}

void qemu_set_failed(struct qemu *q, const char *what, struct error **errp)
{
    struct wait w = {.cancel_fd = -1, .timeout_ms = 1000, .what = "QEMU"};
    json_t *info = qemu_call(q, "query-migrate", NULL, &w, NULL);
    const json_t *desc = json_object_get(info, "error-desc");
    char words[CLIENT_WORDS];
    if (client_is_lost(q->client)) {
        error_set(errp, "guest-lost", "The VMM of guest '%s' went away and %s: its log may say why",
                  q->guest.name, what);
    } else {
        error_set(errp, "guest-refused", "The VMM of guest '%s' %s: %s", q->guest.name, what,
                  desc ? client_words(desc, words) : "its log may say why");
    }
    json_decref(info);
}
