/*
 * VHDX (MS-VHDX): what its files share.  Private to imagefmt/foreign/.  Little-endian; sums are
 * CRC-32C with the field itself zero.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_VHDX_H
#define FERRY_IMAGEFMT_FOREIGN_VHDX_H

#include "imagefmt/foreign/blocks.h"
#include "imagefmt/foreign/disk.h"

#define VHDX_GUID_BYTES      16
#define VHDX_HEADER_BYTES    4096
#define VHDX_HEADER_OFFSET   (64 * KIB) /* the second one: twice that */
#define VHDX_REGIONS_OFFSET  (192 * KIB)
#define VHDX_REGIONS_BYTES   (64 * KIB) /* the second ones lie behind the first */
#define VHDX_REGIONS_MAX     2047
#define VHDX_ITEMS_MAX       2047
#define VHDX_METADATA_BYTES  (64 * KIB) /* the table, before its items */
#define VHDX_LOG_MAX_BYTES   (8 * MIB)
#define VHDX_LOG_SECTOR      4096
#define VHDX_BLOCK_MIN_BYTES (1 * MIB)
#define VHDX_BLOCK_MAX_BYTES (256 * MIB)
#define VHDX_CHUNK_SECTORS   (UINT64_C(1) << 23) /* covered by one sector bitmap block */
#define VHDX_HAS_PARENT      (1u << 1)
#define VHDX_LEAVE_ALLOCATED (1u << 0)

enum vhdx_state { /* of a payload block: the low three bits of its entry */
                  VHDX_FULL = 6,
                  VHDX_PARTIAL = 7,
};

enum vhdx_guid {
    VHDX_GUID_BAT,
    VHDX_GUID_METADATA,
    VHDX_GUID_FILE_PARAMETERS,
    VHDX_GUID_DISK_SIZE,
    VHDX_GUID_DISK_ID,
    VHDX_GUID_LOGICAL_SECTOR,
    VHDX_GUID_PHYSICAL_SECTOR,
    VHDX_GUID_PARENT,
    VHDX_GUIDS,
};
extern const uint8_t vhdx_guids[VHDX_GUIDS][VHDX_GUID_BYTES];

struct vhdx_header {
    uint64_t sequence, log_offset;
    uint32_t log_bytes;
    uint16_t version, log_version;
    uint8_t log_guid[VHDX_GUID_BYTES]; /* zero: nothing to replay */
};

struct vhdx_layout {
    uint64_t bat_offset, metadata_offset;
    uint32_t bat_bytes, metadata_bytes;
    uint64_t size_bytes;
    uint32_t block_bytes, flags, sector_bytes;
};

uint32_t vhdx_crc32c(uint32_t sum, const void *data, size_t size); /* begin with 0 */
/* The sum of data with the four bytes at 4 taken as zero, as all structures have it. */
uint32_t vhdx_sum(const void *data, size_t size);

/* The newer of the two headers that are sound. */
int vhdx_read_header(struct source *source, struct vhdx_header *header, struct ferry_error *err);
/* Regions and metadata, from a source whose log was replayed. */
int vhdx_read_layout(struct source *source, struct vhdx_layout *layout, struct ferry_error *err);
/*
 * A source as source is after replaying its log, which is kept in memory; source itself if there is
 * nothing to replay.  *out is to be closed if it is another one.  MS-VHDX 2.3.
 */
int vhdx_replay(struct source *source, const struct vhdx_header *header, struct source **out,
                struct ferry_error *err);

/* What replaying writes: one sector, in the three parts in which the log has it, or zeroes. */
struct vhdx_run {
    uint64_t offset, size;              /* multiples of VHDX_LOG_SECTOR */
    const uint8_t *lead, *data, *trail; /* 8, 4084 and 4 bytes; data NULL: zeroes */
};

/* A log as it is to be replayed: later runs lie over earlier ones. */
struct vhdx_replayed {
    uint64_t size_bytes; /* of the file afterwards */
    uint8_t *bytes;      /* that runs refer to */
    struct vhdx_run *runs;
    size_t count;
};

void vhdx_replayed_free(struct vhdx_replayed *all);
/* below with all of this over it, which is taken; below must outlive *out. */
int vhdx_overlay(struct source *below, struct vhdx_replayed *all, struct source **out,
                 struct ferry_error *err);

int vhdx_create(struct sink *sink, const struct disk_write_options *options,
                struct disk_writer **out, struct ferry_error *err);
int vhdx_plan(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err);
int vhdx_put(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err);
int vhdx_finish(struct disk_writer *writer, struct ferry_error *err);
void vhdx_destroy(struct disk_writer *writer);

#endif
