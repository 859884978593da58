/*
 * Pre-copy on the source: rounds of pages while the guest runs, and when to stop with it.
 */
#ifndef FERRY_MIGRATE_PRECOPY_H
#define FERRY_MIGRATE_PRECOPY_H

#include "common/progress.h"
#include "migrate/migrate.h"
#include "migrate/pages.h"

/* ---- when to stop: pure, so that it can be tested ---- */

struct plan {
    uint64_t wish_ns;
    unsigned rounds_max;
    unsigned polished; /* rounds since the rest first fitted the wish */
    unsigned stuck;    /* rounds since the rest last got clearly smaller */
    uint64_t least_bytes;
};

enum plan_verdict {
    PLAN_GO_ON,
    PLAN_FITS,       /* the rest fits the wish, and further rounds would gain little */
    PLAN_ROUNDS_UP,  /* it does not fit, but the rounds are used up */
    PLAN_NO_PROGRESS /* it does not fit, and the guest writes as fast as the line carries */
};

struct plan plan_init(uint64_t wish_ns, unsigned rounds_max);
/* After `rounds` rounds rest_bytes are left, of which the line carries rate bytes a second, and the
 * handover as such takes fixed_ns. */
enum plan_verdict plan_next(struct plan *plan, unsigned rounds, uint64_t rest_bytes, uint64_t rate,
                            uint64_t fixed_ns);
uint64_t plan_downtime_ns(uint64_t rest_bytes, uint64_t rate, uint64_t fixed_ns);

/* ---- the rounds ---- */

struct precopy;

/* Tracking of dirty pages begins.  result is filled in as it goes. */
int precopy_create(struct machine *machine, struct channel *channel,
                   const struct migrate_options *options, struct progress *progress,
                   struct migrate_result *result, struct precopy **out, struct ferry_error *err);
void precopy_destroy(struct precopy *p); /* tracking ends; NULL is fine */
/*
 * Rounds until it is time to pause.  -ECANCELED, -ESHUTDOWN (the destination said something else
 * than ROUND_DONE: *said is the frame), or another error of the channel.
 */
int precopy_run(struct precopy *p, struct frame *said, struct ferry_error *err);
/* The guest is paused: send what is still dirty. */
int precopy_finish(struct precopy *p, struct ferry_error *err);

#endif
