/*
 * A thread that sleeps on a condition variable until the time that is set, or until that changes.
 */
#include "vmm/deadline.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/clock.h"

struct deadline {
    void (*expired)(void *opaque);
    void *opaque;
    pthread_mutex_t lock; /* guards all below; never held during expired() */
    pthread_cond_t changed;
    pthread_t thread;
    bool started;
    bool stop;
    uint64_t at_ns;
};

/* Sleeps until the alarm is due or something changes; true: due. */
static bool wait_for_change(struct deadline *d)
{
    struct timespec until = {.tv_sec = (time_t)(d->at_ns / 1000000000u),
                             .tv_nsec = (long)(d->at_ns % 1000000000u)};

    if (d->at_ns == DEADLINE_NEVER)
        pthread_cond_wait(&d->changed, &d->lock);
    else if (monotonic_ns() < d->at_ns)
        pthread_cond_timedwait(&d->changed, &d->lock, &until);
    else
        return true;
    return false;
}

static void *deadline_thread(void *opaque)
{
    struct deadline *d = opaque;

    pthread_mutex_lock(&d->lock);
    while (!d->stop) {
        if (!wait_for_change(d))
            continue;
        d->at_ns = DEADLINE_NEVER;
        pthread_mutex_unlock(&d->lock);
        d->expired(d->opaque);
        pthread_mutex_lock(&d->lock);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* Signals are for other threads: this one takes none. */
static int start_thread(struct deadline *d)
{
    sigset_t all, before;
    int ret;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    ret = -pthread_create(&d->thread, NULL, deadline_thread, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    d->started = ret == 0;
    return ret;
}

int deadline_create(void (*expired)(void *opaque), void *opaque, struct deadline **out,
                    struct ferry_error *err)
{
    struct deadline *d = calloc(1, sizeof(*d));
    pthread_condattr_t attr;

    if (!d)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    d->expired = expired;
    d->opaque = opaque;
    d->at_ns = DEADLINE_NEVER;
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&d->changed, &attr);
    pthread_condattr_destroy(&attr);
    *out = d;
    return 0;
}

void deadline_destroy(struct deadline *deadline)
{
    bool started;

    if (!deadline)
        return;
    pthread_mutex_lock(&deadline->lock);
    deadline->stop = true;
    started = deadline->started;
    pthread_cond_signal(&deadline->changed);
    pthread_mutex_unlock(&deadline->lock);
    if (started)
        pthread_join(deadline->thread, NULL);
    pthread_cond_destroy(&deadline->changed);
    pthread_mutex_destroy(&deadline->lock);
    free(deadline);
}

int deadline_set(struct deadline *deadline, uint64_t at_ns)
{
    LOCK_SCOPE(&deadline->lock);
    if (at_ns == deadline->at_ns)
        return 0;
    deadline->at_ns = at_ns;
    if (!deadline->started)
        return at_ns == DEADLINE_NEVER ? 0 : start_thread(deadline);
    pthread_cond_signal(&deadline->changed);
    return 0;
}
