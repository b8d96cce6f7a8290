/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A thread that shuts the gate for a part of each 10 ms.  At 0 percent it sleeps and costs nothing.
 * A new value counts at once, not from the next period on.
 */
#include "throttle.h"

#include <time.h>

#define PERIOD_NS 10000000
#define SECOND_NS 1000000000

/* Sleeps, with the lock dropped, until something changes or `ns` have gone by. */
static void sleep_locked(struct throttle *throttle, long ns)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ns;
    if (until.tv_nsec >= SECOND_NS) {
        until.tv_nsec -= SECOND_NS;
        until.tv_sec++;
    }
    unsigned percent = throttle->percent;
    while (!throttle->ending && throttle->percent == percent &&
           pthread_cond_timedwait(&throttle->changed, &throttle->lock, &until) == 0) {
    }
}

static void one_period(struct throttle *throttle)
{
    long out = (long)throttle->percent * (PERIOD_NS / 100);

    gate_close(throttle->gate, GATE_THROTTLED);
    sleep_locked(throttle, out);
    gate_open(throttle->gate, GATE_THROTTLED);
    if (throttle->percent > 0) {
        sleep_locked(throttle, PERIOD_NS - out);
    }
}

static void *throttle_main(void *opaque)
{
    struct throttle *throttle = opaque;

    pthread_mutex_lock(&throttle->lock);
    while (!throttle->ending) {
        if (throttle->percent == 0) {
            pthread_cond_wait(&throttle->changed, &throttle->lock);
        } else {
            one_period(throttle);
        }
    }
    pthread_mutex_unlock(&throttle->lock);
    return NULL;
}

int throttle_start(struct throttle *throttle, struct gate *gate)
{
    pthread_condattr_t attributes;

    *throttle = (struct throttle){.gate = gate};
    pthread_mutex_init(&throttle->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&throttle->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    int rc = -pthread_create(&throttle->thread, NULL, throttle_main, throttle);
    throttle->started = rc == 0;
    return rc;
}

void throttle_end(struct throttle *throttle)
{
    if (!throttle->started) {
        return;
    }
    pthread_mutex_lock(&throttle->lock);
    throttle->ending = true;
    pthread_cond_signal(&throttle->changed);
    pthread_mutex_unlock(&throttle->lock);
    pthread_join(throttle->thread, NULL);
    pthread_cond_destroy(&throttle->changed);
    pthread_mutex_destroy(&throttle->lock);
}

void throttle_set(struct throttle *throttle, unsigned percent)
{
    pthread_mutex_lock(&throttle->lock);
    throttle->percent = percent > 99 ? 99 : percent;
    pthread_cond_signal(&throttle->changed);
    pthread_mutex_unlock(&throttle->lock);
}
