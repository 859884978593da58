/* Opening images. */
#include "cli/image_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"

int image_file_open(const char *command, const char *file, struct ferry_error *err)
{
    struct stat st;

    if (!strcmp(file, "-")) {
        if (isatty(STDIN_FILENO))
            return ferry_usage(err, command, "an image does not come from a terminal; pipe it in");
        int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
        return fd < 0 ? ferry_fail_sys(err, -errno, "standard input", "cannot read") : fd;
    }
    CLEANUP_FD int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ferry_fail_sys(err, -errno, file, "cannot open the image");
    if (fstat(fd, &st) || S_ISDIR(st.st_mode))
        return ferry_fail(err, -EISDIR, file, "is a folder, not an image");
    return take_fd(&fd);
}

const char *image_file_about(const char *file)
{
    return strcmp(file, "-") ? file : "standard input";
}

int image_file_open_chain(const char *file, const struct image_file_options *options,
                          struct image **out, struct ferry_error *err)
{
    const struct image_environment env = {.search = options->search.items,
                                          .search_count = options->search.count};

    return image_open_path(file, &env, out, err);
}
