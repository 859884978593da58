/* An image once more: whole, as a child of another, sealed otherwise; its content is the same. */
#ifndef FERRY_IMAGEFMT_REWRITE_H
#define FERRY_IMAGEFMT_REWRITE_H

#include "imagefmt/image.h"

struct rewrite_options {
    struct image_writer_options writer;
    /* Told of each chunk how much of the content of all sections is done; a negative errno ends the
     * work.  NULL: nobody wants to know. */
    int (*report)(void *opaque, uint64_t done_bytes, uint64_t total_bytes, struct ferry_error *err);
    void *opaque;
};

/*
 * All of from, through its bases, to fd, which stays open.  Everything is checked on the way, up to
 * the root, which stays the same; it goes to *root, the length of the new image to *bytes.
 */
int image_rewrite(struct image *from, int fd, const struct rewrite_options *options,
                  uint8_t root[SHA256_BYTES], uint64_t *bytes, struct ferry_error *err);

#endif
