/* The main loop: descriptors, posted work, timers, and removal while events wait. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "vmm/loop.h"

struct fixture {
    struct loop *loop;
    int pair[2];
    int calls;
    int order[8];
};

static int setup(void **state)
{
    static struct fixture f;

    f = (struct fixture){0};
    assert_int_equal(loop_create(&f.loop, NULL), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, f.pair), 0);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    loop_destroy(f->loop);
    close(f->pair[0]);
    close(f->pair[1]);
    return 0;
}

static void stop(void *opaque)
{
    struct fixture *f = opaque;

    f->calls++;
    loop_stop(f->loop);
}

static void first(void *opaque)
{
    struct fixture *f = opaque;

    f->order[f->calls++] = 1;
}

static void second(void *opaque)
{
    struct fixture *f = opaque;

    f->order[f->calls++] = 2;
}

static void test_posted_work_runs_in_order(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(loop_post(f->loop, first, f), 0);
    assert_int_equal(loop_post(f->loop, second, f), 0);
    assert_int_equal(loop_post(f->loop, first, f), 0);
    assert_int_equal(loop_post(f->loop, stop, f), 0);
    assert_int_equal(loop_run(f->loop, NULL), 0);
    assert_int_equal(f->calls, 4);
    assert_int_equal(f->order[0], 1);
    assert_int_equal(f->order[1], 2);
    assert_int_equal(f->order[2], 1);
}

static void test_timers_run_by_due_time_and_not_early(void **state)
{
    struct fixture *f = *state;
    uint64_t start = monotonic_ns();

    assert_int_equal(loop_after(f->loop, 20000000, stop, f), 0);
    assert_int_equal(loop_after(f->loop, 10000000, second, f), 0);
    assert_int_equal(loop_after(f->loop, 1000000, first, f), 0);
    assert_int_equal(loop_run(f->loop, NULL), 0);
    assert_true(monotonic_ns() - start >= 20000000);
    assert_int_equal(f->order[0], 1);
    assert_int_equal(f->order[1], 2);
}

static void test_stop_before_run_counts(void **state)
{
    struct fixture *f = *state;

    loop_stop(f->loop);
    assert_int_equal(loop_run(f->loop, NULL), 0); /* returns at once */
    assert_int_equal(loop_post(f->loop, stop, f), 0);
    assert_int_equal(loop_run(f->loop, NULL), 0); /* and then works again */
    assert_int_equal(f->calls, 1);
}

static void count_only(void *opaque)
{
    struct fixture *f = opaque;

    f->calls++;
}

static void *count_from_thread(void *opaque)
{
    struct fixture *f = opaque;

    for (int i = 0; i < 1000; i++)
        loop_post(f->loop, i == 999 ? stop : count_only, f);
    return NULL;
}

static void test_work_from_another_thread(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, count_from_thread, f), 0);
    assert_int_equal(loop_run(f->loop, NULL), 0);
    pthread_join(thread, NULL);
    assert_int_equal(f->calls, 1000);
}

static void readable(void *opaque, uint32_t events)
{
    struct fixture *f = opaque;
    char byte;

    assert_true(events & EPOLLIN);
    assert_int_equal(read(f->pair[0], &byte, 1), 1);
    if (++f->calls == 2)
        loop_stop(f->loop);
}

static void test_descriptors(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(loop_add(f->loop, f->pair[0], EPOLLIN, readable, f), 0);
    assert_int_equal(loop_add(f->loop, f->pair[0], EPOLLIN, readable, f), -EEXIST);
    assert_int_equal(write(f->pair[1], "ab", 2), 2); /* level-triggered: called twice */
    assert_int_equal(loop_run(f->loop, NULL), 0);
    assert_int_equal(f->calls, 2);
    loop_remove(f->loop, f->pair[0]);
    loop_remove(f->loop, f->pair[0]); /* nothing */
    assert_int_equal(loop_change(f->loop, f->pair[0], EPOLLIN), -ENOENT);
}

static void remove_both(void *opaque, uint32_t events)
{
    struct fixture *f = opaque;

    (void)events;
    f->calls++;
    loop_remove(f->loop, f->pair[0]);
    loop_remove(f->loop, f->pair[1]);
    loop_post(f->loop, stop, f);
}

/* Both are ready in one batch; the first to be called removes the other. */
static void test_removed_watch_is_not_called(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(loop_add(f->loop, f->pair[0], EPOLLOUT, remove_both, f), 0);
    assert_int_equal(loop_add(f->loop, f->pair[1], EPOLLOUT, remove_both, f), 0);
    assert_int_equal(loop_run(f->loop, NULL), 0);
    assert_int_equal(f->calls, 2); /* one watch and the stop */
}

static void test_regular_file_cannot_be_watched(void **state)
{
    struct fixture *f = *state;
    FILE *file = tmpfile();

    assert_non_null(file);
    assert_int_equal(loop_add(f->loop, fileno(file), EPOLLIN, readable, f), -EPERM);
    fclose(file);
}

static void post_again(void *opaque)
{
    struct fixture *f = opaque;

    loop_post(f->loop, post_again, f);
}

static void stop_ready(void *opaque, uint32_t events)
{
    (void)events;
    stop(opaque);
}

static void test_work_that_posts_work_does_not_starve_descriptors(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(loop_post(f->loop, post_again, f), 0);
    assert_int_equal(loop_add(f->loop, f->pair[0], EPOLLOUT, stop_ready, f), 0);
    assert_int_equal(loop_run(f->loop, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_posted_work_runs_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timers_run_by_due_time_and_not_early, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_before_run_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_work_from_another_thread, setup, teardown),
        cmocka_unit_test_setup_teardown(test_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removed_watch_is_not_called, setup, teardown),
        cmocka_unit_test_setup_teardown(test_regular_file_cannot_be_watched, setup, teardown),
        cmocka_unit_test_setup_teardown(test_work_that_posts_work_does_not_starve_descriptors,
                                        setup, teardown),
    };

    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
