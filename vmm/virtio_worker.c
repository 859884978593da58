/*
 * The worker thread.  `parks`, `working` and `due` are its whole protocol, under one lock: the
 * thread sets `working` before it calls work() and only while `parks` is 0, so whoever has raised
 * `parks` and sees `working` false may touch what work() touches.  Doorbells are level-like: their
 * eventfds are drained before work() runs, and work() looks at the rings themselves.
 */
#include "vmm/virtio_worker.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/cleanup.h"

#define STACK_BYTES \
    ((size_t)128 * 1024) /* address space; the few pages touched are what it costs */

static void drain(int fd)
{
    uint64_t count;
    ssize_t got = read(fd, &count, sizeof(count)); /* nonblocking: nothing there is fine */
    (void)got;
}

static void sleep_until_rung(struct virtio_worker *worker)
{
    struct pollfd fds[VIRTIO_WORKER_DOORBELLS + 1];
    fds[0] = (struct pollfd){.fd = worker->wake, .events = POLLIN};
    for (unsigned n = 0; n < worker->doorbell_count; n++)
        fds[n + 1] = (struct pollfd){.fd = worker->doorbells[n], .events = POLLIN};
    poll(fds, worker->doorbell_count + 1, -1);
    for (unsigned n = 0; n <= worker->doorbell_count; n++) {
        if (fds[n].revents)
            drain(fds[n].fd);
    }
}

static void work_once(struct virtio_worker *worker)
{
    worker->due = false;
    worker->working = true;
    pthread_mutex_unlock(&worker->lock);
    worker->work(worker->opaque);
    pthread_mutex_lock(&worker->lock);
    worker->working = false;
    pthread_cond_broadcast(&worker->changed);
}

static void *run(void *opaque)
{
    struct virtio_worker *worker = opaque;
    LOCK_SCOPE(&worker->lock);
    while (!worker->ending) {
        if (worker->parks) {
            pthread_cond_wait(&worker->changed, &worker->lock);
        } else if (worker->due) {
            work_once(worker);
        } else {
            pthread_mutex_unlock(&worker->lock);
            sleep_until_rung(worker);
            pthread_mutex_lock(&worker->lock);
            worker->due = true;
        }
    }
    return NULL;
}

/* Signals are for the other threads (vCPU kicks, SIGTERM on the main loop). */
static int create_thread(struct virtio_worker *worker)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&worker->thread, &attributes, run, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return -rc;
}

int virtio_worker_start(struct virtio_worker *worker, const char *name, const int *doorbells,
                        unsigned count, void (*work)(void *opaque), void *opaque,
                        struct ferry_error *err)
{
    char thread_name[16];
    worker->doorbells = doorbells;
    worker->doorbell_count = count;
    worker->work = work;
    worker->opaque = opaque;
    worker->parks = 1;
    worker->due = worker->working = worker->ending = false;
    atomic_init(&worker->wanted, true);
    worker->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->wake < 0)
        return ferry_fail_sys(err, -errno, name, "cannot create an eventfd");
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->changed, NULL);
    int rc = create_thread(worker);
    if (rc) {
        pthread_cond_destroy(&worker->changed);
        pthread_mutex_destroy(&worker->lock);
        close(worker->wake);
        return ferry_fail_sys(err, rc, name, "cannot start the device's thread");
    }
    snprintf(thread_name, sizeof(thread_name), "%s", name);
    pthread_setname_np(worker->thread, thread_name);
    worker->started = true;
    return 0;
}

static void wake(struct virtio_worker *worker)
{
    uint64_t one = 1;
    ssize_t written = write(worker->wake, &one, sizeof(one)); /* full means awake already */
    (void)written;
    pthread_cond_broadcast(&worker->changed);
}

void virtio_worker_end(struct virtio_worker *worker)
{
    if (!worker->started)
        return;
    pthread_mutex_lock(&worker->lock);
    worker->ending = true;
    atomic_store(&worker->wanted, true);
    wake(worker);
    pthread_mutex_unlock(&worker->lock);
    pthread_join(worker->thread, NULL);
    pthread_cond_destroy(&worker->changed);
    pthread_mutex_destroy(&worker->lock);
    close(worker->wake);
    worker->started = false;
}

void virtio_worker_park(struct virtio_worker *worker)
{
    LOCK_SCOPE(&worker->lock);
    worker->parks++;
    atomic_store(&worker->wanted, true);
    while (worker->working)
        pthread_cond_wait(&worker->changed, &worker->lock);
}

void virtio_worker_unpark(struct virtio_worker *worker)
{
    LOCK_SCOPE(&worker->lock);
    if (--worker->parks)
        return;
    atomic_store(&worker->wanted, false);
    worker->due = true;
    wake(worker);
}

void virtio_worker_ring(struct virtio_worker *worker)
{
    LOCK_SCOPE(&worker->lock);
    worker->due = true;
    wake(worker);
}

bool virtio_worker_must_yield(const struct virtio_worker *worker)
{
    return atomic_load_explicit(&worker->wanted, memory_order_relaxed);
}
