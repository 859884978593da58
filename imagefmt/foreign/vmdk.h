/*
 * VMDK (VMware, Virtual Disk Format 5.0; libyal, VMware Virtual Disk Format): what its files share.
 * Private to imagefmt/foreign/.  Numbers are little-endian, places and sizes are in sectors of 512.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_VMDK_H
#define FERRY_IMAGEFMT_FOREIGN_VMDK_H

#include "imagefmt/foreign/codec.h"
#include "imagefmt/foreign/disk.h"

#define VMDK_SECTOR               UINT64_C(512)
#define VMDK_MAGIC                0x564d444bu /* "KDMV" */
#define VMDK_GTES                 512         /* entries of one grain table */
#define VMDK_GT_BYTES             ((size_t)VMDK_GTES * 4)
#define VMDK_GD_AT_END            UINT64_MAX
#define VMDK_CAPACITY_MAX         (UINT64_C(1) << 32) /* sectors: 2 TiB, entries have 32 bits */
#define VMDK_DESCRIPTOR_MAX_BYTES (64 * KIB)
#define VMDK_DESCRIPTOR_SECTORS   20 /* as written here */
#define VMDK_GRAIN_SECTORS        128
#define VMDK_GRAIN_BYTES          (VMDK_GRAIN_SECTORS * VMDK_SECTOR)
#define VMDK_GRAIN_MARKER_BYTES   12 /* u64 LBA, u32 size; other markers: sectors, 0, u32 kind */
#define VMDK_GTE_ZERO             1  /* with VMDK_FLAG_ZEROED */

#define VMDK_FLAG_NEWLINES   (1u << 0)
#define VMDK_FLAG_REDUNDANT  (1u << 1)
#define VMDK_FLAG_ZEROED     (1u << 2)
#define VMDK_FLAG_COMPRESSED (1u << 16)
#define VMDK_FLAG_MARKERS    (1u << 17)

enum vmdk_marker {
    VMDK_MARKER_END = 0,
    VMDK_MARKER_GT = 1,
    VMDK_MARKER_GD = 2,
    VMDK_MARKER_FOOTER = 3,
};

/* SparseExtentHeader: the first sector, and the footer of a stream. */
struct vmdk_header {
    uint32_t version, flags;
    uint64_t capacity, grain, descriptor, descriptor_sectors;
    uint32_t gtes;
    uint64_t redundant_gd, gd, overhead;
    uint16_t compression;
};

/* What a descriptor says that matters here. */
struct vmdk_descriptor {
    char create_type[32];
    char parent[256]; /* parentFileNameHint, fit to be shown */
    uint32_t cid;
    bool has_parent;
    unsigned extents;
    /* the first extent */
    uint64_t sectors, offset;
    char kind[16];  /* "SPARSE", "FLAT" ... */
    char file[256]; /* fit to be shown */
};

/* FERRY_REFUSED: not a header that is read here. */
int vmdk_parse_header(const uint8_t sector[VMDK_SECTOR], const char *about,
                      struct vmdk_header *header, struct ferry_error *err);
void vmdk_compose_header(const struct vmdk_header *header, uint8_t sector[VMDK_SECTOR]);
/* Is this the text of a descriptor? */
bool vmdk_is_descriptor(const uint8_t *bytes, size_t size);
/* size bytes at offset of source, at most VMDK_DESCRIPTOR_MAX_BYTES. */
int vmdk_read_descriptor(struct source *source, uint64_t offset, uint64_t size,
                         struct vmdk_descriptor *descriptor, struct ferry_error *err);
/* One extent, no parent: what more there is would have to come from other files. */
int vmdk_check_descriptor(const struct vmdk_descriptor *descriptor, const char *about,
                          struct ferry_error *err);
/* A grain into out, of grain_bytes, as codec_decompress.  left: of the disk from there on: its last
 * grain may be stored short. */
int vmdk_inflate(struct codec *codec, const uint8_t *stored, size_t size, uint8_t *out,
                 uint64_t grain_bytes, uint64_t left);
/* Into VMDK_DESCRIPTOR_SECTORS sectors; the extent is called "disk.vmdk": what is in a file does
 * not depend on its name. */
void vmdk_compose_descriptor(const struct disk_write_options *options, const char *create_type,
                             const char *access, uint8_t *text);

bool vmdk_probe(const uint8_t *head, size_t head_bytes, const uint8_t *tail, size_t tail_bytes);
/* vmdk_stream.c: streamOptimized, in order. */
int vmdk_open_stream(struct stream *stream, const struct disk_open_options *options,
                     struct disk **out, struct ferry_error *err);
int vmdk_create(struct sink *sink, const struct disk_write_options *options,
                struct disk_writer **out, struct ferry_error *err);
int vmdk_encode(const struct disk_writer *writer, struct disk_unit *unit, struct ferry_error *err);
int vmdk_put(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err);
int vmdk_finish(struct disk_writer *writer, struct ferry_error *err);
void vmdk_destroy(struct disk_writer *writer);

#endif
