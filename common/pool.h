/*
 * A pool of worker threads.  Tasks run in any order on any worker; a submitter waits for one task
 * (to keep results in order) or for all.  Tasks belong to the caller and must outlive their run.
 */
#ifndef FERRY_COMMON_POOL_H
#define FERRY_COMMON_POOL_H

#include <stdbool.h>

#include "common/error.h"

struct pool;

struct pool_task {
    void (*run)(struct pool_task *task); /* on a worker; must not submit to or wait on the pool */
    struct pool_task *next;              /* the pool's */
    bool done;                           /* the pool's; read through pool_wait */
};

/* What workers are for 0: CPUs that this process may use, at most LIMIT_WORKERS. */
unsigned pool_usable_cpus(void);
/* workers: 1..LIMIT_WORKERS, 0: one a CPU this process may use. */
int pool_create(unsigned workers, struct pool **out, struct ferry_error *err);
unsigned pool_workers(const struct pool *pool);
void pool_submit(struct pool *pool, struct pool_task *task);
void pool_wait(struct pool *pool, struct pool_task *task); /* returns when task has run */
void pool_wait_all(struct pool *pool);
void pool_destroy(struct pool *pool);  /* waits for all tasks; NULL is fine */
void pool_cleanup(struct pool **pool); /* CLEANUP(pool_cleanup) */

#endif
