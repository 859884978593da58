/*
 * VHD (Microsoft, Virtual Hard Disk Image Format Specification 1.0): what its files share.  Private
 * to imagefmt/foreign/.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_VHD_H
#define FERRY_IMAGEFMT_FOREIGN_VHD_H

#include "imagefmt/foreign/blocks.h"
#include "imagefmt/foreign/disk.h"

#define VHD_SECTOR          512
#define VHD_FOOTER_BYTES    512
#define VHD_HEADER_BYTES    1024
#define VHD_VERSION         0x00010000u
#define VHD_SIZE_MAX        (2040 * GIB)
#define VHD_BLOCK_BYTES     (2 * MIB)
#define VHD_BLOCK_MAX_BYTES (256 * MIB)
#define VHD_ABSENT          0xffffffffu

enum vhd_type {
    VHD_FIXED = 2,
    VHD_DYNAMIC = 3,
    VHD_DIFFERENCING = 4,
};

struct vhd_footer {
    uint32_t version, type;
    uint64_t header_offset, size_bytes;
    char creator[5];
    uint8_t identity[16];
    uint16_t cylinders;
    uint8_t heads, sectors;
};

struct vhd_header {
    uint64_t bat_offset;
    uint32_t entries, block_bytes;
    uint8_t parent_identity[16]; /* as the parent's footer has it */
    char parent[257];            /* its name, fit to be shown */
};

/* False: no footer of a known type with a right sum. */
bool vhd_parse_footer(const uint8_t bytes[VHD_FOOTER_BYTES], struct vhd_footer *footer);
bool vhd_parse_header(const uint8_t bytes[VHD_HEADER_BYTES], struct vhd_header *header);
/* By bytes or by geometry, as its creator means it. */
uint64_t vhd_disk_size(const struct vhd_footer *footer);
/* Before each block, whole sectors. */
uint32_t vhd_bitmap_bytes(uint32_t block_bytes);
/* ~ of the sum of all bytes but the four at sum_at. */
uint32_t vhd_sum(const uint8_t *bytes, size_t size, size_t sum_at);

/* vhd_stream.c: fixed, in order. */
int vhd_open_stream(struct stream *stream, const struct disk_open_options *options,
                    struct disk **out, struct ferry_error *err);
int vhd_create(struct sink *sink, const struct disk_write_options *options,
               struct disk_writer **out, struct ferry_error *err);
int vhd_plan(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err);
int vhd_put(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err);
int vhd_finish(struct disk_writer *writer, struct ferry_error *err);
void vhd_destroy(struct disk_writer *writer);

#endif
