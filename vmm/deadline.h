/*
 * A one-shot alarm for devices whose interrupts come at a time of their own (CMOS clock, PM timer).
 * It has a thread, which is started when the alarm is set for the first time: most guests never do.
 */
#ifndef FERRY_VMM_DEADLINE_H
#define FERRY_VMM_DEADLINE_H

#include <stdint.h>

#include "common/error.h"

struct deadline;

#define DEADLINE_NEVER UINT64_MAX

/* expired(opaque) is called on the alarm's own thread, without locks.  -ENOMEM. */
int deadline_create(void (*expired)(void *opaque), void *opaque, struct deadline **out,
                    struct ferry_error *err);
/* Waits for a call in progress, so not to be called under a lock that `expired` takes. */
void deadline_destroy(struct deadline *deadline);
/*
 * Call expired once CLOCK_MONOTONIC has reached at_ns; DEADLINE_NEVER: withdraw.  Replaces what was
 * set before, except for a call that is already under way.  Any thread, any lock held.  Returns 0
 * or, when the thread cannot be started, a negative errno.
 */
int deadline_set(struct deadline *deadline, uint64_t at_ns);

#endif
