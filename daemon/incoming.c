/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/incoming.h"

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "daemon/handover.h"
#include "daemon/incoming_disks.h"
#include "guest/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

/* ---- setup ---- */

static bool start_listening(struct incoming *in, struct error **errp)
{
    struct wait w = job_peer_wait(in->job);
    in->listener = endpoint_listen(in->job->endpoint, &w, errp);
    if (!in->listener) {
        return false;
    }
    job_set_address(in->job, listener_address(in->listener));
    in->job->hooks.listening(in->job->hooks.opaque, in->job);
    return true;
}

/* A source may come whenever it likes: this waits until somebody cancels. */
static bool accept_source(struct incoming *in, struct error **errp)
{
    struct wait any_time = job_peer_wait(in->job);
    struct wait patient = job_patient_wait(in->job);
    any_time.timeout_ms = -1;
    struct channel *channel = listener_accept(in->listener, &any_time, errp);
    if (!channel) {
        return false;
    }
    stream_close(&in->stream);
    stream_open(&in->stream, channel, &patient, &patient);
    in->stream.taken = &in->job->counters.transferred;
    return true;
}

/* The source of an earlier job may still ask what became of it: that is no migration. */
static bool meet_source(struct incoming *in, struct error **errp)
{
    for (;;) {
        if (!accept_source(in, errp) || !handshake_receive(&in->stream, in->ram, &in->peer, errp)) {
            return false;
        }
        if (in->peer.kind == HANDSHAKE_MIGRATION) {
            return true;
        }
        stream_write_u64(&in->stream, RECORD_ANSWER, ANSWER_UNKNOWN, NULL);
    }
}

/* Accepts before the RAM is emptied: the source takes the time of the answer for the link's. */
static bool introduce(struct incoming *in, struct error **errp)
{
    struct wait w = job_peer_wait(in->job);
    if (!meet_source(in, errp)) {
        return false;
    }
    job_set_uuid(in->job, in->peer.uuid);
    log_info("guest %s: the source's guest is '%s'", in->job->guest_name, in->peer.name);
    return handshake_check_machine(&in->peer, in->job->guest, errp) &&
           incoming_disks_open(in, errp) &&
           (!in->peer.two_way || handshake_accept(&in->stream, errp)) &&
           ram_wipe(in->ram, &w, errp) &&
           stream_share(&in->stream, in->ram, true, in->peer.capabilities[CAPABILITY_RDMA_PIN_ALL],
                        0, errp);
}

/* ---- records ---- */

/* The last round comes behind two synchronisations: to decide to stop, and with the guest stopped.
 */
#define ROUNDS_AT_ONCE 2

static bool out_of_place(const struct record *rec, struct error **errp)
{
    error_set(errp, "stream-order", "A %s record out of place", record_type_name(rec->type));
    return false;
}

static bool on_alive(struct incoming *in, struct record *rec, struct error **errp)
{
    (void)in;
    (void)rec;
    (void)errp;
    return true;
}

static bool on_round(struct incoming *in, struct record *rec, struct error **errp)
{
    uint64_t pass = get_le64(rec->body);
    uint64_t before = atomic_load(&in->job->counters.rounds);
    if (pass <= before || pass - before > ROUNDS_AT_ONCE) {
        return out_of_place(rec, errp);
    }
    atomic_store(&in->job->counters.rounds, pass);
    in->job->hooks.pass(in->job->hooks.opaque, in->job, pass);
    return true;
}

static bool on_pages(struct incoming *in, struct record *rec, struct error **errp)
{
    return ram_load_pages(in->ram, in->stream.reader, rec, &in->job->counters.load, errp);
}

static bool on_zero(struct incoming *in, struct record *rec, struct error **errp)
{
    return ram_load_zero(in->ram, rec, &in->job->counters.load, errp);
}

static bool on_delta(struct incoming *in, struct record *rec, struct error **errp)
{
    if (!in->peer.capabilities[CAPABILITY_XBZRLE]) {
        return out_of_place(rec, errp);
    }
    return ram_load_delta(in->ram, rec, &in->job->counters.load, errp);
}

static bool on_placed(struct incoming *in, struct record *rec, struct error **errp)
{
    struct job_counters *c = &in->job->counters;
    uint64_t before = atomic_load(&c->load.placed);
    bool ok = ram_load_placed(in->ram, rec, &c->load, errp);
    atomic_fetch_add(&c->transferred, atomic_load(&c->load.placed) - before);
    return ok;
}

static bool on_stopped(struct incoming *in, struct record *rec, struct error **errp)
{
    if (in->stopped) {
        return out_of_place(rec, errp);
    }
    in->stopped = true;
    in->paused = get_le64(rec->body) & 1;
    job_set_status(in->job, JOB_DEVICE);
    return true;
}

static bool append_state(struct incoming *in, const uint8_t *bytes, size_t length,
                         struct error **errp)
{
    XXH3_64bits_update(in->state_hash, bytes, length);
    while (length) {
        ssize_t n = write(in->state_fd, bytes, length);
        if (n <= 0) {
            error_set(errp, "no-memory", "No memory for the device state: %s", strerror(errno));
            return false;
        }
        bytes += n;
        length -= (size_t)n;
        in->state_bytes += (uint64_t)n;
    }
    return true;
}

static bool on_state(struct incoming *in, struct record *rec, struct error **errp)
{
    if (!in->stopped || in->state_complete || get_le64(rec->body) != in->state_bytes) {
        return out_of_place(rec, errp);
    }
    if (rec->payload > WIRE_STATE_MAX - in->state_bytes) {
        error_set(errp, "state-too-large", "More than %llu bytes of device state", WIRE_STATE_MAX);
        return false;
    }
    while (rec->payload) {
        size_t n;
        const uint8_t *bytes =
            record_payload(in->stream.reader, rec, 1, RECORD_PAYLOAD_MAX, &n, errp);
        if (!bytes || !append_state(in, bytes, n, errp)) {
            return false;
        }
    }
    return true;
}

static bool on_state_end(struct incoming *in, struct record *rec, struct error **errp)
{
    if (!in->stopped || in->state_complete) {
        return out_of_place(rec, errp);
    }
    if (get_le64(rec->body) != in->state_bytes ||
        get_le64(rec->body + 8) != XXH3_64bits_digest(in->state_hash)) {
        error_set(errp, "stream-corrupt", "The device state arrived damaged (%" PRIu64 " bytes)",
                  in->state_bytes);
        return false;
    }
    in->state_complete = true;
    return true;
}

static bool on_verify(struct incoming *in, struct record *rec, struct error **errp)
{
    if (!in->stopped || !in->peer.capabilities[CAPABILITY_VERIFY]) {
        return out_of_place(rec, errp);
    }
    return verify_record(in->ram, &in->verified, rec, errp);
}

static bool check_counts(struct incoming *in, const struct record *rec, struct error **errp)
{
    struct ram_load_counters *c = &in->job->counters.load;
    uint64_t normal = atomic_load(&c->normal) + atomic_load(&c->delta);
    uint64_t duplicate = atomic_load(&c->duplicate);
    if (get_le64(rec->body) != normal || get_le64(rec->body + 8) != duplicate ||
        get_le64(rec->body + 16) != in->state_bytes) {
        error_set(errp, "stream-corrupt",
                  "The source sent %" PRIu64 " pages and %" PRIu64 " zero pages, %" PRIu64
                  " and %" PRIu64 " arrived",
                  get_le64(rec->body), get_le64(rec->body + 8), normal, duplicate);
        return false;
    }
    return true;
}

static bool on_end(struct incoming *in, struct record *rec, struct error **errp)
{
    if (!in->state_complete || !incoming_disks_complete(in)) {
        return out_of_place(rec, errp);
    }
    if (!check_counts(in, rec, errp)) {
        return false;
    }
    if (in->peer.capabilities[CAPABILITY_VERIFY]) {
        if (!verify_finish(in->ram, &in->verified, errp)) {
            return false;
        }
        atomic_store(&in->job->counters.verified, true);
    }
    in->ended = true;
    return true;
}

static bool on_fail(struct incoming *in, struct record *rec, struct error **errp)
{
    (void)in;
    record_set_failed(rec, errp);
    return false;
}

typedef bool record_handler(struct incoming *in, struct record *rec, struct error **errp);

static record_handler *const handlers[] = {
    [RECORD_ROUND] = on_round,
    [RECORD_RAM_PAGES] = on_pages,
    [RECORD_RAM_ZERO] = on_zero,
    [RECORD_RAM_DELTA] = on_delta,
    [RECORD_RAM_PLACED] = on_placed,
    [RECORD_STOPPED] = on_stopped,
    [RECORD_STATE] = on_state,
    [RECORD_STATE_END] = on_state_end,
    [RECORD_VERIFY] = on_verify,
    [RECORD_END] = on_end,
    [RECORD_ALIVE] = on_alive,
    [RECORD_FAIL] = on_fail,
    [RECORD_DISK_DATA] = incoming_disk_data,
    [RECORD_DISK_ZERO] = incoming_disk_zero,
    [RECORD_DISK_END] = incoming_disk_end,
};

static bool take_records(struct incoming *in, struct error **errp)
{
    job_set_status(in->job, JOB_ACTIVE);
    while (!in->ended) {
        struct record rec;
        if (!record_read(in->stream.reader, &rec, errp)) {
            return false;
        }
        bool known = rec.type < sizeof(handlers) / sizeof(handlers[0]) && handlers[rec.type];
        if (!(known ? handlers[rec.type](in, &rec, errp) : out_of_place(&rec, errp))) {
            return false;
        }
    }
    return true;
}

/* ---- the guest's state ---- */

static bool load_state(struct incoming *in, struct error **errp)
{
    struct wait w = job_guest_wait(in->job);
    uint64_t start = clock_ns();
    /* The VMM must not see it change, whatever happens to us. */
    fcntl(in->state_fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    if (!ram_check_sizes(in->ram, errp) ||
        !in->job->guest->ops->load_state(in->job->guest, in->state_fd, &w, errp)) {
        return false;
    }
    atomic_store(&in->job->downtime.load, clock_ns() - start);
    return true;
}

/* ---- the whole ---- */

/*
 * From END on the source can't write to RAM any more.  What the device has allocated besides is
 * freed, except where it was asked for as a whole.
 */
static bool unshare_ram(struct incoming *in, struct error **errp)
{
    struct wait w = job_peer_wait(in->job);
    bool sparse = in->ram->placing && !in->peer.capabilities[CAPABILITY_RDMA_PIN_ALL];
    in->ram->placing = false;
    channel_unshare(in->stream.channel);
    return !sparse || ram_load_trim(in->ram, &w, errp);
}

/* Before anybody is told how it ended.  A VMM that may run the guest after all is left alone. */
static void settle(struct incoming *in, bool started)
{
    struct guest *g = in->job->guest;
    struct wait w = job_guest_wait(in->job);
    w.cancel_fd = -1;
    if (g->ops->settle && !in->in_doubt) {
        g->ops->settle(g, started, &w);
    }
}

static bool receive(struct incoming *in, struct error **errp)
{
    return job_map_ram(in->job, in->ram, errp) && start_listening(in, errp) &&
           introduce(in, errp) && take_records(in, errp) && unshare_ram(in, errp) &&
           load_state(in, errp) && handover_destination(in, errp);
}

static bool init(struct incoming *in, struct job *job, struct error **errp)
{
    in->job = job;
    in->ram = ram_new();
    in->state_hash = XXH3_createState();
    in->state_fd = memfd_create("ferry-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (!in->state_hash || in->state_fd < 0) {
        error_set(errp, "no-memory", "No file for the device state: %s", strerror(errno));
        return false;
    }
    XXH3_64bits_reset(in->state_hash);
    return true;
}

/*
 * Gives back what was received.  Not when the job was cancelled, which is to be quick: the RAM of a
 * large guest takes seconds to free.  Never when the guest may run after all.
 */
static void free_ram(struct incoming *in)
{
    struct wait w = {.cancel_fd = -1};
    if (!in->in_doubt && job_get_status(in->job) != JOB_CANCELLING) {
        ram_wipe(in->ram, &w, NULL);
    }
}

/*
 * A source that places pages finds its connection broken once they are given back: it is told why
 * before that.  A cancelled job does not take the time to see it take note.
 */
static void tell_placing_source(struct incoming *in, const struct error *why)
{
    if (!in->ram->placing || in->in_doubt) {
        return;
    }
    stream_give_up(&in->stream, why);
    in->told = true;
    if (job_get_status(in->job) != JOB_CANCELLING) {
        stream_drain(&in->stream);
        stream_close(&in->stream);
    }
}

void incoming_run(struct job *job)
{
    struct incoming *in = calloc(1, sizeof(*in));
    struct error *err = NULL, *word = NULL;
    if (!in) {
        abort();
    }
    if (init(in, job, &err) && receive(in, &err)) {
        settle(in, true);
    } else {
        err = job_begin_end(job, err);
        settle(in, false);
        word = error_copy(err);
        tell_placing_source(in, word);
        channel_unshare(in->stream.channel); /* the next job's RAM is not this source's to write */
        free_ram(in);
    }
    ram_free(in->ram);
    disks_free(in->disks.disks);
    if (!in->offered) {
        listener_close(in->listener); /* whoever sees the end may listen there again */
        in->listener = NULL;
    }
    job_end(job, err);
    if (word && !in->in_doubt && !in->told) {
        stream_give_up(&in->stream, word);
    }
    if (in->offered) {
        handover_linger(in);
    }
    if (word) {
        stream_drain(&in->stream);
    }
    error_free(word);
    stream_close(&in->stream);
    listener_close(in->listener);
    fd_close(&in->state_fd);
    XXH3_freeState(in->state_hash);
    free(in);
}
