/* A disk or file into an image. */
#ifndef FERRY_IMAGEFMT_PACK_H
#define FERRY_IMAGEFMT_PACK_H

#include "imagefmt/image.h"

struct pack_source {
    /* size bytes at offset into data; 0 or a negative errno.  By several threads at once. */
    int (*read)(void *opaque, uint64_t offset, void *data, size_t size);
    /* The next run that may hold data, at or after *start: 1 and [*start, *end), 0 if there is
     * none, or a negative errno.  On the calling thread. */
    int (*next_data)(void *opaque, uint64_t *start, uint64_t *end);
    void *opaque;
    uint64_t size_bytes;
    const char *about; /* its name in messages */
    /* Told of each chunk how far it is; a negative errno ends the work.  NULL: nobody wants to
     * know.
     */
    int (*report)(void *report_opaque, uint64_t done_bytes, struct ferry_error *err);
    void *report_opaque;
};

/* A regular file or block device; holes (SEEK_HOLE) are not read.  fd stays the caller's, and *fd
 * where it is. */
struct pack_source pack_source_file(int *fd, uint64_t size_bytes, const char *about);

/*
 * The content of source as a whole data section of w: begun and ended here.  What may be data is
 * read once, by the writer's workers, and nothing else is.  It must not change meanwhile.
 */
int image_pack(struct image_writer *w, enum image_section_kind kind, const char *name,
               uint32_t chunk_bytes, const struct pack_source *source, struct ferry_error *err);

#endif
