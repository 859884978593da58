/*
 * For fuzzing of bundles: archives from bytes, so that no input is wasted on the sums of headers.
 */
#ifndef FERRY_TESTS_SUPPORT_MEMBER_LIST_H
#define FERRY_TESTS_SUPPORT_MEMBER_LIST_H

#include "imagefmt/foreign/bundle.h"

/*
 * The first byte even: what follows is the archive.  Odd: members follow, each u8 size of its name,
 * name, u16 size of its content, content; little-endian, cut to what is there.  *tar is malloc'd.
 */
int member_list_tar(const uint8_t *data, size_t size, uint8_t **tar, size_t *bytes);
/* Open it in this way, look at all disks, and finish; what disks say must lie within bounds. */
void member_list_try(const struct bundle_format *format, const uint8_t *tar, size_t bytes,
                     bool in_order);

#endif
