/* Streams of bytes (disk.h): a descriptor, a source in order, and one whose first bytes were looked
 * at. */
#ifndef FERRY_IMAGEFMT_FOREIGN_STREAM_H
#define FERRY_IMAGEFMT_FOREIGN_STREAM_H

#include "imagefmt/foreign/disk.h"

/* fd stays the caller's, must stay open, and is read from where it stands.  about is copied. */
int stream_of_fd(int fd, const char *about, struct stream **out, struct ferry_error *err);
/* All of source, from its start; it stays the caller's and outlives the stream. */
int stream_of_source(struct source *source, struct stream **out, struct ferry_error *err);

/* The first bytes of a stream, read ahead of its reader. */
struct stream_head {
    uint8_t *bytes; /* the stream's */
    size_t size;    /* less than was asked for only if that is all there is */
};

/* Read the first `size` bytes of below into *head; *out gives them again, and then the rest.  below
 * stays the caller's and outlives it. */
int stream_peek(struct stream *below, size_t size, struct stream **out, struct stream_head *head,
                struct ferry_error *err);

/* Exactly size bytes; a stream that ends before is FERRY_REFUSED, -EBADMSG. */
int stream_read(struct stream *stream, void *data, size_t size, struct ferry_error *err);
/* The same, and nobody needs them. */
int stream_skip(struct stream *stream, uint64_t size, struct ferry_error *err);
/* Does it end here?  Otherwise FERRY_REFUSED, -EBADMSG. */
int stream_expect_end(struct stream *stream, struct ferry_error *err);
void stream_close(struct stream *stream);    /* NULL is fine */
void stream_cleanup(struct stream **stream); /* CLEANUP(stream_cleanup) */

/* What a disk in order reads from: a stream, and how far it has come. */
struct stream_cursor {
    struct stream *stream;
    uint64_t position;
};

/* size bytes at offset, at or behind the position; what lies between is dropped. */
int stream_read_at(struct stream_cursor *cursor, uint64_t offset, void *data, size_t size,
                   struct ferry_error *err);
/* Go to offset, at or behind the position. */
int stream_seek(struct stream_cursor *cursor, uint64_t offset, struct ferry_error *err);

#endif
