/* For fuzzers: a good image with some bytes changed and all sums made right again. */
#ifndef FERRY_TESTS_SUPPORT_PATCHED_H
#define FERRY_TESTS_SUPPORT_PATCHED_H

#include <stddef.h>
#include <stdint.h>

/*
 * A copy of image[0..size), malloc'd, changed by patches: four bytes each, an offset (u24) from the
 * end of the image, where its tables are, and the value to be xored.  NULL: out of memory.
 */
uint8_t *patched_image(const uint8_t *image, size_t size, const uint8_t *patches, size_t count);

#endif
