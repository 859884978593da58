/* A raw file or block device into an image. */
#ifndef FERRY_IMAGEFMT_PACK_H
#define FERRY_IMAGEFMT_PACK_H

#include "imagefmt/image.h"

struct pack_source {
    int fd;            /* readable at offsets; stays the caller's */
    const char *about; /* its name in messages */
    uint64_t size;     /* bytes of it that count */
    /* Told now and then how far it is; a negative errno ends the work.  NULL: nobody wants to know.
     */
    int (*report)(void *opaque, uint64_t done_bytes, struct ferry_error *err);
    void *opaque;
};

/*
 * The content of source as a whole data section of w: begun and ended here.  Holes (SEEK_HOLE) are
 * not read, the rest is read once, by the writer's workers.  It must not change meanwhile.
 */
int image_pack(struct image_writer *w, enum image_section_kind kind, const char *name,
               uint32_t chunk_bytes, const struct pack_source *source, struct ferry_error *err);

#endif
