/*
 * VMDK, writing.
 *
 * streamOptimized, in order: header, descriptor, then grains (a marker of LBA and size, and zlib
 * data), after the last grain of a grain table the table itself, at the end the directory, and a
 * footer that is the header with the directory's place.  Nothing need be known beforehand, and one
 * table is all that is held.
 *
 * monolithicSparse, at random: two directories and two sets of all grain tables lie before the
 * grains, as every reader of this kind expects; tables without a grain are left a hole.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "imagefmt/foreign/codec.h"
#include "imagefmt/foreign/sink.h"
#include "imagefmt/foreign/vmdk.h"

#define STREAM_OVERHEAD 128 /* sectors before the first grain of a stream */
#define RUN_BYTES       (1 * MIB)
#define NO_TABLE        UINT64_MAX

struct vmdk_writer {
    struct disk_writer writer;
    struct sink *sink;
    struct vmdk_header header;
    bool stream;
    struct codec *codec;
    uint64_t gd_entries;
    uint32_t *gd;           /* of a stream: where its tables are */
    uint64_t next;          /* sector: where the next grain goes */
    uint64_t table;         /* the one that gt is; NO_TABLE */
    uint32_t gt[VMDK_GTES]; /* sectors of grains */
};

static uint64_t sectors_of(uint64_t bytes)
{
    return (bytes + VMDK_SECTOR - 1) / VMDK_SECTOR;
}

/* count entries as they are stored, filled with zeroes to a sector.  Freed by the caller. */
static uint8_t *store_entries(const uint32_t *entries, uint64_t count)
{
    uint8_t *bytes = calloc(sectors_of(count * 4) + 1, VMDK_SECTOR);

    for (uint64_t i = 0; bytes && i < count; i++)
        for (unsigned b = 0; b < 4; b++)
            bytes[i * 4 + b] = (uint8_t)(entries[i] >> (8 * b));
    return bytes;
}

/* ---- A stream ---- */

static int write_marker(const struct vmdk_writer *w, uint64_t sectors, enum vmdk_marker type,
                        struct ferry_error *err)
{
    uint8_t sector[VMDK_SECTOR] = {0};

    for (unsigned i = 0; i < 8; i++)
        sector[i] = (uint8_t)(sectors >> (8 * i));
    sector[12] = (uint8_t)type; /* size, 4 bytes at 8, stays 0 */
    return w->sink->write(w->sink, sector, sizeof(sector), err);
}

/* A table behind its marker; *at: its sector. */
static int write_table(struct vmdk_writer *w, const uint32_t *entries, uint64_t count,
                       enum vmdk_marker type, uint64_t *at, struct ferry_error *err)
{
    uint64_t sectors = sectors_of(count * 4);
    CLEANUP_FREE uint8_t *bytes = store_entries(entries, count);

    if (!bytes)
        return ferry_fail(err, -ENOMEM, w->sink->about, "out of memory");
    int error = write_marker(w, sectors, type, err);
    *at = w->next + 1;
    w->next += 1 + sectors;
    return error ? error : w->sink->write(w->sink, bytes, sectors * VMDK_SECTOR, err);
}

static int flush_stream_table(struct vmdk_writer *w, struct ferry_error *err)
{
    uint64_t at;
    int error = write_table(w, w->gt, VMDK_GTES, VMDK_MARKER_GT, &at, err);

    if (!error && at > UINT32_MAX)
        error = ferry_refuse(err, -EFBIG, w->sink->about, "would be larger than a VMDK may be");
    if (!error)
        w->gd[w->table] = (uint32_t)at;
    return error;
}

static int write_header(const struct vmdk_writer *w, const struct vmdk_header *header,
                        struct ferry_error *err)
{
    uint8_t sector[VMDK_SECTOR];

    vmdk_compose_header(header, sector);
    return w->sink->write(w->sink, sector, sizeof(sector), err);
}

static int finish_stream(struct vmdk_writer *w, struct ferry_error *err)
{
    struct vmdk_header footer = w->header;

    int error = write_table(w, w->gd, w->gd_entries, VMDK_MARKER_GD, &footer.gd, err);
    if (!error)
        error = write_marker(w, 1, VMDK_MARKER_FOOTER, err);
    if (!error)
        error = write_header(w, &footer, err);
    return error ? error : write_marker(w, 0, VMDK_MARKER_END, err);
}

int vmdk_encode(const struct disk_writer *writer, struct disk_unit *unit, struct ferry_error *err)
{
    const struct vmdk_writer *w = writer->opaque;
    uint8_t whole[VMDK_GRAIN_BYTES];
    const uint8_t *content = unit->content;

    if (unit->content_bytes < VMDK_GRAIN_BYTES) {
        memcpy(whole, content, unit->content_bytes);
        memset(whole + unit->content_bytes, 0, VMDK_GRAIN_BYTES - unit->content_bytes);
        content = whole;
    }
    size_t size =
        codec_compress(w->codec, content, VMDK_GRAIN_BYTES, unit->stored + VMDK_GRAIN_MARKER_BYTES,
                       unit->stored_room - VMDK_GRAIN_MARKER_BYTES);
    if (!size)
        return ferry_fail(err, -ENOMEM, w->sink->about, "out of memory");
    uint64_t lba = unit->offset / VMDK_SECTOR;
    for (unsigned i = 0; i < 8; i++)
        unit->stored[i] = (uint8_t)(lba >> (8 * i));
    for (unsigned i = 0; i < 4; i++)
        unit->stored[8 + i] = (uint8_t)(size >> (8 * i));
    size_t used = VMDK_GRAIN_MARKER_BYTES + size;
    unit->stored_bytes = (uint32_t)(sectors_of(used) * VMDK_SECTOR);
    memset(unit->stored + used, 0, unit->stored_bytes - used);
    return 0;
}

/* ---- A file ---- */

static uint64_t sparse_tables_start(const struct vmdk_writer *w, uint64_t gd)
{
    return gd + sectors_of(w->gd_entries * 4);
}

static int flush_sparse_table(struct vmdk_writer *w, struct ferry_error *err)
{
    const uint64_t gds[] = {w->header.redundant_gd, w->header.gd};
    CLEANUP_FREE uint8_t *bytes = store_entries(w->gt, VMDK_GTES);
    int error = 0;

    if (!bytes)
        return ferry_fail(err, -ENOMEM, w->sink->about, "out of memory");
    for (int i = 0; !error && i < 2; i++) {
        uint64_t offset = sparse_tables_start(w, gds[i]) * VMDK_SECTOR + w->table * VMDK_GT_BYTES;
        error = w->sink->pwrite(w->sink, offset, bytes, VMDK_GT_BYTES, err);
    }
    return error;
}

static int write_directories(const struct vmdk_writer *w, struct ferry_error *err)
{
    const uint64_t gds[] = {w->header.redundant_gd, w->header.gd};
    int error = 0;

    for (int i = 0; !error && i < 2; i++) {
        for (uint64_t t = 0; t < w->gd_entries; t++)
            w->gd[t] = (uint32_t)(sparse_tables_start(w, gds[i]) + t * VMDK_GT_BYTES / VMDK_SECTOR);
        CLEANUP_FREE uint8_t *bytes = store_entries(w->gd, w->gd_entries);
        if (!bytes)
            return ferry_fail(err, -ENOMEM, w->sink->about, "out of memory");
        error = w->sink->pwrite(w->sink, gds[i] * VMDK_SECTOR, bytes, w->gd_entries * 4, err);
    }
    return error;
}

/* ---- Both ---- */

static int flush_table(struct vmdk_writer *w, struct ferry_error *err)
{
    int error = w->table == NO_TABLE ? 0
                : w->stream          ? flush_stream_table(w, err)
                                     : flush_sparse_table(w, err);

    w->table = NO_TABLE;
    return error;
}

/* The next grain of the disk is at w->next. */
static int enter_grain(struct vmdk_writer *w, uint64_t grain, uint64_t sectors,
                       struct ferry_error *err)
{
    if (w->table != grain / VMDK_GTES) {
        int error = flush_table(w, err);
        if (error)
            return error;
        memset(w->gt, 0, sizeof(w->gt));
        w->table = grain / VMDK_GTES;
    }
    if (w->next > UINT32_MAX)
        return ferry_refuse(err, -EFBIG, w->sink->about,
                            "would be larger than a VMDK may be: its data needs more than 2 TiB");
    w->gt[grain % VMDK_GTES] = (uint32_t)w->next;
    w->next += sectors;
    return 0;
}

static int put_stream(struct vmdk_writer *w, const struct disk_unit *unit, struct ferry_error *err)
{
    int error =
        enter_grain(w, unit->offset / VMDK_GRAIN_BYTES, unit->stored_bytes / VMDK_SECTOR, err);

    return error ? error : w->sink->write(w->sink, unit->stored, unit->stored_bytes, err);
}

static int put_sparse(struct vmdk_writer *w, const struct disk_unit *unit, struct ferry_error *err)
{
    uint64_t grain = unit->offset / VMDK_GRAIN_BYTES, at = 0;
    int error = 0;

    /* A table that ends is written before the grains that follow; their places are one run. */
    uint64_t start = w->next * VMDK_SECTOR;
    for (; !error && at < unit->content_bytes; at += VMDK_GRAIN_BYTES)
        error = enter_grain(w, grain++, VMDK_GRAIN_SECTORS, err);
    return error ? error : w->sink->pwrite(w->sink, start, unit->content, unit->content_bytes, err);
}

int vmdk_put(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err)
{
    struct vmdk_writer *w = writer->opaque;

    return w->stream ? put_stream(w, unit, err) : put_sparse(w, unit, err);
}

int vmdk_finish(struct disk_writer *writer, struct ferry_error *err)
{
    struct vmdk_writer *w = writer->opaque;

    int error = flush_table(w, err);
    if (error)
        return error;
    return w->stream ? finish_stream(w, err) : w->sink->extend(w->sink, w->next * VMDK_SECTOR, err);
}

void vmdk_destroy(struct disk_writer *writer)
{
    struct vmdk_writer *w = writer->opaque;

    codec_destroy(w->codec);
    free(w->gd);
    free(w);
}

static void cleanup_writer(struct vmdk_writer **w)
{
    if (*w)
        vmdk_destroy(&(*w)->writer);
}

/* ---- Creation ---- */

static int choose(struct vmdk_writer *w, const struct disk_write_options *options,
                  struct ferry_error *err)
{
    const char *subformat = options->subformat ? options->subformat : "streamOptimized";

    w->stream = !strcmp(subformat, "streamOptimized");
    if (!w->stream && strcmp(subformat, "monolithicSparse") != 0)
        return ferry_usage(err, w->sink->about,
                           "'%s' is not a kind of VMDK that is written: streamOptimized or "
                           "monolithicSparse",
                           subformat);
    if (!w->stream && !w->sink->pwrite)
        return ferry_usage(err, w->sink->about,
                           "a monolithicSparse VMDK can only be written to a file; streamOptimized "
                           "also to a pipe");
    const char *codec = w->stream ? "zlib" : "none";
    if (options->codec && strcmp(options->codec, codec) != 0)
        return ferry_usage(err, w->sink->about, "a %s VMDK has the codec '%s' only", subformat,
                           codec);
    if (options->unit_bytes && options->unit_bytes != VMDK_GRAIN_BYTES)
        return ferry_usage(err, w->sink->about, "grains of 64 KiB are written only");
    if (!options->size_bytes || options->size_bytes > VMDK_CAPACITY_MAX * VMDK_SECTOR)
        return ferry_refuse(err, -EFBIG, w->sink->about,
                            "a VMDK holds disks of 512 bytes to 2 TiB; this one has %llu bytes: "
                            "take qcow2 or vhdx",
                            (unsigned long long)options->size_bytes);
    return 0;
}

static void plan_places(struct vmdk_writer *w, uint64_t size_bytes)
{
    const uint64_t covers = (uint64_t)VMDK_GTES * VMDK_GRAIN_BYTES;
    struct vmdk_header *h = &w->header;

    w->gd_entries = (size_bytes + covers - 1) / covers;
    *h = (struct vmdk_header){
        .version = w->stream ? 3 : 1,
        .flags = w->stream ? VMDK_FLAG_NEWLINES | VMDK_FLAG_COMPRESSED | VMDK_FLAG_MARKERS
                           : VMDK_FLAG_NEWLINES | VMDK_FLAG_REDUNDANT,
        .capacity = size_bytes / VMDK_SECTOR,
        .grain = VMDK_GRAIN_SECTORS,
        .descriptor = 1,
        .descriptor_sectors = VMDK_DESCRIPTOR_SECTORS,
        .gtes = VMDK_GTES,
        .gd = VMDK_GD_AT_END,
        .overhead = STREAM_OVERHEAD,
        .compression = w->stream,
    };
    if (!w->stream) {
        uint64_t tables = w->gd_entries * VMDK_GT_BYTES / VMDK_SECTOR;
        h->redundant_gd = 1 + VMDK_DESCRIPTOR_SECTORS;
        h->gd = sparse_tables_start(w, h->redundant_gd) + tables;
        uint64_t end = sparse_tables_start(w, h->gd) + tables;
        h->overhead = (end + VMDK_GRAIN_SECTORS - 1) / VMDK_GRAIN_SECTORS * VMDK_GRAIN_SECTORS;
    }
    w->next = h->overhead;
    w->table = NO_TABLE;
}

static int write_start(struct vmdk_writer *w, const struct disk_write_options *options,
                       struct ferry_error *err)
{
    uint8_t start[(1 + VMDK_DESCRIPTOR_SECTORS) * VMDK_SECTOR];

    vmdk_compose_header(&w->header, start);
    vmdk_compose_descriptor(options, w->stream ? "streamOptimized" : "monolithicSparse",
                            w->stream ? "RDONLY" : "RW", start + VMDK_SECTOR);
    int error = w->sink->write(w->sink, start, sizeof(start), err);
    if (error)
        return error;
    return w->stream ? sink_zeroes(w->sink, w->next * VMDK_SECTOR - sizeof(start), err)
                     : write_directories(w, err);
}

int vmdk_create(struct sink *sink, const struct disk_write_options *options,
                struct disk_writer **out, struct ferry_error *err)
{
    CLEANUP(cleanup_writer) struct vmdk_writer *w = calloc(1, sizeof(*w));

    if (!w)
        return ferry_fail(err, -ENOMEM, sink->about, "out of memory");
    w->sink = sink;
    w->writer = (struct disk_writer){
        .format = &disk_format_vmdk, .unit_bytes = VMDK_GRAIN_BYTES, .opaque = w};
    int error = choose(w, options, err);
    if (!error)
        error = codec_create(CODEC_ZLIB, options->level, &w->codec, err);
    if (error)
        return error;
    plan_places(w, options->size_bytes);
    if (w->stream)
        w->writer.stored_room = (uint32_t)(sectors_of(VMDK_GRAIN_MARKER_BYTES +
                                                      codec_bound(w->codec, VMDK_GRAIN_BYTES)) *
                                           VMDK_SECTOR);
    else
        w->writer.run_bytes = RUN_BYTES;
    if (!(w->gd = calloc(w->gd_entries, sizeof(*w->gd))))
        return ferry_fail(err, -ENOMEM, sink->about, "out of memory");
    error = write_start(w, options, err);
    if (error)
        return error;
    *out = &take_ptr(&w)->writer;
    return 0;
}
