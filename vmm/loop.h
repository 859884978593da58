/*
 * The main loop: epoll over descriptors, and work posted from other threads.
 */
#ifndef FERRY_VMM_LOOP_H
#define FERRY_VMM_LOOP_H

#include <stdint.h>

#include "common/error.h"

struct loop;

int loop_create(struct loop **out, struct ferry_error *err);
void loop_destroy(struct loop *loop); /* work still waiting is dropped; NULL is fine */
/*
 * Call ready(opaque, epoll events) whenever fd has them (level-triggered; EPOLLHUP and EPOLLERR are
 * always reported).  One entry a descriptor: -EEXIST otherwise; -EPERM for what cannot be waited
 * for (regular files).  The fd stays the caller's and must be removed before it is closed.
 * loop_add, loop_change and loop_remove: on the loop's thread, or while it does not run.  After
 * loop_remove `ready` is not called any more, also not for events already fetched.
 */
int loop_add(struct loop *loop, int fd, uint32_t events,
             void (*ready)(void *opaque, uint32_t events), void *opaque);
int loop_change(struct loop *loop, int fd, uint32_t events); /* -ENOENT: not there */
void loop_remove(struct loop *loop, int fd);
/* Run function(opaque) on the loop's thread, soon and in order.  Any thread.  0 or -ENOMEM. */
int loop_post(struct loop *loop, void (*function)(void *opaque), void *opaque);
/* Run function(opaque) once, on the loop's thread, not before delay_ns from now.  Any thread. */
int loop_after(struct loop *loop, uint64_t delay_ns, void (*function)(void *opaque), void *opaque);
/* Until loop_stop; a stop that came before counts. */
int loop_run(struct loop *loop, struct ferry_error *err);
void loop_stop(struct loop *loop); /* any thread, also from a signal handler */

#endif
