/* What an image is to become: the file it goes to, the chunks it is cut into. */
#ifndef FERRY_SNAPSHOT_TARGET_H
#define FERRY_SNAPSHOT_TARGET_H

#include <stdint.h>

#include "common/error.h"
#include "common/file.h"

/* atomic_file_open, but FERRY_REFUSED, -EBUSY for what a machine has locked as its disk. */
int target_open(struct atomic_file *file, const char *path, struct ferry_error *err);
/* FERRY_USAGE for a size that no chunk can have. */
int target_check_chunk(uint64_t bytes, struct ferry_error *err);

#endif
