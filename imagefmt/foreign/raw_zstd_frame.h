/* What both directions of raw+zstd know about frames (RFC 8878, 3.1.1). */
#ifndef FERRY_IMAGEFMT_FOREIGN_RAW_ZSTD_FRAME_H
#define FERRY_IMAGEFMT_FOREIGN_RAW_ZSTD_FRAME_H

#include "imagefmt/foreign/disk.h"

#define ZSTD_FRAME_MAGIC UINT32_C(0xfd2fb528)
#define ZSTD_BLOCK_BITS  17
#define ZSTD_BLOCK_MAX   (UINT32_C(1) << ZSTD_BLOCK_BITS) /* content of one block, at most */
#define ZERO_FRAME_ROOM  (33 * KIB)                       /* the largest frame of zeroes */

enum zstd_block {
    ZSTD_BLOCK_RAW,
    ZSTD_BLOCK_RLE,
    ZSTD_BLOCK_COMPRESSED,
};

int raw_zstd_create(struct sink *sink, const struct disk_write_options *options,
                    struct disk_writer **out, struct ferry_error *err);
int raw_zstd_encode(const struct disk_writer *writer, struct disk_unit *unit,
                    struct ferry_error *err);
int raw_zstd_put(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err);
int raw_zstd_finish(struct disk_writer *writer, struct ferry_error *err);
void raw_zstd_destroy(struct disk_writer *writer);

#endif
