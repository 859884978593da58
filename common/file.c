/* Whole transfers over descriptors, and whole small files. */
#include "common/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/limits.h"

int read_all(int fd, void *data, size_t size)
{
    char *p = data;

    while (size) {
        ssize_t got = read(fd, p, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : -ENODATA;
        p += got;
        size -= (size_t)got;
    }
    return 0;
}

int write_all(int fd, const void *data, size_t size)
{
    const char *p = data;

    while (size) {
        ssize_t put = write(fd, p, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return put < 0 ? -errno : -EIO;
        p += put;
        size -= (size_t)put;
    }
    return 0;
}

int writev_all(int fd, struct iovec *iov, int count)
{
    while (count) {
        ssize_t put = writev(fd, iov, count);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        size_t left = (size_t)put;
        while (count && left >= iov->iov_len) {
            left -= iov->iov_len;
            iov++;
            count--;
        }
        if (!count)
            break;
        if (!put)
            return -EIO;
        iov->iov_base = (char *)iov->iov_base + left;
        iov->iov_len -= left;
    }
    return 0;
}

int pread_all(int fd, void *data, size_t size, uint64_t offset)
{
    char *p = data;

    while (size) {
        ssize_t got = pread(fd, p, size, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : -ENODATA;
        p += got;
        size -= (size_t)got;
        offset += (uint64_t)got;
    }
    return 0;
}

int pwrite_all(int fd, const void *data, size_t size, uint64_t offset)
{
    const char *p = data;

    while (size) {
        ssize_t put = pwrite(fd, p, size, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return put < 0 ? -errno : -EIO;
        p += put;
        size -= (size_t)put;
        offset += (uint64_t)put;
    }
    return 0;
}

#define WRITEBACK_BYTES (8 * MIB)

void file_begin_writeback(int fd, uint64_t *begun, uint64_t end)
{
    if (end < *begun + WRITEBACK_BYTES)
        return;
    (void)sync_file_range(fd, (off_t)*begun, (off_t)(end - *begun), SYNC_FILE_RANGE_WRITE);
    *begun = end;
}

int file_read(const char *path, size_t limit, uint8_t **data, size_t *size, struct ferry_error *err)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st))
        return ferry_fail_sys(err, -errno, path, "cannot open");
    if (!S_ISREG(st.st_mode))
        return ferry_fail(err, -EINVAL, path, "is not a regular file");
    if ((uint64_t)st.st_size > limit)
        return ferry_fail(err, -EFBIG, path, "has %lld bytes, more than the %zu allowed",
                          (long long)st.st_size, limit);
    CLEANUP_FREE uint8_t *bytes = malloc((size_t)st.st_size + 1);
    if (!bytes)
        return ferry_fail(err, -ENOMEM, path, "out of memory");
    int error = read_all(fd, bytes, (size_t)st.st_size);
    if (error)
        return ferry_fail_sys(err, error, path, "cannot read");
    bytes[st.st_size] = 0;
    *size = (size_t)st.st_size;
    *data = take_ptr(&bytes);
    return 0;
}

int open_parent(const char *path, int *dir_fd, char **name, struct ferry_error *err)
{
    CLEANUP_FREE char *for_dir = strdup(path);
    CLEANUP_FREE char *for_base = strdup(path);

    *dir_fd = -1;
    *name = NULL;
    if (!for_dir || !for_base)
        return ferry_fail(err, -ENOMEM, path, "out of memory");
    const char *folder = dirname(for_dir);
    const char *base = basename(for_base);
    if (!strcmp(base, ".") || !strcmp(base, "..") || !strcmp(base, "/") || !strcmp(base, ""))
        return ferry_fail(err, -EISDIR, path, "is not the name of a file");
    CLEANUP_FD int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ferry_fail_sys(err, -errno, folder, "cannot open the folder");
    if (!(*name = strdup(base)))
        return ferry_fail(err, -ENOMEM, path, "out of memory");
    *dir_fd = take_fd(&fd);
    return 0;
}

int temporary_name(const char *name, const char *about, char **out, struct ferry_error *err)
{
    uint64_t random;

    *out = NULL;
    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return ferry_fail_sys(err, -errno, about, "cannot choose a temporary name");
    if (asprintf(out, ".%.200s.%016llx.tmp", name, (unsigned long long)random) < 0) {
        *out = NULL;
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    }
    return 0;
}
