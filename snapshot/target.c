/* Where an image may go, and how it may be cut. */
#include "snapshot/target.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/limits.h"

/* The disk of a machine is locked, by whatever name: an image must not take that from it. */
static int check_not_a_disk(const char *path, struct ferry_error *err)
{
    struct flock probe = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

    if (fd < 0 || fcntl(fd, F_OFD_GETLK, &probe) || probe.l_type == F_UNLCK)
        return 0;
    return ferry_refuse(err, -EBUSY, path, "is in use as a disk of a machine (locked)");
}

int target_open(struct atomic_file *file, const char *path, struct ferry_error *err)
{
    int error = check_not_a_disk(path, err);

    return error ? error : atomic_file_open(file, path, err);
}

int target_check_chunk(uint64_t bytes, struct ferry_error *err)
{
    if (bytes >= LIMIT_CHUNK_MIN_BYTES && bytes <= LIMIT_CHUNK_BYTES && !(bytes & (bytes - 1)))
        return 0;
    return ferry_usage(err, "snapshot", "a chunk size must be a power of two from 4K to 4M");
}
