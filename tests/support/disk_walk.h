/* What every fuzz target of a disk format does with a disk that opened. */
#ifndef FERRY_TESTS_SUPPORT_DISK_WALK_H
#define FERRY_TESTS_SUPPORT_DISK_WALK_H

#include "imagefmt/foreign/disk.h"

/*
 * Opens source as format and, if it opens, describes it, walks some hundred of its extents, reads
 * at both ends of each, and closes it.  A disk may fail as it likes, but what it answers must hold:
 * abort() if an extent is empty or leaves the disk, or if what an extent calls zero does not read
 * as zeroes.
 */
void disk_walk_source(struct source *source, const struct disk_format *format,
                      const struct disk_open_options *options);

#endif
