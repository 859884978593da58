/*
 * Disks of equal blocks with one table that says where each is: what VHD, VHDX and VDI share.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_BLOCKS_H
#define FERRY_IMAGEFMT_FOREIGN_BLOCKS_H

#include "imagefmt/foreign/disk.h"

/* ---- Reading ---- */

/* Bytes of the file that are the format's own: no block lies there. */
struct block_area {
    uint64_t start, end;
};

#define BLOCK_AREAS 4

struct block_map {
    struct source *source;
    uint64_t size_bytes; /* of the disk */
    uint32_t block_bytes;
    uint64_t prefix_bytes; /* before each block, and a part of it */
    struct block_area areas[BLOCK_AREAS];
    /* Where the block begins in the source; *offset 0: nowhere, it is zero.  Any thread. */
    int (*place)(const struct block_map *map, uint64_t block, uint64_t *offset,
                 struct ferry_error *err);
};

/* The same, checked against the areas. */
int block_map_place(const struct block_map *map, uint64_t block, uint64_t *offset,
                    struct ferry_error *err);
/* Zero blocks are taken together, most bytes of them or a block more. */
int block_map_extent(const struct block_map *map, uint64_t offset, uint64_t most,
                     struct disk_extent *extent, struct ferry_error *err);
int block_map_read(const struct block_map *map, uint64_t offset, void *data, size_t size,
                   struct ferry_error *err);

/* ---- Writing ---- */

#define BLOCKS_UNIT_BYTES (64 * KIB)
#define BLOCKS_RUN_BYTES  (1 * MIB)

/*
 * Blocks are stored in the order of the disk, so that their places follow from which there are.
 * Into a file all before them is written at the end; into a pipe, by a plan, at the start.
 */
struct block_writer {
    struct sink *sink;
    uint32_t block_bytes, prefix_bytes; /* prefix: before each block, filled with ones */
    bool fixed;                         /* all blocks are there */
    uint64_t count;                     /* of blocks of the disk */
    uint64_t data_offset;               /* in the file, of the first block's prefix */
    /* Writes all that lies before data_offset, with sink_at; the table by block_next. */
    int (*front)(struct block_writer *b, struct ferry_error *err);
    /* from here on: of blocks.c */
    uint8_t *present;
    uint64_t stored; /* blocks */
    uint64_t last;   /* block that was put last, plus 1 */
    bool fronted;
};

int block_writer_init(struct block_writer *b, struct ferry_error *err);
void block_writer_free(struct block_writer *b);
void block_writer_plan(struct block_writer *b, const struct disk_unit *unit);
int block_writer_put(struct block_writer *b, const struct disk_unit *unit, struct ferry_error *err);
/* What is left of the last block, and the front of a file.  *end: the size so far. */
int block_writer_finish(struct block_writer *b, uint64_t *end, struct ferry_error *err);
/* Is the block there?  *slot counts those that were, in the order of the disk. */
bool block_writer_has(const struct block_writer *b, uint64_t block);
/* Bytes at offset, at or behind what was written in order: with zeroes between. */
int sink_at(struct sink *sink, uint64_t offset, const void *data, size_t size,
            struct ferry_error *err);

#endif
