/* ferry run IMAGE: what a packed machine starts from. */
#ifndef FERRY_CLI_RUN_IMAGE_H
#define FERRY_CLI_RUN_IMAGE_H

#include "cli/disks.h"
#include "cli/machine_options.h"

/* Kernel and initrd of an image, as paths that this process can open as long as this lives. */
struct run_image {
    int kernel_fd, initrd_fd; /* -1: none */
    char kernel[32], initrd[32];
};

#define RUN_IMAGE_NONE ((struct run_image){.kernel_fd = -1, .initrd_fd = -1})

void run_image_close(struct run_image *image); /* also the cleanup function */
/*
 * The machine of the image at path into config, and its disks into blocks (not active yet).
 * options: what was given instead of the image's own.  On an error no block is left open.
 */
int run_image_open(const char *path, const struct machine_options *options,
                   const struct disk_opening *opening, struct run_image *image,
                   struct machine_config *config, struct block *blocks[LIMIT_DISKS],
                   struct ferry_error *err);

#endif
