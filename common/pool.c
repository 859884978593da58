/*
 * Worker pool: one queue, one mutex, two conditions (work to do, work done).  Tasks are hundreds of
 * microseconds long (a chunk to compress), so one lock is never the bottleneck.
 */
#include "common/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/limits.h"

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_cond_t finished;
    struct pool_task *head;
    struct pool_task **tail;
    unsigned running; /* tasks queued or being run */
    bool stop;
    unsigned workers;
    pthread_t threads[LIMIT_WORKERS];
};

static void *worker(void *opaque)
{
    struct pool *pool = opaque;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->head && !pool->stop)
            pthread_cond_wait(&pool->work, &pool->lock);
        struct pool_task *task = pool->head;
        if (!task)
            break;
        pool->head = task->next;
        if (!pool->head)
            pool->tail = &pool->head;
        pthread_mutex_unlock(&pool->lock);
        task->run(task);
        pthread_mutex_lock(&pool->lock);
        task->done = true;
        pool->running--;
        pthread_cond_broadcast(&pool->finished);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

unsigned pool_usable_cpus(void)
{
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);

    return count < 1 ? 1 : count > LIMIT_WORKERS ? LIMIT_WORKERS : (unsigned)count;
}

int pool_create(unsigned workers, struct pool **out, struct ferry_error *err)
{
    struct pool *pool;

    if (workers > LIMIT_WORKERS)
        return ferry_usage(err, "workers", "at most %d workers", LIMIT_WORKERS);
    if (!(pool = calloc(1, sizeof(*pool))))
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->finished, NULL);
    pool->tail = &pool->head;
    workers = workers ? workers : pool_usable_cpus();
    while (pool->workers < workers) {
        int error = pthread_create(&pool->threads[pool->workers], NULL, worker, pool);
        if (error) {
            pool_destroy(pool);
            return ferry_fail_sys(err, -error, NULL, "cannot start a worker thread");
        }
        pool->workers++;
    }
    *out = pool;
    return 0;
}

unsigned pool_workers(const struct pool *pool)
{
    return pool->workers;
}

void pool_submit(struct pool *pool, struct pool_task *task)
{
    LOCK_SCOPE(&pool->lock);
    task->next = NULL;
    task->done = false;
    *pool->tail = task;
    pool->tail = &task->next;
    pool->running++;
    pthread_cond_signal(&pool->work);
}

void pool_wait(struct pool *pool, struct pool_task *task)
{
    LOCK_SCOPE(&pool->lock);
    while (!task->done)
        pthread_cond_wait(&pool->finished, &pool->lock);
}

void pool_wait_all(struct pool *pool)
{
    LOCK_SCOPE(&pool->lock);
    while (pool->running)
        pthread_cond_wait(&pool->finished, &pool->lock);
}

void pool_destroy(struct pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->workers; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void pool_cleanup(struct pool **pool)
{
    pool_destroy(*pool);
}
