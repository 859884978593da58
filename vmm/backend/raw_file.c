/*
 * A disk on a raw file or block device.
 *
 * Ownership is an open file description lock (F_OFD_SETLK) over the whole file: exclusive for a
 * writable disk, shared for a read-only one.  It goes with the descriptor, so a crashed process
 * leaves nothing behind, and two opens conflict even inside one process.
 *
 * A flush that failed may have lost writes that the kernel has already marked clean, so a second
 * one proves nothing: from then on every flush, and the release, fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"
#include "vmm/block.h"

#define SECTOR_BYTES 512
#define ZERO_BYTES   65536 /* written at a time when zeroes have to be written */

struct raw_file {
    struct block block;
    char *path;
    int fd; /* -1: not active */
    bool is_device;
    bool flush_failed;
};

static struct raw_file *from_block(struct block *block)
{
    return (struct raw_file *)block; /* its first member */
}

/* ---- transfers ---- */

/* What one call has left of the pieces, each by itself. */
static int transfer_rest(int fd, const struct iovec *iov, int count, uint64_t offset, size_t skip,
                         bool write)
{
    for (int n = 0; n < count; n++) {
        size_t done = skip < iov[n].iov_len ? skip : iov[n].iov_len;
        uint8_t *data = (uint8_t *)iov[n].iov_base + done;
        size_t size = iov[n].iov_len - done;
        int rc = write ? pwrite_all(fd, data, size, offset + done)
                       : pread_all(fd, data, size, offset + done);
        if (rc)
            return rc;
        skip -= done;
        offset += iov[n].iov_len;
    }
    return 0;
}

static int transfer(struct block *block, const struct iovec *iov, int count, uint64_t offset,
                    bool write)
{
    const struct raw_file *file = from_block(block);
    size_t size = 0;
    for (int n = 0; n < count; n++)
        size += iov[n].iov_len;
    if (!block->active)
        return -EBADF;
    if (offset > block->size_bytes || size > block->size_bytes - offset)
        return -EINVAL;
    ssize_t done;
    do {
        done = write ? pwritev(file->fd, iov, count, (off_t)offset)
                     : preadv(file->fd, iov, count, (off_t)offset);
    } while (done < 0 && errno == EINTR);
    if (done < 0)
        return -errno;
    if ((size_t)done == size)
        return 0;
    return transfer_rest(file->fd, iov, count, offset, (size_t)done, write);
}

static int raw_read(struct block *block, const struct iovec *iov, int count, uint64_t offset)
{
    return transfer(block, iov, count, offset, false);
}

static int raw_write(struct block *block, const struct iovec *iov, int count, uint64_t offset)
{
    return block->readonly ? -EROFS : transfer(block, iov, count, offset, true);
}

static int raw_flush(struct block *block)
{
    struct raw_file *file = from_block(block);
    if (!block->active)
        return -EBADF;
    if (block->readonly)
        return 0;
    if (!file->flush_failed && fdatasync(file->fd) == 0)
        return 0;
    int code = file->flush_failed ? -EIO : -errno;
    file->flush_failed = true;
    return code;
}

/* ---- ranges ---- */

static int check_range(const struct block *block, uint64_t offset, uint64_t size)
{
    if (!block->active)
        return -EBADF;
    if (block->readonly)
        return -EROFS;
    if (offset > block->size_bytes || size > block->size_bytes - offset)
        return -EINVAL;
    return 0;
}

static int change_range(const struct raw_file *file, int mode, uint64_t offset, uint64_t size)
{
    int rc;
    do {
        rc = fallocate(file->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size);
    } while (rc && errno == EINTR);
    return rc ? -errno : 0;
}

static int device_range(const struct raw_file *file, unsigned long request, uint64_t offset,
                        uint64_t size)
{
    uint64_t range[2] = {offset, size};
    return ioctl(file->fd, request, range) ? -errno : 0;
}

static int raw_discard(struct block *block, uint64_t offset, uint64_t size)
{
    const struct raw_file *file = from_block(block);
    int rc = check_range(block, offset, size);
    if (rc || size == 0)
        return rc;
    rc = file->is_device ? device_range(file, BLKDISCARD, offset, size)
                         : change_range(file, FALLOC_FL_PUNCH_HOLE, offset, size);
    return rc == -EOPNOTSUPP ? 0 : rc; /* a discard is a hint */
}

static int write_zero_bytes(const struct raw_file *file, uint64_t offset, uint64_t size)
{
    CLEANUP_FREE uint8_t *zeroes = calloc(1, ZERO_BYTES);
    if (!zeroes)
        return -ENOMEM;
    while (size) {
        size_t step = size < ZERO_BYTES ? (size_t)size : ZERO_BYTES;
        int rc = pwrite_all(file->fd, zeroes, step, offset);
        if (rc)
            return rc;
        offset += step;
        size -= step;
    }
    return 0;
}

static int raw_write_zeroes(struct block *block, uint64_t offset, uint64_t size, bool may_unmap)
{
    const struct raw_file *file = from_block(block);
    int rc = check_range(block, offset, size);
    if (rc || size == 0)
        return rc;
    rc = -EOPNOTSUPP;
    if (may_unmap)
        rc = change_range(file, FALLOC_FL_PUNCH_HOLE, offset, size);
    if (rc)
        rc = change_range(file, FALLOC_FL_ZERO_RANGE, offset, size);
    return rc ? write_zero_bytes(file, offset, size) : 0;
}

static int raw_next_data(struct block *block, uint64_t *start, uint64_t *end)
{
    const struct raw_file *file = from_block(block);
    if (!block->active)
        return -EBADF;
    if (*start >= block->size_bytes)
        return 0;
    off_t data = lseek(file->fd, (off_t)*start, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        return 0;
    if (data < 0) { /* cannot tell: all of it may be data */
        *end = block->size_bytes;
        return 1;
    }
    off_t hole = lseek(file->fd, data, SEEK_HOLE);
    if ((uint64_t)data >= block->size_bytes)
        return 0;
    *start = (uint64_t)data;
    *end = hole < 0 || (uint64_t)hole > block->size_bytes ? block->size_bytes : (uint64_t)hole;
    return 1;
}

/* ---- ownership ---- */

/* Open path and find its size; the descriptor or a negative errno. */
static int open_disk(const char *path, bool readonly, uint64_t *size, bool *is_device,
                     struct ferry_error *err)
{
    struct stat st;
    /* O_NONBLOCK: a FIFO given by mistake must not hang us; it means nothing to files. */
    CLEANUP_FD int fd =
        open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return ferry_fail_sys(err, -errno, path, "cannot open the disk%s",
                              errno == EACCES && !readonly ? " for writing" : "");
    if (fstat(fd, &st))
        return ferry_fail_sys(err, -errno, path, "cannot look at the disk");
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return ferry_fail(err, -EINVAL, path, "is neither a file nor a block device");
    *is_device = S_ISBLK(st.st_mode);
    *size = (uint64_t)st.st_size;
    if (*is_device && ioctl(fd, BLKGETSIZE64, size))
        return ferry_fail_sys(err, -errno, path, "cannot ask for the size of the device");
    return take_fd(&fd);
}

static int check_size(const char *path, uint64_t size, uint64_t expect, struct ferry_error *err)
{
    if (size == 0 || size % SECTOR_BYTES || size > LIMIT_DISK_BYTES)
        return ferry_fail(err, -EINVAL, path,
                          "%llu bytes is no size for a disk: it must be a multiple of 512",
                          (unsigned long long)size);
    if (expect && size != expect)
        return ferry_refuse(err, -EINVAL, path, "has %llu bytes, but the machine's disk has %llu",
                            (unsigned long long)size, (unsigned long long)expect);
    return 0;
}

static int lock_disk(int fd, const struct raw_file *file, struct ferry_error *err)
{
    struct flock lock = {
        .l_type = file->block.readonly ? F_RDLCK : F_WRLCK,
        .l_whence = SEEK_SET, /* from 0, without an end */
    };
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return ferry_refuse(err, -EBUSY, file->path, "is in use by another machine (locked)");
    return ferry_fail_sys(err, -errno, file->path, "cannot lock the disk");
}

static int raw_activate(struct block *block, struct ferry_error *err)
{
    struct raw_file *file = from_block(block);
    uint64_t size = 0;
    bool is_device = false;
    if (block->active)
        return 0;
    CLEANUP_FD int fd = open_disk(file->path, block->readonly, &size, &is_device, err);
    if (fd < 0)
        return fd;
    int rc = lock_disk(fd, file, err);
    if (!rc)
        rc = check_size(file->path, size, block->size_bytes, err);
    if (rc)
        return rc;
    file->is_device = is_device;
    file->flush_failed = false;
    file->fd = take_fd(&fd);
    block->active = true;
    return 0;
}

static int raw_release(struct block *block, struct ferry_error *err)
{
    struct raw_file *file = from_block(block);
    if (!block->active)
        return 0;
    int rc = raw_flush(block);
    if (rc)
        return ferry_fail_sys(err, rc, file->path,
                              "the disk could not be flushed; it stays with this machine");
    close(take_fd(&file->fd)); /* and with it the lock */
    block->active = false;
    return 0;
}

static void raw_close(struct block *block)
{
    struct raw_file *file = from_block(block);
    if (file->fd >= 0)
        close(file->fd);
    free(file->path);
    free(file);
}

static const struct block_ops raw_ops = {
    .read = raw_read,
    .write = raw_write,
    .flush = raw_flush,
    .discard = raw_discard,
    .write_zeroes = raw_write_zeroes,
    .next_data = raw_next_data,
    .release = raw_release,
    .activate = raw_activate,
    .close = raw_close,
};

int raw_file_open(const char *path, bool readonly, uint64_t expect_bytes, bool absent_ok,
                  struct block **out, struct ferry_error *err)
{
    uint64_t size = 0;
    bool is_device;
    bool may_be_absent = absent_ok && expect_bytes;
    if (may_be_absent && access(path, F_OK) && errno == ENOENT)
        size = expect_bytes;
    CLEANUP_FD int fd = size ? -1 : open_disk(path, readonly, &size, &is_device, err);
    if (!size && fd < 0)
        return fd;
    int rc = check_size(path, size, expect_bytes, err);
    if (rc)
        return rc;
    CLEANUP_FREE struct raw_file *file = calloc(1, sizeof(*file));
    CLEANUP_FREE char *copy = strdup(path);
    if (!file || !copy)
        return ferry_fail_sys(err, -ENOMEM, path, "cannot open the disk");
    file->block = (struct block){.ops = &raw_ops, .size_bytes = size, .readonly = readonly};
    file->fd = -1;
    file->path = take_ptr(&copy);
    *out = &take_ptr(&file)->block;
    return 0;
}
