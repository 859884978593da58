/*
 * VHD, writing: dynamic (copy of the footer, header, table, blocks, footer) and fixed (the content
 * and a footer).
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "imagefmt/foreign/sink.h"
#include "imagefmt/foreign/vhd.h"

#define BAT_OFFSET    (VHD_FOOTER_BYTES + VHD_HEADER_BYTES)
#define BAT_PART      4096 /* entries written at once; whole sectors of them */
#define FOOTER_SUM_AT 64
#define HEADER_SUM_AT 36
#define NOWHERE       UINT64_MAX

struct vhd_writer {
    struct disk_writer writer;
    struct block_writer blocks;
    uint64_t size_bytes;
    uint8_t identity[16];
};

/* The specification's: rounded down, and what does not fit is the largest that does. */
static void write_geometry(struct writer *w, uint64_t size_bytes)
{
    const uint64_t most = (uint64_t)65535 * 16 * 255;
    uint64_t total = size_bytes / VHD_SECTOR, tracks;
    uint32_t heads, sectors;

    total = total > most ? most : total;
    if (total >= (uint64_t)65535 * 16 * 63) {
        sectors = 255;
        heads = 16;
        tracks = total / sectors;
    } else {
        sectors = 17;
        tracks = total / sectors;
        heads = (uint32_t)((tracks + 1023) / 1024);
        heads = heads < 4 ? 4 : heads;
        if (tracks >= (uint64_t)heads * 1024 || heads > 16) {
            sectors = 31;
            heads = 16;
            tracks = total / sectors;
        }
        if (tracks >= (uint64_t)heads * 1024) {
            sectors = 63;
            heads = 16;
            tracks = total / sectors;
        }
    }
    writer_u16be(w, (uint16_t)(tracks / heads));
    writer_u8(w, (uint8_t)heads);
    writer_u8(w, (uint8_t)sectors);
}

static void put_sum(struct writer *w, size_t at)
{
    uint32_t sum = w->error ? 0 : vhd_sum(w->data, w->size, at);

    writer_put_u32_at(w, at, __builtin_bswap32(sum)); /* which stores little-endian */
}

static int write_footer(const struct vhd_writer *v, uint64_t offset, struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer w = writer_init(VHD_FOOTER_BYTES);

    writer_copy(&w, "conectix", 8);
    writer_u32be(&w, 2); /* features: a bit that is always set */
    writer_u32be(&w, VHD_VERSION);
    writer_u64be(&w, v->blocks.fixed ? NOWHERE : VHD_FOOTER_BYTES);
    writer_u32be(&w, 0); /* time: the same bytes for the same disk */
    writer_copy(&w, "win ", 4);
    writer_u32be(&w, 0x000a0000);
    writer_copy(&w, "Wi2k", 4);
    writer_u64be(&w, v->size_bytes);
    writer_u64be(&w, v->size_bytes);
    write_geometry(&w, v->size_bytes);
    writer_u32be(&w, v->blocks.fixed ? VHD_FIXED : VHD_DYNAMIC);
    writer_u32be(&w, 0);
    writer_copy(&w, v->identity, 16);
    writer_grow(&w, VHD_FOOTER_BYTES - w.size);
    put_sum(&w, FOOTER_SUM_AT);
    return w.error ? ferry_fail(err, w.error, v->blocks.sink->about, "out of memory")
                   : sink_at(v->blocks.sink, offset, w.data, w.size, err);
}

static int write_header(const struct vhd_writer *v, struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer w = writer_init(VHD_HEADER_BYTES);

    writer_copy(&w, "cxsparse", 8);
    writer_u64be(&w, NOWHERE);
    writer_u64be(&w, BAT_OFFSET);
    writer_u32be(&w, VHD_VERSION);
    writer_u32be(&w, (uint32_t)v->blocks.count);
    writer_u32be(&w, v->blocks.block_bytes);
    writer_grow(&w, VHD_HEADER_BYTES - w.size);
    put_sum(&w, HEADER_SUM_AT);
    return w.error ? ferry_fail(err, w.error, v->blocks.sink->about, "out of memory")
                   : sink_at(v->blocks.sink, VHD_FOOTER_BYTES, w.data, w.size, err);
}

static int write_bat(const struct vhd_writer *v, struct ferry_error *err)
{
    const struct block_writer *b = &v->blocks;
    uint64_t entries = (b->data_offset - BAT_OFFSET) / 4, at = b->data_offset;
    int error = 0;

    for (uint64_t first = 0; !error && first < entries; first += BAT_PART) {
        CLEANUP(writer_free) struct writer w = writer_init((size_t)BAT_PART * 4);
        for (uint64_t i = first; i < entries && i < first + BAT_PART; i++) {
            bool there = i < b->count && block_writer_has(b, i);
            writer_u32be(&w, there ? (uint32_t)(at / VHD_SECTOR) : VHD_ABSENT);
            at += there ? b->block_bytes + (uint64_t)b->prefix_bytes : 0;
        }
        error = w.error ? ferry_fail(err, w.error, b->sink->about, "out of memory")
                        : sink_at(b->sink, BAT_OFFSET + first * 4, w.data, w.size, err);
    }
    return error;
}

static int write_front(struct block_writer *b, struct ferry_error *err)
{
    const struct vhd_writer *v =
        (struct vhd_writer *)((char *)b - offsetof(struct vhd_writer, blocks));

    if (b->fixed)
        return 0;
    int error = write_footer(v, 0, err);
    if (!error)
        error = write_header(v, err);
    return error ? error : write_bat(v, err);
}

void vhd_destroy(struct disk_writer *writer)
{
    struct vhd_writer *v = writer->opaque;

    block_writer_free(&v->blocks);
    free(v);
}

static void cleanup_writer(struct vhd_writer **v)
{
    if (*v)
        vhd_destroy(&(*v)->writer);
}

static int check_options(const struct sink *sink, const struct disk_write_options *options,
                         struct ferry_error *err)
{
    if (options->subformat && strcmp(options->subformat, "dynamic") != 0 &&
        strcmp(options->subformat, "fixed") != 0)
        return ferry_usage(err, sink->about, "'%s' is not a kind of VHD: dynamic or fixed",
                           options->subformat);
    if (options->codec && strcmp(options->codec, "none") != 0)
        return ferry_usage(err, sink->about, "VHD does not compress: codec 'none' only");
    if (options->unit_bytes && options->unit_bytes != VHD_BLOCK_BYTES)
        return ferry_usage(err, sink->about, "VHD has blocks of 2 MiB only");
    if (!options->size_bytes || options->size_bytes > VHD_SIZE_MAX)
        return ferry_refuse(err, -EFBIG, sink->about,
                            "a VHD holds disks of 512 bytes to 2040 GiB; this one has %llu bytes: "
                            "take vhdx",
                            (unsigned long long)options->size_bytes);
    return 0;
}

int vhd_create(struct sink *sink, const struct disk_write_options *options,
               struct disk_writer **out, struct ferry_error *err)
{
    CLEANUP(cleanup_writer) struct vhd_writer *v = calloc(1, sizeof(*v));
    bool fixed = options->subformat && !strcmp(options->subformat, "fixed");

    if (!v)
        return ferry_fail(err, -ENOMEM, sink->about, "out of memory");
    v->writer.opaque = v;
    int error = check_options(sink, options, err);
    if (error)
        return error;
    v->size_bytes = options->size_bytes;
    memcpy(v->identity, options->identity, sizeof(v->identity));
    v->blocks = (struct block_writer){
        .sink = sink,
        .block_bytes = VHD_BLOCK_BYTES,
        .prefix_bytes = fixed ? 0 : vhd_bitmap_bytes(VHD_BLOCK_BYTES),
        .fixed = fixed,
        .count = (options->size_bytes + VHD_BLOCK_BYTES - 1) / VHD_BLOCK_BYTES,
        .front = write_front,
    };
    if (!fixed)
        v->blocks.data_offset =
            BAT_OFFSET + (v->blocks.count * 4 + VHD_SECTOR - 1) / VHD_SECTOR * VHD_SECTOR;
    v->writer = (struct disk_writer){
        .format = &disk_format_vhd,
        .unit_bytes = BLOCKS_UNIT_BYTES,
        .run_bytes = BLOCKS_RUN_BYTES,
        .plan = sink->pwrite || fixed ? DISK_PLAN_NONE : DISK_PLAN_PLACES,
        .opaque = v,
    };
    error = block_writer_init(&v->blocks, err);
    if (error)
        return error;
    *out = &take_ptr(&v)->writer;
    return 0;
}

int vhd_plan(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err)
{
    (void)err;
    block_writer_plan(&((struct vhd_writer *)writer->opaque)->blocks, unit);
    return 0;
}

int vhd_put(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err)
{
    return block_writer_put(&((struct vhd_writer *)writer->opaque)->blocks, unit, err);
}

int vhd_finish(struct disk_writer *writer, struct ferry_error *err)
{
    struct vhd_writer *v = writer->opaque;
    uint64_t end = v->size_bytes; /* of a fixed one: its last block is not filled up */
    int error = v->blocks.fixed ? 0 : block_writer_finish(&v->blocks, &end, err);

    return error ? error : write_footer(v, end, err);
}
