/* What differs between two sections, by their pages alone. */
#ifndef FERRY_IMAGEFMT_DIFF_H
#define FERRY_IMAGEFMT_DIFF_H

#include "imagefmt/image.h"

/*
 * Two data sections, compared by the identities in their pages: no content is read.  range is
 * called for each run of bytes that may differ, ascending, as exact as the larger of the two chunk
 * sizes; where one section is longer, what it has there counts against zero.  Both sections' pages
 * are checked against their digests first.
 */
int image_diff(struct image *a, uint32_t section_a, struct image *b, uint32_t section_b,
               int (*range)(void *opaque, uint64_t offset, uint64_t size, struct ferry_error *err),
               void *opaque, struct ferry_error *err);

#endif
