/*
 * A disk in pieces.  The writer below puts its frames into memory; when the next ones might not
 * fit, or the piece spans as much of the disk as a piece may (zeroes take little, but not nothing),
 * what is there is handed out and the next piece begins.
 */
#include "imagefmt/foreign/oci_pieces.h"

#include <errno.h>
#include <stdlib.h>

#include "common/bytes.h"
#include "imagefmt/foreign/raw_zstd.h"

/* Zeroes of SPAN_BYTES are 16 MiB of frames and some more, the frame of a unit is 1 MiB and some
 * more: with what FULL_BYTES leaves they fit. */
#define SPAN_BYTES (512 * GIB)
#define FULL_BYTES (40 * MIB)

struct piece_writer {
    struct disk_writer writer;
    struct disk_writer *below;
    struct sink sink; /* into stored */
    struct writer stored;
    uint64_t size_bytes, start; /* start: of this piece */
    uint32_t number;
    int (*take)(void *opaque, const struct oci_piece *piece, struct ferry_error *err);
    void *opaque;
};

static const struct disk_format pieces;

static int store(struct sink *sink, const void *data, size_t size, struct ferry_error *err)
{
    struct piece_writer *p =
        (struct piece_writer *)((char *)sink - offsetof(struct piece_writer, sink));

    writer_copy(&p->stored, data, size);
    sink->position += size;
    return p->stored.error ? ferry_fail(err, p->stored.error, sink->about, "out of memory") : 0;
}

static int hand_out(struct piece_writer *p, bool last, struct ferry_error *err)
{
    const struct oci_piece piece = {
        .offset = p->start,
        .number = p->number++,
        .last = last,
        .data = p->stored.data,
        .size = p->stored.size,
    };
    int error = p->take(p->opaque, &piece, err);

    writer_reset(&p->stored);
    return error;
}

/* The next piece begins at offset. */
static int cut(struct piece_writer *p, uint64_t offset, struct ferry_error *err)
{
    int error = raw_zstd_cut(p->below, offset, &p->sink, err);

    if (!error)
        error = hand_out(p, false, err);
    p->start = offset;
    return error;
}

static int cut_spans(struct piece_writer *p, uint64_t end, struct ferry_error *err)
{
    int error = 0;

    while (!error && end - p->start > SPAN_BYTES)
        error = cut(p, p->start + SPAN_BYTES, err);
    return error;
}

int oci_pieces_create(const struct disk_write_options *options, const char *about,
                      int (*take)(void *opaque, const struct oci_piece *piece,
                                  struct ferry_error *err),
                      void *opaque, struct disk_writer **out, struct ferry_error *err)
{
    struct piece_writer *p = calloc(1, sizeof(*p));

    if (!p)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    p->sink = (struct sink){.write = store, .about = about};
    p->stored = writer_init(OCI_PIECE_BYTES);
    p->size_bytes = options->size_bytes;
    p->take = take;
    p->opaque = opaque;
    int error = disk_format_raw_zstd.create(&p->sink, options, &p->below, err);
    if (error) {
        free(p);
        return error;
    }
    p->writer = *p->below;
    p->writer.format = &pieces;
    p->writer.opaque = p;
    *out = &p->writer;
    return 0;
}

static int encode(const struct disk_writer *writer, struct disk_unit *unit, struct ferry_error *err)
{
    const struct piece_writer *p = writer->opaque;

    return disk_format_raw_zstd.encode(p->below, unit, err);
}

static int put(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err)
{
    struct piece_writer *p = writer->opaque;
    int error = cut_spans(p, unit->offset, err);

    if (!error && p->stored.size + unit->stored_bytes > FULL_BYTES)
        error = cut(p, unit->offset, err);
    return error ? error : disk_format_raw_zstd.put(p->below, unit, err);
}

static int finish(struct disk_writer *writer, struct ferry_error *err)
{
    struct piece_writer *p = writer->opaque;
    int error = cut_spans(p, p->size_bytes, err);

    if (!error)
        error = disk_format_raw_zstd.finish(p->below, err);
    return error ? error : hand_out(p, true, err);
}

static void destroy(struct disk_writer *writer)
{
    struct piece_writer *p = writer->opaque;

    disk_format_raw_zstd.destroy(p->below);
    writer_free(&p->stored);
    free(p);
}

static const struct disk_format pieces = {
    .name = "raw+zstd",
    .encode = encode,
    .put = put,
    .finish = finish,
    .destroy = destroy,
};
