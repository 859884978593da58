/*
 * The backend: the overlay (overlay.c) in a sparse file over the section of an image.
 *
 * Ownership is an open file description lock on the overlay, as raw_file.c has it on a raw disk.  A
 * read-only disk needs none: images are replaced whole, never changed in place.
 */
#include "snapshot/image_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "snapshot/overlay.h"

#define SECTOR_BYTES 512

/* NOLINTNEXTLINE(misc-redundant-expression): they are equal today; each may change */
_Static_assert(OVERLAY_BLOCK_BYTES <= BLOCK_APART_BYTES, "a write copies up a whole block");

struct image_disk {
    struct block block;
    struct image *image;
    uint32_t section;
    pthread_mutex_t lock; /* of image, a handle for one thread */
    struct overlay_base base;
    char *path; /* of the overlay, or of its folder if it is temporary; NULL: read-only */
    bool temporary;
    int fd; /* of the overlay; -1: not active */
    struct overlay_store store;
    struct overlay *overlay; /* NULL: not active, or read-only */
};

static struct image_disk *from_block(struct block *block)
{
    return (struct image_disk *)block; /* its first member */
}

/* ---- The file below the overlay ---- */

static struct image_disk *from_store(struct overlay_store *store)
{
    return (struct image_disk *)((char *)store - offsetof(struct image_disk, store));
}

static int store_read(struct overlay_store *store, void *data, size_t size, uint64_t offset)
{
    struct stat st;
    int fd = from_store(store)->fd;

    int error = pread_all(fd, data, size, offset);
    if (error != -ENODATA)
        return error;
    /* The end of the file: what was never written is zero. */
    if (fstat(fd, &st))
        return -errno;
    uint64_t bytes = (uint64_t)st.st_size;
    size_t part = bytes <= offset ? 0 : bytes - offset < size ? (size_t)(bytes - offset) : size;
    memset((uint8_t *)data + part, 0, size - part);
    return part ? pread_all(fd, data, part, offset) : 0;
}

static int store_write(struct overlay_store *store, const void *data, size_t size, uint64_t offset)
{
    return pwrite_all(from_store(store)->fd, data, size, offset);
}

static int store_zero(struct overlay_store *store, uint64_t offset, uint64_t size)
{
    static const uint8_t zeroes[OVERLAY_BLOCK_BYTES];
    int fd = from_store(store)->fd;

    if (!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size))
        return 0;
    if (errno != EOPNOTSUPP)
        return -errno;
    int error = 0;
    for (uint64_t done = 0; !error && done < size; done += sizeof(zeroes)) {
        uint64_t left = size - done;
        error =
            pwrite_all(fd, zeroes, left < sizeof(zeroes) ? left : sizeof(zeroes), offset + done);
    }
    return error;
}

static int store_sync(struct overlay_store *store)
{
    return fdatasync(from_store(store)->fd) ? -errno : 0;
}

/* ---- Transfers ---- */

static int base_read(void *opaque, void *data, size_t size, uint64_t offset)
{
    struct image_disk *disk = opaque;
    struct ferry_error why;
    LOCK_SCOPE(&disk->lock);

    return image_pread(disk->image, disk->section, offset, data, size, &why);
}

static int check_range(const struct block *block, uint64_t offset, uint64_t size, bool write)
{
    if (!block->active)
        return -EBADF;
    if (write && block->readonly)
        return -EROFS;
    return offset > block->size_bytes || size > block->size_bytes - offset ? -EINVAL : 0;
}

static int transfer(struct block *block, const struct iovec *iov, int count, uint64_t offset,
                    bool write)
{
    struct image_disk *disk = from_block(block);

    for (int n = 0; n < count; n++) {
        size_t size = iov[n].iov_len;
        int error = check_range(block, offset, size, write);
        if (!error && write)
            error = overlay_write(disk->overlay, iov[n].iov_base, size, offset);
        else if (!error)
            error = disk->overlay ? overlay_read(disk->overlay, iov[n].iov_base, size, offset)
                                  : base_read(disk, iov[n].iov_base, size, offset);
        if (error)
            return error;
        offset += size;
    }
    return 0;
}

static int disk_read(struct block *block, const struct iovec *iov, int count, uint64_t offset)
{
    return transfer(block, iov, count, offset, false);
}

static int disk_write(struct block *block, const struct iovec *iov, int count, uint64_t offset)
{
    return transfer(block, iov, count, offset, true);
}

static int disk_flush(struct block *block)
{
    struct image_disk *disk = from_block(block);

    if (!block->active)
        return -EBADF;
    return disk->overlay && !disk->temporary ? overlay_flush(disk->overlay) : 0;
}

static int disk_write_zeroes(struct block *block, uint64_t offset, uint64_t size, bool may_unmap)
{
    (void)may_unmap;
    int error = check_range(block, offset, size, true);
    return error ? error : overlay_zero(from_block(block)->overlay, offset, size);
}

/* Discarded blocks could not be found in the image again: they read as zeroes. */
static int disk_discard(struct block *block, uint64_t offset, uint64_t size)
{
    return disk_write_zeroes(block, offset, size, true);
}

/* The next stored chunk of the image at or behind *start. */
static int base_next(struct image_disk *disk, uint64_t *start, uint64_t *end)
{
    uint32_t chunk_bytes = image_section(disk->image, disk->section)->chunk_bytes;
    struct image_chunk chunk;
    struct ferry_error why;
    LOCK_SCOPE(&disk->lock);

    int found = image_next_chunk(disk->image, disk->section, *start / chunk_bytes, &chunk, &why);
    if (found <= 0)
        return found;
    uint64_t first = chunk.index * chunk_bytes;
    *start = first > *start ? first : *start;
    *end = first + chunk_bytes;
    return 1;
}

static int disk_next_data(struct block *block, uint64_t *start, uint64_t *end)
{
    struct image_disk *disk = from_block(block);
    uint64_t over = *start, over_end = 0;

    if (!block->active)
        return -EBADF;
    if (*start >= block->size_bytes)
        return 0;
    bool here = disk->overlay && overlay_next(disk->overlay, &over, &over_end);
    int found = base_next(disk, start, end);
    if (found < 0 || (!found && !here))
        return found;
    if (here && (!found || over <= *start)) {
        *start = over;
        *end = over_end;
    }
    *end = *end < block->size_bytes ? *end : block->size_bytes;
    return 1;
}

/* ---- Ownership ---- */

/* A new overlay appears under its name with its header in place, or not at all. */
static int create_overlay(struct image_disk *disk, struct ferry_error *err)
{
    CLEANUP(atomic_file_abandon) struct atomic_file file = ATOMIC_FILE_NONE;

    int error = atomic_file_open(&file, disk->path, err);
    if (error)
        return error;
    file.fresh = true;
    disk->fd = file.fd;
    error = overlay_format(&disk->store, &disk->base);
    disk->fd = -1;
    if (error)
        return ferry_fail_sys(err, error, disk->path, "cannot write the overlay");
    error = atomic_file_commit(&file, err);
    return error == -EEXIST ? 0 : error; /* somebody was quicker: let the lock decide */
}

static int open_overlay(struct image_disk *disk, struct ferry_error *err)
{
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    struct stat st;

    if (access(disk->path, F_OK) && errno == ENOENT) {
        int error = create_overlay(disk, err);
        if (error)
            return error;
    }
    CLEANUP_FD int fd = open(disk->path, flags);
    if (fd < 0 || fstat(fd, &st))
        return ferry_fail_sys(err, -errno, disk->path, "cannot open the overlay");
    if (!S_ISREG(st.st_mode))
        return ferry_fail(err, -EINVAL, disk->path, "is not a file: it cannot be an overlay");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock))
        return errno == EAGAIN || errno == EACCES
                   ? ferry_refuse(err, -EBUSY, disk->path, "is in use by another machine (locked)")
                   : ferry_fail_sys(err, -errno, disk->path, "cannot lock the overlay");
    disk->fd = take_fd(&fd);
    return 0;
}

static int open_temporary(struct image_disk *disk, struct ferry_error *err)
{
    CLEANUP_FD int fd = open(disk->path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0)
        return ferry_fail_sys(err, -errno, disk->path, "cannot make a temporary overlay");
    disk->fd = take_fd(&fd);
    int error = overlay_format(&disk->store, &disk->base);
    return error ? ferry_fail_sys(err, error, disk->path, "cannot write the overlay") : 0;
}

static void let_go(struct image_disk *disk)
{
    overlay_close(take_ptr(&disk->overlay));
    if (disk->fd >= 0)
        close(take_fd(&disk->fd)); /* and with it the lock */
    disk->block.active = false;
}

static int disk_activate(struct block *block, struct ferry_error *err)
{
    struct image_disk *disk = from_block(block);

    if (block->active)
        return 0;
    int error = !disk->path       ? 0
                : disk->temporary ? open_temporary(disk, err)
                                  : open_overlay(disk, err);
    if (!error && disk->path)
        error = overlay_open(&disk->store, &disk->base, disk->path, &disk->overlay, err);
    if (error)
        let_go(disk);
    block->active = !error;
    return error;
}

static int disk_release(struct block *block, struct ferry_error *err)
{
    struct image_disk *disk = from_block(block);

    if (!block->active)
        return 0;
    if (disk->temporary)
        return ferry_refuse(err, -ENOTSUP, NULL,
                            "a disk whose changes are temporary cannot be given away");
    int error = disk_flush(block);
    if (error)
        return ferry_fail_sys(err, error, disk->path,
                              "the disk could not be flushed; it stays with this machine");
    let_go(disk);
    return 0;
}

static void disk_free(struct image_disk *disk)
{
    image_close(disk->image);
    pthread_mutex_destroy(&disk->lock);
    free(disk->path);
    free(disk);
}

static void disk_close(struct block *block)
{
    struct image_disk *disk = from_block(block);

    let_go(disk);
    disk_free(disk);
}

static const struct block_ops image_disk_ops = {
    .read = disk_read,
    .write = disk_write,
    .flush = disk_flush,
    .discard = disk_discard,
    .write_zeroes = disk_write_zeroes,
    .next_data = disk_next_data,
    .release = disk_release,
    .activate = disk_activate,
    .close = disk_close,
};

/* ---- Opening ---- */

static int find_section(struct image_disk *disk, const struct image_disk_options *o,
                        struct ferry_error *err)
{
    int64_t found = o->section ? image_find(disk->image, IMAGE_DISK, o->section) : -1;
    unsigned disks = 0;

    for (uint32_t i = 0; !o->section && i < image_sections(disk->image); i++)
        if (image_section(disk->image, i)->kind == IMAGE_DISK) {
            found = i;
            disks++;
        }
    if (found < 0 || disks > 1)
        return ferry_usage(err, o->image,
                           disks > 1 ? "holds several disks: name one of them"
                                     : "holds no such disk; see ferry inspect");
    disk->section = (uint32_t)found;
    const struct image_section *section = image_section(disk->image, disk->section);
    if (!section->size || section->size % SECTOR_BYTES)
        return ferry_refuse(err, -EINVAL, o->image,
                            "%" PRIu64 " bytes is no size for a disk: it must be a multiple of 512",
                            section->size);
    return image_check_pages(disk->image, disk->section, err);
}

static int fill(struct image_disk *disk, const struct image_disk_options *o,
                struct ferry_error *err)
{
    int error = image_open_path(o->image, o->env, &disk->image, err);
    if (!error)
        error = find_section(disk, o, err);
    if (error)
        return error;
    const struct image_section *section = image_section(disk->image, disk->section);
    disk->block = (struct block){.ops = &image_disk_ops,
                                 .size_bytes = section->size,
                                 .readonly = o->readonly,
                                 .stays = true};
    disk->base =
        (struct overlay_base){.read = base_read, .opaque = disk, .size_bytes = section->size};
    memcpy(disk->base.digest, section->digest, SHA256_BYTES);
    disk->store = (struct overlay_store){
        .read = store_read, .write = store_write, .zero = store_zero, .sync = store_sync};
    disk->temporary = o->temporary && !o->readonly;
    if (!o->readonly && !(disk->path = strdup(o->overlay)))
        return ferry_fail(err, -ENOMEM, o->image, "out of memory");
    return 0;
}

int image_disk_open(const struct image_disk_options *options, struct block **out,
                    struct ferry_error *err)
{
    struct image_disk *disk = calloc(1, sizeof(*disk));

    if (!disk)
        return ferry_fail(err, -ENOMEM, options->image, "out of memory");
    disk->fd = -1;
    pthread_mutex_init(&disk->lock, NULL);
    int error = fill(disk, options, err);
    if (error)
        disk_free(disk);
    else
        *out = &disk->block;
    return error;
}
