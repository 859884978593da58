/*
 * Dirty pages (DESIGN 5): KVM's log, manual clear, united with ferry's own writes.  One bit a
 * 4 KiB page, numbered by RAM offset.
 */
#ifndef FERRY_VMM_DIRTY_H
#define FERRY_VMM_DIRTY_H

#include <stdint.h>

#include "common/error.h"

struct dirty;
struct machine;

/* Start tracking on a machine, running or paused.  All pages count as clean from here on. */
int dirty_start(struct machine *machine, struct dirty **out, struct ferry_error *err);
/* Bitmap words (uint64_t) that dirty_collect fills. */
uint64_t dirty_words(const struct dirty *dirty);
/*
 * Fetch the pages written since the last collect (or start) into bitmap, write-protect them again,
 * and count them.  bitmap: dirty_words() words, overwritten; page n is bit n % 64 of word n / 64.
 * Returns the number of dirty pages or a negative errno.
 */
int64_t dirty_collect(struct dirty *dirty, uint64_t *bitmap, struct ferry_error *err);
void dirty_stop(struct dirty *dirty); /* NULL is fine */

#endif
