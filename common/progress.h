/* Progress and cancellation of long work, as its caller sees them. */
#ifndef FERRY_COMMON_PROGRESS_H
#define FERRY_COMMON_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct progress_report {
    const char *phase;         /* "ram", "disk vda", "state", "waiting", ... */
    unsigned round;            /* of a pre-copy, from 1; 0: no rounds */
    uint64_t done_bytes;       /* of this phase */
    uint64_t total_bytes;      /* of this phase as now known; 0: not known */
    uint64_t sent_bytes;       /* put on the wire or into the file so far, in all */
    uint64_t rate_bytes_per_s; /* lately; 0: not known */
};

struct progress {
    void (*report)(void *opaque, const struct progress_report *report); /* any thread; NULL: none */
    void *opaque;
    atomic_bool cancelled; /* set by anyone; long work looks often and ends with -ECANCELED */
};

#endif
