/*
 * VHDX, reading: the newer header, the log laid over the file, regions and metadata, and then a
 * table of blocks, read through a cache.  The table has an entry for a sector bitmap after as many
 * entries of payload as one such bitmap covers, which only a differencing disk uses.
 */
#include <errno.h>
#include <jansson.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "imagefmt/foreign/pages.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/vhdx.h"

struct vhdx {
    struct disk disk;
    struct block_map map;
    struct source *file; /* of the caller */
    struct vhdx_layout layout;
    uint64_t ratio; /* payload entries for one of a bitmap */
    struct pages *pages;
};

static bool vhdx_probe(const uint8_t *head, size_t head_bytes, const uint8_t *tail,
                       size_t tail_bytes)
{
    (void)tail;
    (void)tail_bytes;
    return head_bytes >= 8 && !memcmp(head, "vhdxfile", 8);
}

static void vhdx_close(struct disk *disk)
{
    struct vhdx *v = disk->opaque;

    pages_destroy(v->pages);
    if (v->map.source != v->file)
        source_close(v->map.source);
    free(v);
}

static void cleanup_vhdx(struct vhdx **v)
{
    if (*v)
        vhdx_close(&(*v)->disk);
}

static int vhdx_place(const struct block_map *map, uint64_t block, uint64_t *offset,
                      struct ferry_error *err)
{
    const struct vhdx *v = (const struct vhdx *)((const char *)map - offsetof(struct vhdx, map));
    uint8_t bytes[8];

    int error = pages_read(v->pages, v->layout.bat_offset + (block + block / v->ratio) * 8, bytes,
                           sizeof(bytes), err);
    if (error)
        return error;
    struct reader r = reader_init(bytes, sizeof(bytes));
    uint64_t entry = reader_u64(&r);
    unsigned state = entry & 7;
    *offset = state == VHDX_FULL ? entry / MIB * MIB : 0;
    if (state == VHDX_PARTIAL || state == 3 || state == 4 || (state == VHDX_FULL && !*offset))
        return ferry_refuse(err, -EBADMSG, map->source->about,
                            "is damaged: the entry of block %llu makes no sense",
                            (unsigned long long)block);
    return 0;
}

static int open_layout(struct vhdx *v, struct ferry_error *err)
{
    struct vhdx_header header;
    uint8_t magic[8];

    int error = v->file->pread(v->file, 0, magic, sizeof(magic), err);
    if (error)
        return error;
    if (!vhdx_probe(magic, sizeof(magic), NULL, 0))
        return ferry_refuse(err, -EBADMSG, v->file->about, "is not a VHDX: the magic is missing");
    error = vhdx_read_header(v->file, &header, err);
    if (!error)
        error = vhdx_replay(v->file, &header, &v->map.source, err);
    if (!error)
        error = vhdx_read_layout(v->map.source, &v->layout, err);
    if (error)
        return error;
    const struct vhdx_layout *l = &v->layout;
    v->map.areas[0] = (struct block_area){0, MIB};
    v->map.areas[1] = (struct block_area){l->bat_offset, l->bat_offset + l->bat_bytes};
    v->map.areas[2] =
        (struct block_area){l->metadata_offset, l->metadata_offset + l->metadata_bytes};
    v->map.areas[3] = (struct block_area){header.log_offset, header.log_offset + header.log_bytes};
    return pages_create(v->map.source, &v->pages, err);
}

static int vhdx_open(struct source *source, const struct disk_open_options *options,
                     struct disk **out, struct ferry_error *err)
{
    CLEANUP(cleanup_vhdx) struct vhdx *v = calloc(1, sizeof(*v));

    (void)options;
    if (!v)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    v->file = v->map.source = source;
    v->disk = (struct disk){.format = &disk_format_vhdx, .opaque = v};
    int error = open_layout(v, err);
    if (error)
        return error;
    v->disk.size_bytes = v->map.size_bytes = v->layout.size_bytes;
    v->disk.stored_bytes = source->size_bytes + VHDX_LOG_MAX_BYTES;
    v->map.block_bytes = v->layout.block_bytes;
    v->map.place = vhdx_place;
    v->ratio = VHDX_CHUNK_SECTORS * v->layout.sector_bytes / v->layout.block_bytes;
    *out = &take_ptr(&v)->disk;
    return 0;
}

static int vhdx_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                       struct ferry_error *err)
{
    const struct vhdx *v = disk->opaque;

    return block_map_extent(&v->map, offset, UINT64_MAX, extent, err);
}

static int vhdx_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                     struct ferry_error *err)
{
    const struct vhdx *v = disk->opaque;

    return block_map_read(&v->map, offset, data, size, err);
}

static void *vhdx_describe(const struct disk *disk)
{
    const struct vhdx *v = disk->opaque;

    return json_pack("{s:s, s:I, s:I, s:b}", "type",
                     v->layout.flags & VHDX_LEAVE_ALLOCATED ? "fixed" : "dynamic", "block_bytes",
                     (json_int_t)v->layout.block_bytes, "sector_bytes",
                     (json_int_t)v->layout.sector_bytes, "log_replayed", v->map.source != v->file);
}

const struct disk_format disk_format_vhdx = {
    .name = "vhdx",
    .extension = ".vhdx",
    .limits = "disks to 64 TiB; dynamic (written by default) and fixed; the log is replayed; no "
              "differencing",
    .streams = true,
    .probe = vhdx_probe,
    .open = vhdx_open,
    .extent = vhdx_extent,
    .read = vhdx_read,
    .describe = vhdx_describe,
    .close = vhdx_close,
    .create = vhdx_create,
    .plan = vhdx_plan,
    .put = vhdx_put,
    .finish = vhdx_finish,
    .destroy = vhdx_destroy,
};
