/*
 * When to stop with the rounds.  The wish is an upper bound, not an aim: a round costs little once
 * the rest is small, so rounds go on below the wish as long as each leaves clearly less behind.
 */
#include "migrate/precopy.h"

#define POLISH_ROUNDS_MAX 8
#define STUCK_ROUNDS_MAX  4
#define SMALL_NS          1000000 /* a rest that takes less is not worth another round */
#define LEAST_RATE        4096    /* bytes a second, against division by nothing */

struct plan plan_init(uint64_t wish_ns, unsigned rounds_max)
{
    return (struct plan){.wish_ns = wish_ns, .rounds_max = rounds_max, .least_bytes = UINT64_MAX};
}

uint64_t plan_downtime_ns(uint64_t rest_bytes, uint64_t rate, uint64_t fixed_ns)
{
    if (rate < LEAST_RATE)
        rate = LEAST_RATE;
    return fixed_ns + (uint64_t)((double)rest_bytes * 1e9 / (double)rate);
}

enum plan_verdict plan_next(struct plan *plan, unsigned rounds, uint64_t rest_bytes, uint64_t rate,
                            uint64_t fixed_ns)
{
    bool fits = plan_downtime_ns(rest_bytes, rate, fixed_ns) <= plan->wish_ns;

    if (plan_downtime_ns(rest_bytes, rate, 0) <= SMALL_NS && fits)
        return PLAN_FITS;
    if (rest_bytes < plan->least_bytes / 4 * 3) {
        plan->least_bytes = rest_bytes;
        plan->stuck = 0;
    } else {
        plan->stuck++;
    }
    if (fits && (++plan->polished > POLISH_ROUNDS_MAX || plan->stuck > 1))
        return PLAN_FITS;
    if (rounds >= plan->rounds_max)
        return fits ? PLAN_FITS : PLAN_ROUNDS_UP;
    return plan->stuck > STUCK_ROUNDS_MAX ? PLAN_NO_PROGRESS : PLAN_GO_ON;
}
