/* What can be said of a sealed image without its secret.  Private to imagefmt/. */
#ifndef FERRY_IMAGEFMT_SCRUB_H
#define FERRY_IMAGEFMT_SCRUB_H

#include "imagefmt/input.h"

/*
 * From behind CRYP to the end: every record's length, sum and place; every SEAL behind a CHNK; a
 * FOOT, and behind it nothing but signatures.  progress: as image_visitor has it, may be NULL.
 */
int scrub_rest(struct input *in, void (*progress)(void *opaque, uint64_t bytes), void *opaque,
               struct ferry_error *err);

#endif
