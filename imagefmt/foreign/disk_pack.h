/* A foreign disk into a ferry image. */
#ifndef FERRY_IMAGEFMT_FOREIGN_DISK_PACK_H
#define FERRY_IMAGEFMT_FOREIGN_DISK_PACK_H

#include "common/progress.h"
#include "imagefmt/foreign/disk.h"
#include "imagefmt/image.h"

/*
 * The content of disk, with zeroes behind up to size_bytes, as a whole disk section of w of that
 * name.  A disk at random is read by w's workers, one that is in_order on this thread, and drained.
 * -ECANCELED: so progress says (NULL: nobody wants to know).
 */
int disk_pack(struct disk *disk, struct image_writer *w, const char *name, uint64_t size_bytes,
              uint32_t chunk_bytes, struct progress *progress, struct ferry_error *err);

#endif
