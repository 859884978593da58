/*
 * Opening disks in order.  Streams are stacked: the bytes, with their head looked at, and if that
 * is a wrap's, what is in it, with its head looked at again.
 */
#include "cli/disk_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/source.h"

#define COUNT_BYTES (1 * MIB)

static struct stream *top(const struct disk_file *file)
{
    return file->streams[file->stream_count - 1];
}

static void drop_streams(struct disk_file *file)
{
    while (file->stream_count)
        stream_close(file->streams[--file->stream_count]);
}

static int look(struct disk_file *file, struct ferry_error *err)
{
    int error = stream_peek(top(file), DISK_PROBE_HEAD_BYTES, &file->streams[file->stream_count],
                            &file->head, err);

    file->stream_count += !error;
    return error;
}

static int unwrap(struct disk_file *file, enum wrap_kind wrap, struct ferry_error *err)
{
    int error = stream_unwrap(top(file), wrap, &file->streams[file->stream_count], err);

    file->stream_count += !error;
    return error ? error : look(file, err);
}

static void marks_of_head(const struct stream_head *head, struct disk_marks *marks)
{
    marks->head_bytes = head->size;
    marks->tail_bytes = 0;
    memcpy(marks->head, head->bytes, head->size);
}

/* The format of what is on top, which is in no wrap. */
static int choose_inner(const struct disk_file *file, const struct disk_marks *marks,
                        const char *from, const struct disk_format **out, struct ferry_error *err)
{
    if (from)
        return disk_file_format("--from", from, out, err);
    int error = disk_format_of(marks, top(file)->about, NULL, out, err);
    if (!error && !*out)
        *out = &disk_format_raw;
    return error;
}

static int open_top(const struct disk_format *format, const struct disk_open_options *options,
                    struct disk_file *out, struct ferry_error *err)
{
    struct stream *stream = top(out);

    if (!format->open_stream)
        return ferry_refuse(err, -ESPIPE, stream->about,
                            "is %s, which needs a file: it is read at random", format->name);
    return format->open_stream(stream, options, &out->disk, err);
}

static int no_external(const struct disk_file_options *options, struct ferry_error *err)
{
    return options->external && options->external->count
               ? ferry_usage(err, "--allow-external",
                             "a disk that is read in order builds on no other file")
               : 0;
}

/* ---- Pipes ---- */

int disk_file_peek(int fd, const char *about, struct disk_file *out, struct ferry_error *err)
{
    int error = stream_of_fd(fd, about, &out->streams[0], err);

    out->stream_count += !error;
    return error ? error : look(out, err);
}

int disk_stream_open_pipe(const struct disk_file_options *options, struct disk_file *out,
                          struct ferry_error *err)
{
    const struct disk_open_options open_options = {.size_bytes = options->size_bytes};
    const struct disk_format *format = NULL;
    enum wrap_kind wrap = WRAP_NONE;
    struct disk_marks marks;

    marks_of_head(&out->head, &marks);
    int error = no_external(options, err);
    if (!error)
        error = disk_file_choose(&marks, top(out)->about, options, &wrap, &format, err);
    if (!error && wrap)
        error = unwrap(out, wrap, err);
    if (error)
        return error;
    if (wrap) {
        marks_of_head(&out->head, &marks);
        error = choose_inner(out, &marks, options->from, &format, err);
    }
    return error ? error : open_top(format, &open_options, out, err);
}

/* ---- Wraps ---- */

static int open_unwrapped(enum wrap_kind wrap, struct disk_file *out, struct ferry_error *err)
{
    drop_streams(out);
    int error = stream_of_source(out->source, &out->streams[0], err);
    out->stream_count += !error;
    return error ? error : unwrap(out, wrap, err);
}

static void keep_tail(struct disk_marks *marks, const uint8_t *data, size_t size)
{
    size_t room = sizeof(marks->tail);

    if (size > room) {
        data += size - room;
        size = room;
    }
    size_t kept = marks->tail_bytes < room - size ? marks->tail_bytes : room - size;
    memmove(marks->tail, marks->tail + marks->tail_bytes - kept, kept);
    memcpy(marks->tail + kept, data, size);
    marks->tail_bytes = kept + size;
}

/* Read it all: how much it is, and how it ends. */
static int count(const struct disk_file *file, struct disk_marks *marks, uint64_t *total,
                 struct ferry_error *err)
{
    struct stream *stream = top(file);
    CLEANUP_FREE uint8_t *data = malloc(COUNT_BYTES);
    size_t got = COUNT_BYTES;

    if (!data)
        return ferry_fail(err, -ENOMEM, stream->about, "out of memory");
    *total = 0;
    while (got == COUNT_BYTES) {
        int error = stream->read(stream, data, COUNT_BYTES, &got, err);
        if (error)
            return error;
        keep_tail(marks, data, got);
        *total += got;
        if (*total > LIMIT_DISK_BYTES)
            return ferry_refuse(err, -EFBIG, stream->about, "is larger than a disk may be");
    }
    return 0;
}

static bool tells_its_size(const struct disk_format *format)
{
    return format != &disk_format_raw && format != &disk_format_vhd;
}

int disk_stream_open_wrapped(enum wrap_kind wrap, const struct disk_file_options *options,
                             struct disk_file *out, struct ferry_error *err)
{
    struct disk_open_options open_options = {.size_bytes = options->size_bytes};
    const struct disk_format *format = NULL;
    struct disk_marks marks;

    if (options->at_random)
        return ferry_usage(err, out->source->about,
                           "is compressed; a file is needed that can be read at random");
    int error = no_external(options, err);
    if (!error)
        error = open_unwrapped(wrap, out, err);
    if (error)
        return error;
    marks_of_head(&out->head, &marks);
    error = choose_inner(out, &marks, options->from, &format, err);
    if (!error && !tells_its_size(format) && !options->size_bytes) {
        error = count(out, &marks, &open_options.stream_bytes, err);
        if (!error)
            error = choose_inner(out, &marks, options->from, &format, err);
        if (!error)
            error = open_unwrapped(wrap, out, err);
    }
    return error ? error : open_top(format, &open_options, out, err);
}
