/*
 * VHDX, writing: identifier, two headers, two region tables, an empty log, metadata, the table of
 * blocks, blocks.  All that lies before the blocks is written at once, when it is known which there
 * are (blocks.h).
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/zero.h"
#include "imagefmt/foreign/vhdx.h"

#define LOG_OFFSET      (1 * MIB)
#define LOG_BYTES       (1 * MIB)
#define METADATA_OFFSET (2 * MIB)
#define METADATA_BYTES  (1 * MIB)
#define BAT_OFFSET      (3 * MIB)
#define BLOCK_BYTES     (2 * MIB)
#define SECTOR_BYTES    512
#define PHYSICAL_BYTES  4096
#define BAT_PART        4096 /* entries written at once */
#define ITEM_DISK       6u   /* describes the disk, must be known */
#define ITEM_FILE       4u   /* describes the file, must be known */

struct vhdx_writer {
    struct disk_writer writer;
    struct block_writer blocks;
    uint64_t size_bytes, bat_entries, ratio;
    uint8_t identity[VHDX_GUID_BYTES];
};

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

/* One of several GUIDs that are made of the identity. */
static void write_guid(struct writer *w, const struct vhdx_writer *v, uint8_t which)
{
    writer_copy(w, v->identity, VHDX_GUID_BYTES - 1);
    writer_u8(w, v->identity[VHDX_GUID_BYTES - 1] ^ which);
}

/* w, filled with zeroes to size and with its sum in it, at offset. */
static int write_summed(const struct vhdx_writer *v, struct writer *w, uint64_t offset, size_t size,
                        struct ferry_error *err)
{
    writer_grow(w, size - w->size);
    if (w->error)
        return ferry_fail(err, w->error, v->blocks.sink->about, "out of memory");
    writer_put_u32_at(w, 4, vhdx_sum(w->data, size));
    return sink_at(v->blocks.sink, offset, w->data, size, err);
}

static int write_identifier(const struct vhdx_writer *v, struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer w = writer_init(64);

    writer_copy(&w, "vhdxfile", 8);
    for (const char *c = "ferry"; *c; c++) /* the creator, in UTF-16 */
        writer_u16(&w, (uint8_t)*c);
    return w.error ? ferry_fail(err, w.error, v->blocks.sink->about, "out of memory")
                   : sink_at(v->blocks.sink, 0, w.data, w.size, err);
}

static int write_header(const struct vhdx_writer *v, unsigned which, struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer w = writer_init(VHDX_HEADER_BYTES);

    writer_copy(&w, "head\0\0\0\0", 8);
    writer_u64(&w, which); /* sequence */
    write_guid(&w, v, 0);
    write_guid(&w, v, 1);
    writer_grow(&w, VHDX_GUID_BYTES); /* no log to replay */
    writer_u16(&w, 0);
    writer_u16(&w, 1);
    writer_u32(&w, LOG_BYTES);
    writer_u64(&w, LOG_OFFSET);
    return write_summed(v, &w, which * VHDX_HEADER_OFFSET, VHDX_HEADER_BYTES, err);
}

static int write_regions(const struct vhdx_writer *v, unsigned which, struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer w = writer_init(VHDX_REGIONS_BYTES);

    writer_copy(&w, "regi\0\0\0\0", 8);
    writer_u32(&w, 2);
    writer_u32(&w, 0);
    writer_copy(&w, vhdx_guids[VHDX_GUID_BAT], VHDX_GUID_BYTES);
    writer_u64(&w, BAT_OFFSET);
    writer_u32(&w, (uint32_t)(v->blocks.data_offset - BAT_OFFSET));
    writer_u32(&w, 1);
    writer_copy(&w, vhdx_guids[VHDX_GUID_METADATA], VHDX_GUID_BYTES);
    writer_u64(&w, METADATA_OFFSET);
    writer_u32(&w, METADATA_BYTES);
    writer_u32(&w, 1);
    return write_summed(v, &w, VHDX_REGIONS_OFFSET + which * VHDX_REGIONS_BYTES, VHDX_REGIONS_BYTES,
                        err);
}

static void write_item(struct writer *w, enum vhdx_guid which, uint32_t offset, uint32_t size,
                       uint32_t flags)
{
    writer_copy(w, vhdx_guids[which], VHDX_GUID_BYTES);
    writer_u32(w, VHDX_METADATA_BYTES + offset);
    writer_u32(w, size);
    writer_u32(w, flags);
    writer_u32(w, 0);
}

static int write_metadata(const struct vhdx_writer *v, struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer w = writer_init(VHDX_METADATA_BYTES + 64);

    writer_copy(&w, "metadata", 8);
    writer_u16(&w, 0);
    writer_u16(&w, 5);
    writer_grow(&w, 20);
    write_item(&w, VHDX_GUID_FILE_PARAMETERS, 0, 8, ITEM_FILE);
    write_item(&w, VHDX_GUID_DISK_SIZE, 8, 8, ITEM_DISK);
    write_item(&w, VHDX_GUID_DISK_ID, 16, 16, ITEM_DISK);
    write_item(&w, VHDX_GUID_LOGICAL_SECTOR, 32, 4, ITEM_DISK);
    write_item(&w, VHDX_GUID_PHYSICAL_SECTOR, 36, 4, ITEM_DISK);
    writer_grow(&w, VHDX_METADATA_BYTES - w.size);
    writer_u32(&w, v->blocks.block_bytes);
    writer_u32(&w, v->blocks.fixed ? VHDX_LEAVE_ALLOCATED : 0);
    writer_u64(&w, v->size_bytes);
    write_guid(&w, v, 2);
    writer_u32(&w, SECTOR_BYTES);
    writer_u32(&w, PHYSICAL_BYTES);
    return w.error ? ferry_fail(err, w.error, v->blocks.sink->about, "out of memory")
                   : sink_at(v->blocks.sink, METADATA_OFFSET, w.data, w.size, err);
}

/* Parts without a block stay a hole of the file. */
static int write_bat(const struct vhdx_writer *v, struct ferry_error *err)
{
    const struct block_writer *b = &v->blocks;
    uint64_t block = 0, slot = 0;
    int error = 0;

    for (uint64_t first = 0; !error && first < v->bat_entries; first += BAT_PART) {
        CLEANUP(writer_free) struct writer w = writer_init((size_t)BAT_PART * 8);
        for (uint64_t i = first; i < v->bat_entries && i < first + BAT_PART; i++) {
            bool bitmap = i % (v->ratio + 1) == v->ratio;
            bool there = !bitmap && block_writer_has(b, block);
            writer_u64(&w, there ? (b->data_offset + slot * b->block_bytes) | VHDX_FULL : 0);
            block += !bitmap;
            slot += there;
        }
        if (w.error)
            return ferry_fail(err, w.error, b->sink->about, "out of memory");
        if (!is_zero(w.data, w.size))
            error = sink_at(b->sink, BAT_OFFSET + first * 8, w.data, w.size, err);
    }
    return error;
}

static int write_front(struct block_writer *b, struct ferry_error *err)
{
    const struct vhdx_writer *v =
        (struct vhdx_writer *)((char *)b - offsetof(struct vhdx_writer, blocks));
    int error = write_identifier(v, err);

    for (unsigned i = 1; !error && i <= 2; i++)
        error = write_header(v, i, err);
    for (unsigned i = 0; !error && i < 2; i++)
        error = write_regions(v, i, err);
    if (!error)
        error = write_metadata(v, err);
    return error ? error : write_bat(v, err);
}

void vhdx_destroy(struct disk_writer *writer)
{
    struct vhdx_writer *v = writer->opaque;

    block_writer_free(&v->blocks);
    free(v);
}

static void cleanup_writer(struct vhdx_writer **v)
{
    if (*v)
        vhdx_destroy(&(*v)->writer);
}

static int check_options(const struct sink *sink, const struct disk_write_options *options,
                         struct ferry_error *err)
{
    uint64_t block = options->unit_bytes;

    if (options->subformat && strcmp(options->subformat, "dynamic") != 0 &&
        strcmp(options->subformat, "fixed") != 0)
        return ferry_usage(err, sink->about, "'%s' is not a kind of VHDX: dynamic or fixed",
                           options->subformat);
    if (options->codec && strcmp(options->codec, "none") != 0)
        return ferry_usage(err, sink->about, "VHDX does not compress: codec 'none' only");
    if (block &&
        (block < VHDX_BLOCK_MIN_BYTES || block > VHDX_BLOCK_MAX_BYTES || (block & (block - 1))))
        return ferry_usage(err, sink->about, "VHDX has blocks of 1 to 256 MiB, a power of two");
    if (!options->size_bytes || options->size_bytes > LIMIT_DISK_BYTES)
        return ferry_refuse(err, -EFBIG, sink->about, "a VHDX holds disks of 512 bytes to 64 TiB");
    return 0;
}

static void plan_places(struct vhdx_writer *v, struct sink *sink,
                        const struct disk_write_options *options)
{
    struct block_writer *b = &v->blocks;
    uint32_t block = options->unit_bytes ? (uint32_t)options->unit_bytes : BLOCK_BYTES;

    v->size_bytes = options->size_bytes;
    memcpy(v->identity, options->identity, sizeof(v->identity));
    *b = (struct block_writer){
        .sink = sink,
        .block_bytes = block,
        .fixed = options->subformat && !strcmp(options->subformat, "fixed"),
        .count = (options->size_bytes + block - 1) / block,
        .front = write_front,
    };
    v->ratio = VHDX_CHUNK_SECTORS * SECTOR_BYTES / block;
    v->bat_entries = b->count + (b->count - 1) / v->ratio;
    b->data_offset = BAT_OFFSET + round_up(v->bat_entries * 8, MIB);
    v->writer = (struct disk_writer){
        .format = &disk_format_vhdx,
        .unit_bytes = BLOCKS_UNIT_BYTES,
        .run_bytes = BLOCKS_RUN_BYTES,
        .plan = sink->pwrite || b->fixed ? DISK_PLAN_NONE : DISK_PLAN_PLACES,
        .opaque = v,
    };
}

int vhdx_create(struct sink *sink, const struct disk_write_options *options,
                struct disk_writer **out, struct ferry_error *err)
{
    CLEANUP(cleanup_writer) struct vhdx_writer *v = calloc(1, sizeof(*v));

    if (!v)
        return ferry_fail(err, -ENOMEM, sink->about, "out of memory");
    v->writer.opaque = v;
    int error = check_options(sink, options, err);
    if (error)
        return error;
    plan_places(v, sink, options);
    error = block_writer_init(&v->blocks, err);
    if (error)
        return error;
    *out = &take_ptr(&v)->writer;
    return 0;
}

int vhdx_plan(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err)
{
    (void)err;
    block_writer_plan(&((struct vhdx_writer *)writer->opaque)->blocks, unit);
    return 0;
}

int vhdx_put(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err)
{
    return block_writer_put(&((struct vhdx_writer *)writer->opaque)->blocks, unit, err);
}

int vhdx_finish(struct disk_writer *writer, struct ferry_error *err)
{
    uint64_t end;

    return block_writer_finish(&((struct vhdx_writer *)writer->opaque)->blocks, &end, err);
}
