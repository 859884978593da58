/* VMDK, reading in order: what vmdk_stream.c (the disk) and vmdk_markers.c (the file) share. */
#ifndef FERRY_IMAGEFMT_FOREIGN_VMDK_STREAM_H
#define FERRY_IMAGEFMT_FOREIGN_VMDK_STREAM_H

#include "common/pool.h"
#include "imagefmt/foreign/stream.h"
#include "imagefmt/foreign/vmdk.h"

#define VMDK_STORED_GRAINS 2 /* a grain as stored is at most as large as so many */

struct vmdk_grain {
    struct pool_task task;
    const struct vmdk_stream *v;
    uint64_t offset; /* in the disk */
    uint32_t stored_bytes;
    uint8_t *stored, *content;
    int error;
};

struct vmdk_stream {
    struct disk disk;
    struct stream_cursor in;
    struct vmdk_header header;
    struct vmdk_descriptor descriptor;
    uint64_t grain_bytes, gd_entries;
    struct codec *codec;
    struct pool *pool;
    struct vmdk_grain *grains;
    unsigned count, oldest, busy;
    uint64_t next_lba;                  /* of the next grain, at least */
    uint64_t grains_sum, entries_sum;   /* of grains; of what the tables say */
    uint64_t tables_sum, directory_sum; /* of tables; of what the directory says */
    uint64_t directory;                 /* sector; 0: not met yet */
    bool footer, ended;
    int failed; /* what failed says */
    struct ferry_error failure;
};

/* The grain so many behind the oldest. */
static inline unsigned vmdk_in_ring(const struct vmdk_stream *v, unsigned behind)
{
    return (v->oldest + behind) % v->count;
}

/* Header, descriptor and tables that come first: up to the first marker.  grain_bytes and the
 * disk's size are known then. */
int vmdk_take_head(struct vmdk_stream *v, struct ferry_error *err);
/* The next marker, and what it brings: a grain goes to the pool, behind those of the ring, which
 * has room; tables are added up; the end sets ended. */
int vmdk_next_marker(struct vmdk_stream *v, struct ferry_error *err);

#endif
