/*
 * Release of resources at the end of a scope, by the compiler's cleanup attribute: the one idiom
 * of this repository.  A function that hands a resource on writes `take_fd(&fd)` or
 * `take_ptr(&p)`, which leaves nothing behind for the cleanup.
 */
#ifndef FERRY_COMMON_CLEANUP_H
#define FERRY_COMMON_CLEANUP_H

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_fn(void *pointer_to_pointer)
{
    free(*(void **)pointer_to_pointer);
}

static inline void cleanup_fd_fn(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void cleanup_unlock_fn(pthread_mutex_t **mutex)
{
    pthread_mutex_unlock(*mutex);
}

#define CLEANUP(function) __attribute__((cleanup(function)))
#define CLEANUP_FREE      CLEANUP(cleanup_free_fn)
#define CLEANUP_FD        CLEANUP(cleanup_fd_fn)

/* Hold mutex until the end of the enclosing scope. */
#define LOCK_SCOPE_NAME_(line) lock_scope_##line
#define LOCK_SCOPE_NAME(line)  LOCK_SCOPE_NAME_(line)
#define LOCK_SCOPE(mutex)                                                                 \
    __attribute__((unused, cleanup(cleanup_unlock_fn))) pthread_mutex_t *LOCK_SCOPE_NAME( \
        __LINE__) = (pthread_mutex_lock(mutex), (mutex))

static inline int take_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#define take_ptr(pointer_to_pointer)                                      \
    ({                                                                    \
        __typeof__(pointer_to_pointer) take_from_ = (pointer_to_pointer); \
        __typeof__(*take_from_) taken_ = *take_from_;                     \
        *take_from_ = NULL;                                               \
        taken_;                                                           \
    })

#endif
