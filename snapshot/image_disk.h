/*
 * A virtual disk on a section of an image (DESIGN 7).  A writable one keeps the guest's changes in
 * an overlay file; the image is never written to.
 */
#ifndef FERRY_SNAPSHOT_IMAGE_DISK_H
#define FERRY_SNAPSHOT_IMAGE_DISK_H

#include "imagefmt/chain.h"
#include "vmm/block.h"

struct image_disk_options {
    const char *image;   /* path */
    const char *section; /* name of the disk in it; NULL: its only one */
    const char *overlay; /* path, made if it is not there; NULL with readonly or temporary */
    bool readonly;       /* no overlay, and no writes */
    bool temporary; /* changes are gone when the disk is closed; overlay: the folder for them */
    const struct image_environment *env;
};

/*
 * Opens and checks the image: its table, and that the section's pages add up to its digest.  The
 * overlay is opened, and locked against a second writer, by ops->activate.  Errors: FERRY_USAGE
 * (no such disk in it), FERRY_REFUSED (damaged).
 */
int image_disk_open(const struct image_disk_options *options, struct block **out,
                    struct ferry_error *err);

#endif
