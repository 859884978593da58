/*
 * An image by its path, together with what it needs to be read: the parents it builds on, the
 * secret it is sealed with.
 */
#ifndef FERRY_IMAGEFMT_CHAIN_H
#define FERRY_IMAGEFMT_CHAIN_H

#include "imagefmt/image.h"
#include "imagefmt/secret.h"

/* What the caller allows an image to draw on; belongs to the caller and outlives the call. */
struct image_environment {
    const char *const *search; /* folders in which parents are looked for, after the image's own */
    size_t search_count;
    const struct image_secret *secret; /* of sealed images; NULL: ask, if there is whom to ask */
    /*
     * A sealed image was met and there is no secret: hand out one of this kind, which stays the
     * caller's and outlives the call.  NULL: sealed images are refused.
     */
    int (*ask)(void *opaque, const char *about, enum image_secret_kind kind,
               const struct image_secret **secret, struct ferry_error *err);
    void *opaque;
    /* image_read of a sealed image without a secret, which nobody is asked for: check its sums. */
    bool scrub;
};

/*
 * image_open of the file at path (a regular file or block device).  The handle owns its descriptors
 * and a copy of path, which is what messages call it.  env: NULL for none.
 */
int image_open_path(const char *path, const struct image_environment *env, struct image **out,
                    struct ferry_error *err);

#endif
