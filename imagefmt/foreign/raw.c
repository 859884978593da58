/*
 * raw: the content itself.  Holes of a file are zeroes that need not be read, and zeroes are left
 * out of a file that is written; into a pipe they are written.  A stream of bytes says nothing
 * about its length, so that of the disk must be known.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "imagefmt/foreign/disk.h"
#include "imagefmt/foreign/sink.h"
#include "imagefmt/foreign/stream.h"

#define UNIT_BYTES (4 * KIB) /* the size of a hole */
#define RUN_BYTES  (1 * MIB)

static int raw_open(struct source *source, const struct disk_open_options *options,
                    struct disk **out, struct ferry_error *err)
{
    (void)options;
    if (source->size_bytes > LIMIT_DISK_BYTES)
        return ferry_refuse(err, -EFBIG, source->about, "is larger than a disk may be");
    struct disk *disk = calloc(1, sizeof(*disk));
    if (!disk)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    *disk = (struct disk){
        .format = &disk_format_raw, .size_bytes = source->size_bytes, .opaque = source};
    *out = disk;
    return 0;
}

static int raw_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                      struct ferry_error *err)
{
    struct source *source = disk->opaque;
    uint64_t start = offset, end = disk->size_bytes;

    (void)err;
    *extent = (struct disk_extent){.size_bytes = end - offset, .kind = DISK_ZERO};
    if (source->next_data && !source->next_data(source, &start, &end))
        return 0;
    if (start == offset)
        *extent = (struct disk_extent){.size_bytes = end - offset, .kind = DISK_DATA};
    else
        extent->size_bytes = start - offset;
    return 0;
}

static int raw_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                    struct ferry_error *err)
{
    struct source *source = disk->opaque;

    return source->pread(source, offset, data, size, err);
}

static void raw_close(struct disk *disk)
{
    free(disk);
}

/* ---- In order ---- */

struct raw_stream {
    struct disk disk;
    struct stream_cursor cursor;
};

static int raw_stream_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                             struct ferry_error *err)
{
    (void)err;
    *extent = (struct disk_extent){.size_bytes = disk->size_bytes - offset, .kind = DISK_DATA};
    return 0;
}

static int raw_stream_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                           struct ferry_error *err)
{
    struct raw_stream *r = disk->opaque;

    return stream_read_at(&r->cursor, offset, data, size, err);
}

static int raw_stream_drain(struct disk *disk, struct ferry_error *err)
{
    struct raw_stream *r = disk->opaque;
    int error = stream_seek(&r->cursor, disk->size_bytes, err);

    return error ? error : stream_expect_end(r->cursor.stream, err);
}

static const struct disk_format format_raw_stream = {
    .name = "raw",
    .extension = ".raw",
    .extent = raw_stream_extent,
    .read = raw_stream_read,
    .drain = raw_stream_drain,
    .close = raw_close,
};

static int raw_open_stream(struct stream *stream, const struct disk_open_options *options,
                           struct disk **out, struct ferry_error *err)
{
    uint64_t size = options->size_bytes ? options->size_bytes : options->stream_bytes;

    if (!size)
        return ferry_usage(err, stream->about,
                           "is a stream of bytes without a mark of their number: give the disk's "
                           "size with --size");
    if (size > LIMIT_DISK_BYTES)
        return ferry_refuse(err, -EFBIG, stream->about, "is larger than a disk may be");
    struct raw_stream *r = calloc(1, sizeof(*r));
    if (!r)
        return ferry_fail(err, -ENOMEM, stream->about, "out of memory");
    r->disk = (struct disk){
        .format = &format_raw_stream, .size_bytes = size, .in_order = true, .opaque = r};
    r->cursor.stream = stream;
    *out = &r->disk;
    return 0;
}

/* ---- Writing ---- */

struct raw_writer {
    struct disk_writer writer;
    struct sink *sink;
    uint64_t size_bytes;
};

static int raw_create(struct sink *sink, const struct disk_write_options *options,
                      struct disk_writer **out, struct ferry_error *err)
{
    if (options->subformat || options->unit_bytes ||
        (options->codec && strcmp(options->codec, "none") != 0))
        return ferry_usage(err, sink->about, "a raw disk has no kinds, no clusters and no codec");
    struct raw_writer *w = calloc(1, sizeof(*w));
    if (!w)
        return ferry_fail(err, -ENOMEM, sink->about, "out of memory");
    w->writer = (struct disk_writer){
        .format = &disk_format_raw, .unit_bytes = UNIT_BYTES, .run_bytes = RUN_BYTES, .opaque = w};
    w->sink = sink;
    w->size_bytes = options->size_bytes;
    *out = &w->writer;
    return 0;
}

static int raw_put(struct disk_writer *writer, const struct disk_unit *unit,
                   struct ferry_error *err)
{
    const struct raw_writer *w = writer->opaque;
    struct sink *sink = w->sink;

    if (sink->pwrite)
        return sink->pwrite(sink, unit->offset, unit->content, unit->content_bytes, err);
    int error = sink_zeroes(sink, unit->offset - sink->position, err);
    return error ? error : sink->write(sink, unit->content, unit->content_bytes, err);
}

static int raw_finish(struct disk_writer *writer, struct ferry_error *err)
{
    const struct raw_writer *w = writer->opaque;

    if (w->sink->pwrite)
        return w->sink->extend(w->sink, w->size_bytes, err);
    return sink_zeroes(w->sink, w->size_bytes - w->sink->position, err);
}

static void raw_destroy(struct disk_writer *writer)
{
    free(writer->opaque);
}

const struct disk_format disk_format_raw = {
    .name = "raw",
    .extension = ".raw",
    .limits = "disks to 64 TiB; holes kept in files",
    .streams = true,
    .open = raw_open,
    .open_stream = raw_open_stream,
    .extent = raw_extent,
    .read = raw_read,
    .close = raw_close,
    .create = raw_create,
    .put = raw_put,
    .finish = raw_finish,
    .destroy = raw_destroy,
};
