/*
 * The thread of a virtio device: it sleeps until a queue's doorbell rings, then runs the device's
 * work function.  Parking it guarantees that the work function is not running and will not be;
 * doorbells rung meanwhile are not lost, because the function runs once whenever it is unparked.
 */
#ifndef FERRY_VMM_VIRTIO_WORKER_H
#define FERRY_VMM_VIRTIO_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "common/error.h"

#define VIRTIO_WORKER_DOORBELLS 8

struct virtio_worker {
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned parks; /* how often it is parked; it works at 0 */
    bool working;   /* inside work() */
    bool due;       /* work() is to run even without a doorbell */
    bool ending;
    atomic_bool wanted;   /* somebody waits for work() to return: it should do so soon */
    int wake;             /* eventfd */
    const int *doorbells; /* eventfds of the queues */
    unsigned doorbell_count;
    void (*work)(void *opaque);
    void *opaque;
};

/* Start it, parked once.  doorbells stay the caller's.  name: at most 15 characters are used. */
int virtio_worker_start(struct virtio_worker *worker, const char *name, const int *doorbells,
                        unsigned count, void (*work)(void *opaque), void *opaque,
                        struct ferry_error *err);
void virtio_worker_end(struct virtio_worker *worker); /* never started: nothing */
/* Returns when work() does not run.  Nests.  Not from the worker itself. */
void virtio_worker_park(struct virtio_worker *worker);
void virtio_worker_unpark(struct virtio_worker *worker);
/* Run work() soon, doorbell or not. */
void virtio_worker_ring(struct virtio_worker *worker);
/* From work(): whether it should return between two requests; it will be run again. */
bool virtio_worker_must_yield(const struct virtio_worker *worker);

#endif
