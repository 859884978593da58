/*
 * An image that comes in order, through a pipe: its manifest and files first, then disk after disk.
 * A thread reads it; what it hands out has been checked, but that the image is complete is known
 * only at its end.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_IMAGE_STREAM_H
#define FERRY_IMAGEFMT_FOREIGN_IMAGE_STREAM_H

#include "imagefmt/chain.h"
#include "imagefmt/foreign/disk.h"
#include "imagefmt/foreign/guest.h"

struct image_stream;

struct image_stream_options {
    const void *head; /* what was read ahead of fd, at most IMAGE_HEAD_MAX_BYTES; copied */
    size_t head_bytes;
    const char *name; /* of the one disk that is wanted; NULL: all of them */
    bool one;         /* name is NULL and there are several: FERRY_USAGE */
};

/*
 * Returns when the manifest and all before the first wanted disk has been read.  fd stays the
 * caller's; about, env and name outlive the stream.
 */
int image_stream_open(int fd, const char *about, const struct image_environment *env,
                      const struct image_stream_options *options, struct image_stream **out,
                      struct ferry_error *err);
/* Text, terminated. */
const char *image_stream_manifest(const struct image_stream *s, size_t *size);
/* A file that came along in a memfd, which stays the stream's; -1: there was none.  One that comes
 * behind a disk is FERRY_REFUSED by image_stream_next or image_stream_finish. */
int image_stream_file(const struct image_stream *s, enum guest_file_kind kind);
/*
 * The next disk and its name, what is left of the one before is dropped: 1, 0 at the end, or a
 * negative errno.  It is in_order, and the stream's: nobody closes it.
 */
int image_stream_next(struct image_stream *s, const char **name, struct disk **disk,
                      struct ferry_error *err);
/* Read to the end: is all of the image as it should be?  Also each disk's `drain` once no other
 * disk is wanted. */
int image_stream_finish(struct image_stream *s, struct ferry_error *err);
/* Before its end this waits until the pipe has brought another chunk, or ended.  NULL is fine. */
void image_stream_close(struct image_stream *s);

#endif
