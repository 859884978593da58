/*
 * VDI (VirtualBox; libyal, Virtual Disk Image format), little-endian: a header, a map of blocks of
 * u32 (which block of the file, all ones: never written, all ones but one: discarded), blocks.
 * Dynamic and static (fixed) ones; a child is named and refused.
 */
#include <errno.h>
#include <jansson.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/zero.h"
#include "imagefmt/foreign/blocks.h"
#include "imagefmt/foreign/pages.h"

#define VDI_SIGNATURE       0xbeda107fu
#define VDI_VERSION         0x00010001u
#define VDI_HEADER_BYTES    512
#define VDI_SIGNATURE_AT    64
#define VDI_BLOCK_BYTES     (1 * MIB)
#define VDI_BLOCK_MAX_BYTES (64 * MIB)
#define VDI_ABSENT          0xffffffffu
#define VDI_DISCARDED       0xfffffffeu
#define VDI_BLOCKS_MAX      0xfffffffdu
#define VDI_TEXT            "<<< Oracle VM VirtualBox Disk Image >>>\n"
#define TABLE_ALIGNMENT     (1 * MIB)
#define TABLE_PART_ENTRIES  4096

enum vdi_type {
    VDI_DYNAMIC = 1,
    VDI_STATIC = 2,
};

struct vdi {
    struct disk disk;
    struct block_map map;
    struct pages *pages;
    uint32_t type, blocks, map_offset, data_offset, extra;
};

static bool vdi_probe(const uint8_t *head, size_t head_bytes, const uint8_t *tail,
                      size_t tail_bytes)
{
    struct reader r = reader_init(head, head_bytes);

    (void)tail;
    (void)tail_bytes;
    reader_take(&r, VDI_SIGNATURE_AT);
    return reader_u32(&r) == VDI_SIGNATURE && reader_u32(&r) >> 16 == 1;
}

static void vdi_close(struct disk *disk)
{
    struct vdi *v = disk->opaque;

    pages_destroy(v->pages);
    free(v);
}

static void cleanup_vdi(struct vdi **v)
{
    if (*v)
        vdi_close(&(*v)->disk);
}

static int vdi_place(const struct block_map *map, uint64_t block, uint64_t *offset,
                     struct ferry_error *err)
{
    const struct vdi *v = (const struct vdi *)((const char *)map - offsetof(struct vdi, map));
    uint8_t bytes[4];

    int error = pages_read(v->pages, v->map_offset + block * 4, bytes, sizeof(bytes), err);
    if (error)
        return error;
    struct reader r = reader_init(bytes, sizeof(bytes));
    uint32_t entry = reader_u32(&r);
    if (entry >= VDI_DISCARDED)
        *offset = 0;
    else
        *offset = v->data_offset + entry * ((uint64_t)map->block_bytes + v->extra) + v->extra;
    return 0;
}

static const char *vdi_fault(const struct vdi *v, uint32_t signature, uint32_t version,
                             uint64_t size, const uint8_t parent[16])
{
    uint64_t block = v->map.block_bytes;

    if (signature != VDI_SIGNATURE)
        return "is not a VDI: its signature is missing";
    if (version != VDI_VERSION)
        return "is of a version that is not known (known: 1.1)";
    if (v->type != VDI_DYNAMIC && v->type != VDI_STATIC)
        return "is a differencing or undo image, which is not read: merge its snapshots first";
    if (!is_zero(parent, 16))
        return "is a child of another image, which is not read: merge its snapshots first";
    if (block < 4 * KIB || block > VDI_BLOCK_MAX_BYTES || (block & (block - 1)))
        return "has a block size that is out of range (4 KiB to 64 MiB, a power of two)";
    if (v->extra % 512 || v->extra > MIB)
        return "has an odd size of data before its blocks";
    if (!size || size > LIMIT_DISK_BYTES || size % 512)
        return "has a disk size that is out of range (to 64 TiB, whole sectors)";
    if ((size + block - 1) / block > v->blocks)
        return "has fewer blocks than its disk";
    if (v->map_offset < 256 || v->map_offset > v->map.source->size_bytes ||
        (size + block - 1) / block > (v->map.source->size_bytes - v->map_offset) / 4)
        return "is cut short: its map is not within the file";
    if (v->data_offset % 512 ||
        v->data_offset < v->map_offset + (size + block - 1) / block * sizeof(uint32_t))
        return "has its data before its map";
    return NULL;
}

static int vdi_parse(struct vdi *v, const uint8_t *header, struct ferry_error *err)
{
    struct reader r = reader_init(header, VDI_HEADER_BYTES);

    reader_take(&r, VDI_SIGNATURE_AT);
    uint32_t signature = reader_u32(&r), version = reader_u32(&r);
    reader_u32(&r); /* header size */
    v->type = reader_u32(&r);
    reader_u32(&r);       /* flags */
    reader_take(&r, 256); /* description */
    v->map_offset = reader_u32(&r);
    v->data_offset = reader_u32(&r);
    reader_take(&r, 20); /* CHS, sector size, unused */
    uint64_t size = reader_u64(&r);
    v->map.block_bytes = reader_u32(&r);
    v->extra = reader_u32(&r);
    v->blocks = reader_u32(&r);
    reader_u32(&r);      /* allocated */
    reader_take(&r, 48); /* UUIDs: image, snapshot, link */
    const uint8_t *parent = reader_take(&r, 16);
    v->disk.size_bytes = v->map.size_bytes = size;
    v->disk.stored_bytes = v->map.source->size_bytes;
    const char *fault = vdi_fault(v, signature, version, size, parent);
    return fault ? ferry_refuse(err, -EBADMSG, v->map.source->about, "%s", fault) : 0;
}

static int vdi_open(struct source *source, const struct disk_open_options *options,
                    struct disk **out, struct ferry_error *err)
{
    CLEANUP(cleanup_vdi) struct vdi *v = calloc(1, sizeof(*v));
    uint8_t header[VDI_HEADER_BYTES];

    (void)options;
    if (!v)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    v->disk = (struct disk){.format = &disk_format_vdi, .opaque = v};
    v->map = (struct block_map){.source = source, .place = vdi_place};
    int error = source->pread(source, 0, header, sizeof(header), err);
    if (!error)
        error = vdi_parse(v, header, err);
    if (!error)
        error = pages_create(source, &v->pages, err);
    if (error)
        return error;
    *out = &take_ptr(&v)->disk;
    return 0;
}

static int vdi_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                      struct ferry_error *err)
{
    const struct vdi *v = disk->opaque;

    return block_map_extent(&v->map, offset, UINT64_MAX, extent, err);
}

static int vdi_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                    struct ferry_error *err)
{
    const struct vdi *v = disk->opaque;

    return block_map_read(&v->map, offset, data, size, err);
}

static void *vdi_describe(const struct disk *disk)
{
    const struct vdi *v = disk->opaque;

    return json_pack("{s:s, s:I}", "type", v->type == VDI_STATIC ? "static" : "dynamic",
                     "block_bytes", (json_int_t)v->map.block_bytes);
}

/* ---- Writing ---- */

struct vdi_writer {
    struct disk_writer writer;
    struct block_writer blocks;
    uint64_t size_bytes;
    uint8_t identity[16];
};

static uint64_t count_present(const struct block_writer *b)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < b->count; i++)
        count += block_writer_has(b, i);
    return count;
}

static int write_header(const struct vdi_writer *v, struct ferry_error *err)
{
    const struct block_writer *b = &v->blocks;
    CLEANUP(writer_free) struct writer w = writer_init(VDI_HEADER_BYTES);

    writer_copy(&w, VDI_TEXT, strlen(VDI_TEXT));
    writer_grow(&w, VDI_SIGNATURE_AT - strlen(VDI_TEXT));
    writer_u32(&w, VDI_SIGNATURE);
    writer_u32(&w, VDI_VERSION);
    writer_u32(&w, 0x190); /* bytes of the header from here on */
    writer_u32(&w, b->fixed ? VDI_STATIC : VDI_DYNAMIC);
    writer_u32(&w, 0);
    writer_grow(&w, 256);
    writer_u32(&w, VDI_HEADER_BYTES); /* the map */
    writer_u32(&w, (uint32_t)b->data_offset);
    writer_grow(&w, 12); /* CHS: left to the reader */
    writer_u32(&w, 512);
    writer_u32(&w, 0);
    writer_u64(&w, v->size_bytes);
    writer_u32(&w, b->block_bytes);
    writer_u32(&w, 0);
    writer_u32(&w, (uint32_t)b->count);
    writer_u32(&w, (uint32_t)count_present(b));
    writer_copy(&w, v->identity, 16);
    writer_copy(&w, v->identity, 15); /* of the last snapshot: another one */
    writer_u8(&w, (uint8_t)~v->identity[15]);
    writer_grow(&w, VDI_HEADER_BYTES - w.size);
    return w.error ? ferry_fail(err, w.error, b->sink->about, "out of memory")
                   : sink_at(b->sink, 0, w.data, w.size, err);
}

static int vdi_front(struct block_writer *b, struct ferry_error *err)
{
    const struct vdi_writer *v =
        (struct vdi_writer *)((char *)b - offsetof(struct vdi_writer, blocks));
    uint32_t slot = 0;

    int error = write_header(v, err);
    for (uint64_t first = 0; !error && first < b->count; first += TABLE_PART_ENTRIES) {
        CLEANUP(writer_free) struct writer w = writer_init((size_t)TABLE_PART_ENTRIES * 4);
        for (uint64_t i = first; i < b->count && i < first + TABLE_PART_ENTRIES; i++)
            writer_u32(&w, block_writer_has(b, i) ? slot++ : VDI_ABSENT);
        error = w.error ? ferry_fail(err, w.error, b->sink->about, "out of memory")
                        : sink_at(b->sink, VDI_HEADER_BYTES + first * 4, w.data, w.size, err);
    }
    return error;
}

static void vdi_destroy(struct disk_writer *writer)
{
    struct vdi_writer *v = writer->opaque;

    block_writer_free(&v->blocks);
    free(v);
}

static void cleanup_writer(struct vdi_writer **v)
{
    if (*v)
        vdi_destroy(&(*v)->writer);
}

static int check_options(const struct sink *sink, const struct disk_write_options *options,
                         struct ferry_error *err)
{
    if (options->subformat && strcmp(options->subformat, "dynamic") != 0 &&
        strcmp(options->subformat, "static") != 0)
        return ferry_usage(err, sink->about, "'%s' is not a kind of VDI: dynamic or static",
                           options->subformat);
    if (options->codec && strcmp(options->codec, "none") != 0)
        return ferry_usage(err, sink->about, "VDI does not compress: codec 'none' only");
    if (options->unit_bytes && options->unit_bytes != VDI_BLOCK_BYTES)
        return ferry_usage(err, sink->about, "VDI has blocks of 1 MiB only");
    if (!options->size_bytes || options->size_bytes > LIMIT_DISK_BYTES)
        return ferry_refuse(err, -EFBIG, sink->about, "a VDI holds disks of 512 bytes to 64 TiB");
    return 0;
}

static int vdi_create(struct sink *sink, const struct disk_write_options *options,
                      struct disk_writer **out, struct ferry_error *err)
{
    CLEANUP(cleanup_writer) struct vdi_writer *v = calloc(1, sizeof(*v));

    if (!v)
        return ferry_fail(err, -ENOMEM, sink->about, "out of memory");
    v->writer.opaque = v;
    int error = check_options(sink, options, err);
    if (error)
        return error;
    v->size_bytes = options->size_bytes;
    memcpy(v->identity, options->identity, sizeof(v->identity));
    struct block_writer *b = &v->blocks;
    *b = (struct block_writer){
        .sink = sink,
        .block_bytes = VDI_BLOCK_BYTES,
        .fixed = options->subformat && !strcmp(options->subformat, "static"),
        .count = (options->size_bytes + VDI_BLOCK_BYTES - 1) / VDI_BLOCK_BYTES,
        .front = vdi_front,
    };
    b->data_offset =
        (VDI_HEADER_BYTES + b->count * 4 + TABLE_ALIGNMENT - 1) / TABLE_ALIGNMENT * TABLE_ALIGNMENT;
    v->writer = (struct disk_writer){
        .format = &disk_format_vdi,
        .unit_bytes = BLOCKS_UNIT_BYTES,
        .run_bytes = BLOCKS_RUN_BYTES,
        .plan = sink->pwrite || b->fixed ? DISK_PLAN_NONE : DISK_PLAN_PLACES,
        .opaque = v,
    };
    error = block_writer_init(b, err);
    if (error)
        return error;
    *out = &take_ptr(&v)->writer;
    return 0;
}

static int vdi_plan(struct disk_writer *writer, const struct disk_unit *unit,
                    struct ferry_error *err)
{
    (void)err;
    block_writer_plan(&((struct vdi_writer *)writer->opaque)->blocks, unit);
    return 0;
}

static int vdi_put(struct disk_writer *writer, const struct disk_unit *unit,
                   struct ferry_error *err)
{
    return block_writer_put(&((struct vdi_writer *)writer->opaque)->blocks, unit, err);
}

static int vdi_finish(struct disk_writer *writer, struct ferry_error *err)
{
    uint64_t end;

    return block_writer_finish(&((struct vdi_writer *)writer->opaque)->blocks, &end, err);
}

const struct disk_format disk_format_vdi = {
    .name = "vdi",
    .extension = ".vdi",
    .limits = "disks to 64 TiB; dynamic (written by default) and static; no children",
    .streams = true,
    .probe = vdi_probe,
    .open = vdi_open,
    .extent = vdi_extent,
    .read = vdi_read,
    .describe = vdi_describe,
    .close = vdi_close,
    .create = vdi_create,
    .plan = vdi_plan,
    .put = vdi_put,
    .finish = vdi_finish,
    .destroy = vdi_destroy,
};
