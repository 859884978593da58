/* Opening an image by its path. */
#include "imagefmt/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "imagefmt/access.h"

static int open_file(const char *path, struct ferry_error *err)
{
    struct stat st;
    /* O_NONBLOCK: a FIFO given by mistake must not hang us; it means nothing to files. */
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0)
        return ferry_fail_sys(err, -errno, path, "cannot open the image");
    if (fstat(fd, &st))
        return ferry_fail_sys(err, -errno, path, "cannot look at the image");
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return ferry_usage(err, path, "is neither a file nor a block device");
    return take_fd(&fd);
}

int image_open_path(const char *path, const struct image_environment *env, struct image **out,
                    struct ferry_error *err)
{
    CLEANUP_FREE char *about = strdup(path);
    CLEANUP_FD int fd = about ? open_file(path, err) : -1;
    struct image *image = NULL;

    (void)env;
    if (!about)
        return ferry_fail(err, -ENOMEM, path, "out of memory");
    if (fd < 0)
        return fd;
    int error = image_open(fd, about, env, &image, err);
    if (error)
        return error;
    image->own_fd = take_fd(&fd);
    image->own_about = take_ptr(&about);
    *out = image;
    return 0;
}
