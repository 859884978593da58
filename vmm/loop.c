/*
 * The main loop.  Everything that is not a descriptor is a piece of work with a due time, kept in
 * one list sorted by it (posts are due at once, in the order they came).  Other threads add work
 * under the mutex and ring the eventfd.  A watch that is removed while its event waits in the
 * fetched batch stays allocated, marked dead, until the batch has been handled.
 */
#include "vmm/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"

#define EVENTS_PER_WAIT 32
#define WAIT_MAX_MS     60000
#define WORK_PER_TURN   64 /* so that work that posts more work does not starve the watches */

struct watch {
    int fd;
    bool dead;
    void (*ready)(void *opaque, uint32_t events);
    void *opaque;
    struct watch *next;
};

struct work {
    uint64_t due_ns; /* CLOCK_MONOTONIC; 0: at once */
    void (*function)(void *opaque);
    void *opaque;
    struct work *next;
};

struct loop {
    int epoll_fd;
    int wake_fd;
    struct watch *watches;
    pthread_mutex_t mutex; /* of `work` */
    struct work *work;
    atomic_bool stop;
};

static void wake(struct loop *loop)
{
    const uint64_t one = 1;

    /* EAGAIN means that the counter is full: the loop is awake anyway. */
    while (write(loop->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void woken(void *opaque, uint32_t events)
{
    const struct loop *loop = opaque;
    uint64_t count;

    (void)events;
    while (read(loop->wake_fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
}

int loop_create(struct loop **out, struct ferry_error *err)
{
    struct loop *loop = calloc(1, sizeof(*loop));

    if (!loop)
        return ferry_fail(err, -ENOMEM, "main loop", "out of memory");
    pthread_mutex_init(&loop->mutex, NULL);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = loop->epoll_fd < 0 || loop->wake_fd < 0 ? -errno : 0;
    if (!error)
        error = loop_add(loop, loop->wake_fd, EPOLLIN, woken, loop);
    if (error) {
        loop_destroy(loop);
        return ferry_fail_sys(err, error, "main loop", "cannot set up");
    }
    *out = loop;
    return 0;
}

void loop_destroy(struct loop *loop)
{
    if (!loop)
        return;
    while (loop->watches) {
        struct watch *watch = loop->watches;
        loop->watches = watch->next;
        free(watch);
    }
    while (loop->work) {
        struct work *work = loop->work;
        loop->work = work->next;
        free(work);
    }
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    pthread_mutex_destroy(&loop->mutex);
    free(loop);
}

static struct watch *find_watch(const struct loop *loop, int fd)
{
    for (struct watch *watch = loop->watches; watch; watch = watch->next)
        if (watch->fd == fd && !watch->dead)
            return watch;
    return NULL;
}

int loop_add(struct loop *loop, int fd, uint32_t events,
             void (*ready)(void *opaque, uint32_t events), void *opaque)
{
    if (find_watch(loop, fd))
        return -EEXIST;
    struct watch *watch = calloc(1, sizeof(*watch));
    if (!watch)
        return -ENOMEM;
    *watch = (struct watch){.fd = fd, .ready = ready, .opaque = opaque, .next = loop->watches};
    struct epoll_event event = {.events = events, .data.ptr = watch};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
        int error = -errno;
        free(watch);
        return error;
    }
    loop->watches = watch;
    return 0;
}

int loop_change(struct loop *loop, int fd, uint32_t events)
{
    struct watch *watch = find_watch(loop, fd);

    if (!watch)
        return -ENOENT;
    struct epoll_event event = {.events = events, .data.ptr = watch};
    return epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, fd, &event) ? -errno : 0;
}

void loop_remove(struct loop *loop, int fd)
{
    struct watch *watch = find_watch(loop, fd);

    if (!watch)
        return;
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    watch->dead = true;
}

static void free_dead_watches(struct loop *loop)
{
    struct watch **link = &loop->watches;

    while (*link) {
        struct watch *watch = *link;
        if (watch->dead) {
            *link = watch->next;
            free(watch);
        } else {
            link = &watch->next;
        }
    }
}

static int add_work(struct loop *loop, uint64_t due_ns, void (*function)(void *opaque),
                    void *opaque)
{
    struct work *work = calloc(1, sizeof(*work));

    if (!work)
        return -ENOMEM;
    *work = (struct work){.due_ns = due_ns, .function = function, .opaque = opaque};
    {
        LOCK_SCOPE(&loop->mutex);
        struct work **link = &loop->work;
        while (*link && (*link)->due_ns <= due_ns)
            link = &(*link)->next;
        work->next = *link;
        *link = work;
    }
    wake(loop);
    return 0;
}

int loop_post(struct loop *loop, void (*function)(void *opaque), void *opaque)
{
    return add_work(loop, 0, function, opaque);
}

int loop_after(struct loop *loop, uint64_t delay_ns, void (*function)(void *opaque), void *opaque)
{
    return add_work(loop, monotonic_ns() + delay_ns, function, opaque);
}

/* The first piece of work that is due, or NULL. */
static struct work *take_due(struct loop *loop)
{
    LOCK_SCOPE(&loop->mutex);
    struct work *work = loop->work;

    if (!work || work->due_ns > monotonic_ns())
        return NULL;
    loop->work = work->next;
    return work;
}

static int wait_ms(struct loop *loop)
{
    LOCK_SCOPE(&loop->mutex);

    if (!loop->work)
        return -1;
    uint64_t now = monotonic_ns();
    if (loop->work->due_ns <= now)
        return 0;
    uint64_t ms = (loop->work->due_ns - now + 999999) / 1000000; /* never too early */
    return ms > WAIT_MAX_MS ? WAIT_MAX_MS : (int)ms;
}

static void run_due(struct loop *loop)
{
    struct work *work;

    for (int i = 0; i < WORK_PER_TURN && !atomic_load(&loop->stop); i++) {
        if (!(work = take_due(loop)))
            return;
        work->function(work->opaque);
        free(work);
    }
}

int loop_run(struct loop *loop, struct ferry_error *err)
{
    while (!atomic_load(&loop->stop)) {
        struct epoll_event events[EVENTS_PER_WAIT];
        int count = epoll_wait(loop->epoll_fd, events, EVENTS_PER_WAIT, wait_ms(loop));
        if (count < 0 && errno != EINTR)
            return ferry_fail_sys(err, -errno, "main loop", "cannot wait for events");
        for (int i = 0; i < count; i++) {
            const struct watch *watch = events[i].data.ptr;
            if (!watch->dead)
                watch->ready(watch->opaque, events[i].events);
        }
        free_dead_watches(loop);
        run_due(loop);
    }
    atomic_store(&loop->stop, false);
    return 0;
}

void loop_stop(struct loop *loop)
{
    atomic_store(&loop->stop, true);
    wake(loop);
}
