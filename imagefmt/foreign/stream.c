/*
 * Streams.  Each is one allocation with its name behind it.  They read whatever is asked for in
 * full, so that a reader meets a short count only at the end.
 */
#include "imagefmt/foreign/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"

#define SKIP_BYTES (64 * KIB)

struct any_stream {
    struct stream stream;
    int fd;
    struct source *source;
    struct stream *below;
    uint64_t position; /* in the source, or in the head */
    struct stream_head head;
    char name[];
};

static void free_stream(struct stream *stream)
{
    free(((struct any_stream *)stream)->head.bytes);
    free(stream);
}

static int new_stream(const char *about, struct any_stream **out, struct ferry_error *err)
{
    size_t name_bytes = strlen(about) + 1;
    struct any_stream *s = calloc(1, sizeof(*s) + name_bytes);

    if (!s)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    memcpy(s->name, about, name_bytes);
    s->stream = (struct stream){.close = free_stream, .about = s->name};
    *out = s;
    return 0;
}

void stream_close(struct stream *stream)
{
    if (stream)
        stream->close(stream);
}

void stream_cleanup(struct stream **stream)
{
    stream_close(*stream);
}

/* ---- Descriptors ---- */

static int read_fd(struct stream *stream, void *data, size_t size, size_t *got,
                   struct ferry_error *err)
{
    const struct any_stream *s = (const struct any_stream *)stream;

    *got = 0;
    while (*got < size) {
        ssize_t part = read(s->fd, (uint8_t *)data + *got, size - *got);
        if (part < 0 && errno == EINTR)
            continue;
        if (part < 0)
            return ferry_fail_sys(err, -errno, stream->about, "cannot read");
        if (!part)
            return 0;
        *got += (size_t)part;
    }
    return 0;
}

int stream_of_fd(int fd, const char *about, struct stream **out, struct ferry_error *err)
{
    struct any_stream *s;
    int error = new_stream(about, &s, err);

    if (error)
        return error;
    s->fd = fd;
    s->stream.read = read_fd;
    *out = &s->stream;
    return 0;
}

/* ---- Sources ---- */

static int read_source(struct stream *stream, void *data, size_t size, size_t *got,
                       struct ferry_error *err)
{
    struct any_stream *s = (struct any_stream *)stream;
    uint64_t left = s->source->size_bytes - s->position;
    size_t part = size < left ? size : (size_t)left;

    *got = 0;
    int error = part ? s->source->pread(s->source, s->position, data, part, err) : 0;
    if (error)
        return error;
    s->position += part;
    *got = part;
    return 0;
}

int stream_of_source(struct source *source, struct stream **out, struct ferry_error *err)
{
    struct any_stream *s;
    int error = new_stream(source->about, &s, err);

    if (error)
        return error;
    s->source = source;
    s->stream.read = read_source;
    *out = &s->stream;
    return 0;
}

/* ---- Looking ahead ---- */

static int read_peeked(struct stream *stream, void *data, size_t size, size_t *got,
                       struct ferry_error *err)
{
    struct any_stream *s = (struct any_stream *)stream;
    size_t left = s->head.size - (size_t)s->position, part = size < left ? size : left, rest = 0;

    *got = 0;
    if (part)
        memcpy(data, s->head.bytes + s->position, part);
    s->position += part;
    int error =
        part < size ? s->below->read(s->below, (uint8_t *)data + part, size - part, &rest, err) : 0;
    *got = part + rest;
    return error;
}

int stream_peek(struct stream *below, size_t size, struct stream **out, struct stream_head *head,
                struct ferry_error *err)
{
    struct any_stream *s;
    int error = new_stream(below->about, &s, err);

    if (error)
        return error;
    CLEANUP(stream_cleanup) struct stream *stream = &s->stream;
    s->below = below;
    s->stream.read = read_peeked;
    if (!(s->head.bytes = malloc(size)))
        return ferry_fail(err, -ENOMEM, below->about, "out of memory");
    error = below->read(below, s->head.bytes, size, &s->head.size, err);
    if (error)
        return error;
    *head = s->head;
    *out = take_ptr(&stream);
    return 0;
}

/* ---- For readers ---- */

int stream_read(struct stream *stream, void *data, size_t size, struct ferry_error *err)
{
    size_t got = 0;
    int error = size ? stream->read(stream, data, size, &got, err) : 0;

    if (error || got == size)
        return error;
    return ferry_refuse(err, -EBADMSG, stream->about,
                        "is cut short: it ends where %llu bytes more are needed",
                        (unsigned long long)(size - got));
}

int stream_skip(struct stream *stream, uint64_t size, struct ferry_error *err)
{
    uint8_t nobody[SKIP_BYTES];
    int error = 0;

    while (!error && size) {
        size_t part = size < sizeof(nobody) ? (size_t)size : sizeof(nobody);
        error = stream_read(stream, nobody, part, err);
        size -= part;
    }
    return error;
}

int stream_expect_end(struct stream *stream, struct ferry_error *err)
{
    uint8_t byte;
    size_t got = 0;
    int error = stream->read(stream, &byte, 1, &got, err);

    if (error || !got)
        return error;
    return ferry_refuse(err, -EBADMSG, stream->about, "goes on behind its end");
}

int stream_seek(struct stream_cursor *cursor, uint64_t offset, struct ferry_error *err)
{
    if (offset < cursor->position)
        return ferry_fail(err, -ESPIPE, cursor->stream->about,
                          "is read in order; byte %llu has gone by", (unsigned long long)offset);
    int error = stream_skip(cursor->stream, offset - cursor->position, err);
    cursor->position = offset;
    return error;
}

int stream_read_at(struct stream_cursor *cursor, uint64_t offset, void *data, size_t size,
                   struct ferry_error *err)
{
    int error = stream_seek(cursor, offset, err);

    if (!error)
        error = stream_read(cursor->stream, data, size, err);
    cursor->position += size;
    return error;
}
