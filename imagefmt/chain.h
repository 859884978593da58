/*
 * An image by its path, together with what it needs to be read: the parents it builds on, the
 * secret it is sealed with.
 */
#ifndef FERRY_IMAGEFMT_CHAIN_H
#define FERRY_IMAGEFMT_CHAIN_H

#include "imagefmt/image.h"

/* What the caller allows an image to draw on; belongs to the caller and outlives the call. */
struct image_environment {
    const char *const *search; /* folders in which parents are looked for, after the image's own */
    size_t search_count;
};

/*
 * image_open of the file at path (a regular file or block device).  The handle owns its descriptors
 * and a copy of path, which is what messages call it.  env: NULL for none.
 */
int image_open_path(const char *path, const struct image_environment *env, struct image **out,
                    struct ferry_error *err);

#endif
