/*
 * VHD (Microsoft, Virtual Hard Disk Image Format Specification 1.0; QEMU calls it vpc), big-endian:
 * a footer at the end, and in a dynamic one a copy of it at the start, a header, a table of blocks
 * (u32 sectors, all ones: absent), and blocks, each behind a bitmap of its sectors.
 *
 * The size of the disk.  The footer has it in bytes, and as a geometry, which is rounded down.
 * Virtual PC goes by the geometry, everybody else by the bytes; QEMU takes the bytes if it knows
 * the creator for one of those who do, or if the geometry is at its end.  So do we on reading; and
 * we write the creator "win ", which all take at its bytes.
 *
 * A differencing disk has in its blocks what differs from its parent, sector by sector; the parent
 * is the one that the caller opened.
 */
#include <errno.h>
#include <jansson.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "imagefmt/foreign/pages.h"
#include "imagefmt/foreign/vhd.h"

#define CHILD_RUN_BYTES  (16 * MIB)
#define CHILD_PART_BYTES (1 * MIB)

struct vhd {
    struct disk disk;
    struct block_map map;
    struct vhd_footer footer;
    struct disk *parent; /* of the caller; NULL: zeroes */
    uint64_t bat_offset;
    struct pages *pages; /* NULL: fixed */
};

static bool vhd_probe(const uint8_t *head, size_t head_bytes, const uint8_t *tail,
                      size_t tail_bytes)
{
    struct vhd_footer footer;

    if (head_bytes >= VHD_FOOTER_BYTES && vhd_parse_footer(head, &footer))
        return footer.type != VHD_FIXED;
    return tail_bytes >= VHD_FOOTER_BYTES &&
           vhd_parse_footer(tail + tail_bytes - VHD_FOOTER_BYTES, &footer);
}

static void vhd_close(struct disk *disk)
{
    struct vhd *v = disk->opaque;

    pages_destroy(v->pages);
    free(v);
}

static void cleanup_vhd(struct vhd **v)
{
    if (*v)
        vhd_close(&(*v)->disk);
}

/* ---- Opening ---- */

/* A parent is a VHD by its marks, or what was made of it. */
static int vhd_external_format(struct source *source, char name[DISK_NAME_BYTES],
                               struct ferry_error *err)
{
    (void)source;
    (void)name;
    (void)err;
    return 0;
}

static int damaged(const struct vhd *v, const char *what, struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, v->map.source->about, "is damaged: %s", what);
}

/* The one at the end counts; the copy serves if that is lost. */
static int find_footer(struct vhd *v, struct ferry_error *err)
{
    struct source *source = v->map.source;
    uint8_t bytes[VHD_FOOTER_BYTES];

    if (source->size_bytes < VHD_FOOTER_BYTES)
        return ferry_refuse(err, -EBADMSG, source->about, "is not a VHD: it is too short");
    int error =
        source->pread(source, source->size_bytes - sizeof(bytes), bytes, sizeof(bytes), err);
    if (error || vhd_parse_footer(bytes, &v->footer))
        return error;
    error = source->pread(source, 0, bytes, sizeof(bytes), err);
    if (error || (vhd_parse_footer(bytes, &v->footer) && v->footer.type != VHD_FIXED))
        return error;
    return ferry_refuse(err, -EBADMSG, source->about,
                        "is not a VHD, or cut short: it has no footer with a right sum");
}

static int check_size(struct vhd *v, struct ferry_error *err)
{
    uint64_t size = vhd_disk_size(&v->footer);

    if (v->footer.version != VHD_VERSION)
        return ferry_refuse(err, -ENOTSUP, v->map.source->about,
                            "is of a version that is not known");
    if (!size || size > VHD_SIZE_MAX)
        return damaged(v, "its disk's size is out of range (to 2040 GiB)", err);
    if (v->footer.type == VHD_FIXED && size > v->map.source->size_bytes - VHD_FOOTER_BYTES)
        return ferry_refuse(err, -EBADMSG, v->map.source->about,
                            "is cut short: it holds less than its disk of %llu bytes",
                            (unsigned long long)size);
    v->disk.size_bytes = v->map.size_bytes = size;
    v->disk.stored_bytes = v->map.source->size_bytes;
    return 0;
}

/* Where a block's data begin, its bitmap being before it. */
static int vhd_place(const struct block_map *map, uint64_t block, uint64_t *offset,
                     struct ferry_error *err)
{
    const struct vhd *v = (const struct vhd *)((const char *)map - offsetof(struct vhd, map));
    uint8_t bytes[4];

    int error = pages_read(v->pages, v->bat_offset + block * 4, bytes, sizeof(bytes), err);
    if (error)
        return error;
    struct reader r = reader_init(bytes, sizeof(bytes));
    uint32_t sector = reader_u32be(&r);
    *offset = sector == VHD_ABSENT ? 0 : (uint64_t)sector * VHD_SECTOR + map->prefix_bytes;
    return 0;
}

/* A VHD has a name that its children know; in another format it has none, and is taken at his word
 * who gave it. */
static bool is_parent(const struct disk *disk, const struct vhd_header *header)
{
    const struct vhd *v = disk->opaque;

    return disk->format != &disk_format_vhd ||
           !memcmp(v->footer.identity, header->parent_identity, sizeof(v->footer.identity));
}

static int open_parent(struct vhd *v, const struct disk_open_options *options,
                       const struct vhd_header *header, struct ferry_error *err)
{
    if (!options || !options->backing)
        return ferry_refuse(err, -EPERM, v->map.source->about,
                            "builds on '%s'; allow it with --allow-external FILE", header->parent);
    v->parent = options->backing;
    if (v->parent->in_order)
        return ferry_usage(err, v->map.source->about, "cannot build on a stream");
    if (v->parent->size_bytes > v->disk.size_bytes)
        return ferry_refuse(err, -EBADMSG, v->map.source->about,
                            "is smaller than the parent that was given: it is another one's child");
    if (!is_parent(v->parent, header))
        return ferry_refuse(err, -EBADMSG, v->map.source->about,
                            "builds on '%s', which is not the parent that was given: that has "
                            "another UUID",
                            header->parent);
    v->disk.stored_bytes += v->parent->stored_bytes;
    return 0;
}

/* What is not content: footer, header, table, copy of the footer. */
static void name_areas(struct vhd *v, uint64_t bat_offset, uint64_t blocks)
{
    const uint64_t end = v->map.source->size_bytes;
    const struct block_area areas[] = {
        {0, VHD_FOOTER_BYTES},
        {v->footer.header_offset, v->footer.header_offset + VHD_HEADER_BYTES},
        {bat_offset, bat_offset + blocks * sizeof(uint32_t)},
        {end - VHD_FOOTER_BYTES, end},
    };

    memcpy(v->map.areas, areas, sizeof(areas));
}

static int open_dynamic(struct vhd *v, const struct disk_open_options *options,
                        struct ferry_error *err)
{
    struct source *source = v->map.source;
    uint8_t bytes[VHD_HEADER_BYTES];
    struct vhd_header header;

    if (v->footer.header_offset > source->size_bytes)
        return damaged(v, "its header is not within the file", err);
    int error = source->pread(source, v->footer.header_offset, bytes, sizeof(bytes), err);
    if (error)
        return error;
    if (!vhd_parse_header(bytes, &header))
        return damaged(v, "its dynamic header has no magic or a wrong sum", err);
    uint64_t block = header.block_bytes;
    if (block < 4 * KIB || block > VHD_BLOCK_MAX_BYTES || (block & (block - 1)))
        return damaged(v, "its block size is out of range (4 KiB to 256 MiB)", err);
    uint64_t blocks = (v->disk.size_bytes + block - 1) / block;
    if (blocks > header.entries || header.bat_offset > source->size_bytes ||
        blocks > (source->size_bytes - header.bat_offset) / 4)
        return damaged(v, "its block table is too short", err);
    v->bat_offset = header.bat_offset;
    v->map.block_bytes = header.block_bytes;
    v->map.place = vhd_place;
    v->map.prefix_bytes = vhd_bitmap_bytes(header.block_bytes);
    name_areas(v, header.bat_offset, blocks);
    error = pages_create(source, &v->pages, err);
    if (!error && v->footer.type == VHD_DIFFERENCING)
        error = open_parent(v, options, &header, err);
    return error;
}

static int vhd_open(struct source *source, const struct disk_open_options *options,
                    struct disk **out, struct ferry_error *err)
{
    CLEANUP(cleanup_vhd) struct vhd *v = calloc(1, sizeof(*v));

    if (!v)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    v->disk = (struct disk){.format = &disk_format_vhd, .opaque = v};
    v->map.source = source;
    int error = find_footer(v, err);
    if (!error)
        error = check_size(v, err);
    if (!error && v->footer.type != VHD_FIXED)
        error = open_dynamic(v, options, err);
    if (!error && v->footer.type != VHD_DIFFERENCING && options && options->backing)
        error = ferry_usage(err, source->about, "builds on no other file");
    if (error)
        return error;
    *out = &take_ptr(&v)->disk;
    return 0;
}

/* ---- Reading ---- */

static int fixed_extent(const struct vhd *v, uint64_t offset, struct disk_extent *extent)
{
    struct source *source = v->map.source;
    uint64_t start = offset, end = v->disk.size_bytes, all = end - offset;

    *extent = (struct disk_extent){.size_bytes = all, .kind = DISK_DATA};
    if (!source->next_data)
        return 0;
    if (!source->next_data(source, &start, &end)) {
        extent->kind = DISK_ZERO;
    } else if (start > offset) {
        extent->kind = DISK_ZERO;
        extent->size_bytes = start - offset < all ? start - offset : all;
    } else {
        extent->size_bytes = end - offset < all ? end - offset : all;
    }
    return 0;
}

/* Of a child: a block that is there is data as a whole, under one that is not the parent tells. */
static int child_extent(const struct vhd *v, uint64_t offset, struct disk_extent *extent,
                        struct ferry_error *err)
{
    struct disk_extent below = {0};
    uint64_t parent = v->parent->size_bytes;

    /* A parent in many pieces asks for this as many times: no walk over all of the table. */
    int error = block_map_extent(&v->map, offset, CHILD_RUN_BYTES, extent, err);
    if (error || extent->kind == DISK_DATA || offset >= parent)
        return error;
    error = v->parent->format->extent(v->parent, offset, &below, err);
    if (below.size_bytes > extent->size_bytes)
        below.size_bytes = extent->size_bytes;
    *extent = below;
    return error;
}

static int vhd_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                      struct ferry_error *err)
{
    const struct vhd *v = disk->opaque;

    return !v->pages   ? fixed_extent(v, offset, extent)
           : v->parent ? child_extent(v, offset, extent, err)
                       : block_map_extent(&v->map, offset, UINT64_MAX, extent, err);
}

static int read_parent(const struct vhd *v, uint64_t offset, uint8_t *out, size_t size,
                       struct ferry_error *err)
{
    uint64_t there = v->parent->size_bytes;
    size_t part = offset >= there ? 0 : size < there - offset ? size : there - offset;

    memset(out + part, 0, size - part);
    return part ? v->parent->format->read(v->parent, offset, out, part, err) : 0;
}

/*
 * A part of a block of a child that is there, of at most CHILD_PART_BYTES: sectors that the child
 * has, and those that it leaves to its parent, are read by runs.
 */
static int read_sectors(const struct vhd *v, uint64_t place, uint64_t offset, uint8_t *out,
                        size_t size, struct ferry_error *err)
{
    uint8_t bits[CHILD_PART_BYTES / VHD_SECTOR / 8 + 1];
    uint64_t within = offset % v->map.block_bytes, sector = within / VHD_SECTOR;
    uint64_t end = (within + size - 1) / VHD_SECTOR + 1, start = sector / 8;

    int error = pages_read(v->pages, place - v->map.prefix_bytes + start, bits,
                           (end - 1) / 8 - start + 1, err);
    while (!error && size) {
        bool own = bits[sector / 8 - start] & (0x80 >> (sector % 8));
        do {
            sector++;
        } while (sector < end && own == !!(bits[sector / 8 - start] & (0x80 >> (sector % 8))));
        uint64_t left = sector * VHD_SECTOR - within;
        size_t part = size < left ? size : (size_t)left;
        error = own ? v->map.source->pread(v->map.source, place + within, out, part, err)
                    : read_parent(v, offset, out, part, err);
        within += part;
        offset += part;
        out += part;
        size -= part;
    }
    return error;
}

static int read_child(const struct vhd *v, uint64_t offset, uint8_t *out, size_t size,
                      struct ferry_error *err)
{
    int error = 0;

    while (!error && size) {
        uint64_t place, left = v->map.block_bytes - offset % v->map.block_bytes;
        size_t part = size < left ? size : (size_t)left;
        part = part < CHILD_PART_BYTES ? part : CHILD_PART_BYTES;
        error = block_map_place(&v->map, offset / v->map.block_bytes, &place, err);
        if (error)
            return error;
        error = place ? read_sectors(v, place, offset, out, part, err)
                      : read_parent(v, offset, out, part, err);
        offset += part;
        out += part;
        size -= part;
    }
    return error;
}

static int vhd_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                    struct ferry_error *err)
{
    const struct vhd *v = disk->opaque;

    return !v->pages   ? v->map.source->pread(v->map.source, offset, data, size, err)
           : v->parent ? read_child(v, offset, data, size, err)
                       : block_map_read(&v->map, offset, data, size, err);
}

static void *vhd_describe(const struct disk *disk)
{
    const struct vhd *v = disk->opaque;
    const char *type = v->footer.type == VHD_FIXED     ? "fixed"
                       : v->footer.type == VHD_DYNAMIC ? "dynamic"
                                                       : "differencing";

    return json_pack("{s:s, s:I}", "type", type, "block_bytes", (json_int_t)v->map.block_bytes);
}

const struct disk_format disk_format_vhd = {
    .name = "vhd",
    .extension = ".vhd",
    .limits = "disks to 2040 GiB; dynamic (written by default), fixed, and differencing (read)",
    .streams = true,
    .probe = vhd_probe,
    .external_format = vhd_external_format,
    .open = vhd_open,
    .open_stream = vhd_open_stream,
    .extent = vhd_extent,
    .read = vhd_read,
    .describe = vhd_describe,
    .close = vhd_close,
    .create = vhd_create,
    .plan = vhd_plan,
    .put = vhd_put,
    .finish = vhd_finish,
    .destroy = vhd_destroy,
};
