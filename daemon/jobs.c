/* SPDX-License-Identifier: BSD-3-Clause */
/* Jobs as the main thread sees them: started, heard of through the loop's queue, joined. */
#include "daemon/ferryd.h"

#include "common/cleanup.h"
#include "common/log.h"
#include "daemon/incoming.h"
#include "daemon/outgoing.h"
#include "protocol/qmp.h"

#include <event2/event.h>

/* How long jobs may take to clean up when the daemon ends; libferry does it where they can't. */
#define QUIT_SECONDS 5

/* News from a job's thread, on its way to the main thread. */
struct news {
    struct ferryd *d;
    struct job *job;
    uint64_t value;
};

static void post_news(struct ferryd *d, struct job *job, uint64_t value, void (*fn)(void *arg))
{
    struct news *news = malloc(sizeof(*news));
    if (!news) {
        abort();
    }
    *news = (struct news){.d = d, .job = job_ref(job), .value = value};
    loop_post(d->loop, fn, news);
}

static void news_free(struct news *news)
{
    job_unref(news->job);
    free(news);
}

static struct entry *entry_of(struct ferryd *d, const struct job *job)
{
    struct entry *e = entry_find(d, job->guest_name);
    return e && e->job == job ? e : NULL;
}

/* ---- on the main thread ---- */

/* A migrate-incoming is answered once it listens, or can't. */
static void answer_incoming(struct entry *e, struct error *err)
{
    struct qmp_request *req = e ? e->incoming : NULL;
    if (!req) {
        error_free(err);
    } else if (err) {
        qmp_fail(req, err);
    } else {
        qmp_return(req, NULL);
    }
    if (e) {
        e->incoming = NULL;
    }
}

void jobs_answer_incoming(struct entry *e)
{
    answer_incoming(e, e->job ? job_get_error(e->job) : NULL);
}

static void on_status(void *arg)
{
    struct news *news = arg;
    enum job_status status = (enum job_status)news->value;
    qmp_event(
        news->d->qmp, "MIGRATION",
        json_pack("{s:s, s:s}", "status", job_status_name(status), "guest", news->job->guest_name));
    if (job_status_is_terminal(status)) {
        totals_count_end(&news->d->totals, news->job);
        answer_incoming(entry_of(news->d, news->job), job_get_error(news->job));
    }
    news_free(news);
}

static void on_pass(void *arg)
{
    struct news *news = arg;
    atomic_store(&news->job->pass_posted, false);
    qmp_event(
        news->d->qmp, "MIGRATION_PASS",
        json_pack("{s:I, s:s}", "pass", (json_int_t)news->value, "guest", news->job->guest_name));
    news_free(news);
}

static void on_listening(void *arg)
{
    struct news *news = arg;
    answer_incoming(entry_of(news->d, news->job), NULL);
    news_free(news);
}

static void on_finished(void *arg)
{
    struct news *news = arg;
    struct ferryd *d = news->d;
    struct live_job *live;
    TAILQ_FOREACH(live, &d->live, link)
    {
        if (live->job == news->job) {
            break;
        }
    }
    pthread_join(live->job->thread, NULL);
    traffic_add(&d->totals.traffic[live->job->direction], live->job);
    TAILQ_REMOVE(&d->live, live, link);
    job_unref(live->job);
    free(live);
    news_free(news);
    if (d->quitting && TAILQ_EMPTY(&d->live)) {
        loop_quit(d->loop);
    }
}

/* ---- on the job's thread ---- */

static void hook_status(void *opaque, struct job *job, enum job_status status)
{
    post_news(opaque, job, status, on_status);
}

/* One at a time: a job, or a peer, that goes through its rounds faster than the loop does not pile
 * up events. */
static void hook_pass(void *opaque, struct job *job, uint64_t pass)
{
    if (!atomic_exchange(&job->pass_posted, true)) {
        post_news(opaque, job, pass, on_pass);
    }
}

static void hook_listening(void *opaque, struct job *job)
{
    post_news(opaque, job, 0, on_listening);
}

static void hook_finished(void *opaque, struct job *job)
{
    post_news(opaque, job, 0, on_finished);
}

/* ---- commands' side ---- */

bool jobs_start(struct ferryd *d, struct entry *e, enum job_direction direction,
                struct endpoint *endpoint, const struct job_options *options, struct error **errp)
{
    static void (*const runs[])(struct job *) = {
        [JOB_OUTGOING] = outgoing_run,
        [JOB_INCOMING] = incoming_run,
    };
    struct job_hooks hooks = {
        .status = hook_status,
        .pass = hook_pass,
        .listening = hook_listening,
        .finished = hook_finished,
        .opaque = d,
    };
    struct job *job =
        job_new(direction, e->guest, e->params, e->capabilities, endpoint, &hooks, errp);
    if (!job) {
        return false;
    }
    job->options = *options;
    struct live_job *live = calloc(1, sizeof(*live));
    if (!live) {
        abort();
    }
    if (!job_start(job, runs[direction], errp)) {
        job_unref(job);
        free(live);
        return false;
    }
    live->job = job_ref(job);
    TAILQ_INSERT_TAIL(&d->live, live, link);
    job_unref(e->job);
    e->job = job;
    return true;
}

static void on_deadline(evutil_socket_t fd, short events, void *arg)
{
    struct ferryd *d = arg;
    (void)fd;
    (void)events;
    log_warning("migrations are still under way: leaving them to their VMMs");
    loop_quit(d->loop);
}

void jobs_quit(struct ferryd *d)
{
    struct timeval deadline = {.tv_sec = QUIT_SECONDS};
    struct live_job *live;
    if (d->quitting) {
        return;
    }
    d->quitting = true;
    TAILQ_FOREACH(live, &d->live, link)
    {
        job_cancel(live->job);
        job_quit(live->job);
    }
    d->deadline = event_new(loop_base(d->loop), -1, 0, on_deadline, d);
    if (TAILQ_EMPTY(&d->live) || !d->deadline || event_add(d->deadline, &deadline) < 0) {
        loop_quit(d->loop);
    }
}
