/*
 * The main loop: epoll over descriptors, and work posted from other threads.
 */
#ifndef FERRY_VMM_LOOP_H
#define FERRY_VMM_LOOP_H

#include <stdint.h>

#include "common/error.h"

struct loop;

int loop_create(struct loop **out, struct ferry_error *err);
void loop_destroy(struct loop *loop);
/* Call ready(opaque, epoll events) whenever fd has them.  One entry a descriptor. */
int loop_add(struct loop *loop, int fd, uint32_t events,
             void (*ready)(void *opaque, uint32_t events), void *opaque);
int loop_change(struct loop *loop, int fd, uint32_t events);
void loop_remove(struct loop *loop, int fd);
/* Run function(opaque) on the loop's thread, soon and in order.  Any thread.  0 or -ENOMEM. */
int loop_post(struct loop *loop, void (*function)(void *opaque), void *opaque);
/* Run function(opaque) once, on the loop's thread, not before delay_ns from now. */
int loop_after(struct loop *loop, uint64_t delay_ns, void (*function)(void *opaque), void *opaque);
int loop_run(struct loop *loop, struct ferry_error *err); /* until loop_stop */
void loop_stop(struct loop *loop);                        /* any thread */

#endif
