/* A packed machine: description, kernel, disks. */
#include "cli/run_image.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "snapshot/unpack.h"

void run_image_close(struct run_image *image)
{
    cleanup_fd_fn(&image->kernel_fd);
    cleanup_fd_fn(&image->initrd_fd);
    *image = RUN_IMAGE_NONE;
}

/* A kernel that was given comes with its own initrd, or none. */
static int take_kernel(struct image *from, const char *path, const struct machine_options *options,
                       struct run_image *image, struct ferry_error *err)
{
    if (options->kernel)
        return 0;
    int error = unpack_file(from, "kernel", &image->kernel_fd, err);
    if (!error && image->kernel_fd < 0)
        return ferry_usage(err, path, "holds no kernel: name one with --kernel");
    if (!error && !options->initrd)
        error = unpack_file(from, "initrd", &image->initrd_fd, err);
    if (error)
        return error;
    snprintf(image->kernel, sizeof(image->kernel), "/proc/self/fd/%d", image->kernel_fd);
    if (image->initrd_fd >= 0)
        snprintf(image->initrd, sizeof(image->initrd), "/proc/self/fd/%d", image->initrd_fd);
    return 0;
}

static int take_disks(const char *path, const struct disk_opening *opening,
                      struct machine_config *config, struct block *blocks[LIMIT_DISKS],
                      struct ferry_error *err)
{
    int error = 0;

    for (uint32_t i = 0; !error && i < config->disk_count; i++)
        error = disk_open_image(path, config->disks[i].device, config->disks[i].readonly, opening,
                                &blocks[i], err);
    if (error)
        disks_close(blocks);
    return error;
}

int run_image_open(const char *path, const struct machine_options *options,
                   const struct disk_opening *opening, struct run_image *image,
                   struct machine_config *config, struct block *blocks[LIMIT_DISKS],
                   struct ferry_error *err)
{
    CLEANUP(image_cleanup) struct image *from = NULL;

    int error = image_open_path(path, opening->env, &from, err);
    if (!error)
        error = unpack_machine(from, path, config, err);
    if (!error)
        error = take_kernel(from, path, options, image, err);
    return error ? error : take_disks(path, opening, config, blocks, err);
}
