/*
 * raw+zstd, writing.  A frame of zeroes is its header, a raw block of one zero (what zstd up to
 * 1.4.3 wants: a frame that begins with an RLE block stops its tool), then RLE blocks of 128 KiB,
 * the most there may be in one.  The longest such frame, of 1 GiB in 32 KiB, is made once and
 * written as often as it takes.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "imagefmt/foreign/codec.h"
#include "imagefmt/foreign/raw_zstd.h"
#include "imagefmt/foreign/raw_zstd_frame.h"

#define ZERO_FRAME_CONTENT (1 * GIB)

struct raw_zstd_writer {
    struct disk_writer writer;
    struct sink *sink;
    struct codec *codec;
    uint64_t size_bytes, at; /* at: of the disk, where the next frame's content begins */
    struct writer giant;     /* the frame of ZERO_FRAME_CONTENT zeroes, empty until it is needed */
};

static void put_block(struct writer *w, enum zstd_block kind, uint32_t size, bool last)
{
    uint32_t header = size << 3 | (uint32_t)kind << 1 | last;

    writer_u16(w, (uint16_t)header);
    writer_u8(w, (uint8_t)(header >> 16));
    writer_u8(w, 0); /* the one byte of both kinds */
}

static void compose_zeroes(struct writer *w, uint64_t content)
{
    writer_u32(w, ZSTD_FRAME_MAGIC);
    writer_u8(w, 3 << 6);                      /* the content's size in 8 bytes */
    writer_u8(w, (ZSTD_BLOCK_BITS - 10) << 3); /* a window of one block */
    writer_u64(w, content);
    put_block(w, ZSTD_BLOCK_RAW, 1, --content == 0);
    while (content) {
        uint32_t part = content < ZSTD_BLOCK_MAX ? (uint32_t)content : ZSTD_BLOCK_MAX;
        content -= part;
        put_block(w, ZSTD_BLOCK_RLE, part, content == 0);
    }
}

/* Zeroes up to offset. */
static int fill(struct raw_zstd_writer *w, uint64_t offset, struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer rest = writer_init(ZERO_FRAME_ROOM);
    int error = 0;

    for (; !error && offset - w->at >= ZERO_FRAME_CONTENT; w->at += ZERO_FRAME_CONTENT) {
        if (!w->giant.size)
            compose_zeroes(&w->giant, ZERO_FRAME_CONTENT);
        error = w->giant.error ? ferry_fail(err, w->giant.error, w->sink->about, "out of memory")
                               : w->sink->write(w->sink, w->giant.data, w->giant.size, err);
    }
    if (error || offset == w->at)
        return error;
    compose_zeroes(&rest, offset - w->at);
    w->at = offset;
    return rest.error ? ferry_fail(err, rest.error, w->sink->about, "out of memory")
                      : w->sink->write(w->sink, rest.data, rest.size, err);
}

int raw_zstd_create(struct sink *sink, const struct disk_write_options *options,
                    struct disk_writer **out, struct ferry_error *err)
{
    struct raw_zstd_writer *w = calloc(1, sizeof(*w));

    if (!w)
        return ferry_fail(err, -ENOMEM, sink->about, "out of memory");
    w->sink = sink;
    w->size_bytes = options->size_bytes;
    w->giant = writer_init(ZERO_FRAME_ROOM);
    int error = codec_create(CODEC_ZSTD, options->level, &w->codec, err);
    if (error) {
        free(w);
        return error;
    }
    w->writer = (struct disk_writer){
        .format = &disk_format_raw_zstd,
        .unit_bytes = RAW_ZSTD_UNIT_BYTES,
        .stored_room = (uint32_t)codec_bound(w->codec, RAW_ZSTD_UNIT_BYTES),
        .opaque = w,
    };
    *out = &w->writer;
    return 0;
}

int raw_zstd_encode(const struct disk_writer *writer, struct disk_unit *unit,
                    struct ferry_error *err)
{
    const struct raw_zstd_writer *w = writer->opaque;

    unit->stored_bytes = (uint32_t)codec_compress(w->codec, unit->content, unit->content_bytes,
                                                  unit->stored, unit->stored_room);
    return unit->stored_bytes ? 0 : ferry_fail(err, -ENOMEM, w->sink->about, "out of memory");
}

int raw_zstd_put(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err)
{
    struct raw_zstd_writer *w = writer->opaque;
    int error = fill(w, unit->offset, err);

    w->at = unit->offset + unit->content_bytes;
    return error ? error : w->sink->write(w->sink, unit->stored, unit->stored_bytes, err);
}

int raw_zstd_cut(struct disk_writer *writer, uint64_t offset, struct sink *sink,
                 struct ferry_error *err)
{
    struct raw_zstd_writer *w = writer->opaque;
    int error = fill(w, offset, err);

    w->sink = sink;
    return error;
}

int raw_zstd_finish(struct disk_writer *writer, struct ferry_error *err)
{
    struct raw_zstd_writer *w = writer->opaque;

    return fill(w, w->size_bytes, err);
}

void raw_zstd_destroy(struct disk_writer *writer)
{
    struct raw_zstd_writer *w = writer->opaque;

    codec_destroy(w->codec);
    writer_free(&w->giant);
    free(w);
}
