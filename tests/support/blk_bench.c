/* See the header. */
#include "tests/support/blk_bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- a disk in memory, with faults ---- */

static struct ram_disk *from_block(struct block *block)
{
    return (struct ram_disk *)block;
}

static int ram_copy(struct block *block, const struct iovec *iov, int count, uint64_t offset,
                    bool write)
{
    struct ram_disk *disk = from_block(block);
    if (disk->fail)
        return disk->fail;
    disk->busy = true;
    if (disk->slow)
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    for (int n = 0; n < count; n++) {
        assert_true(offset + iov[n].iov_len <= block->size_bytes);
        if (write)
            memcpy(disk->data + offset, iov[n].iov_base, iov[n].iov_len);
        else
            memcpy(iov[n].iov_base, disk->data + offset, iov[n].iov_len);
        offset += iov[n].iov_len;
    }
    disk->busy = false;
    return 0;
}

static int ram_read(struct block *block, const struct iovec *iov, int count, uint64_t offset)
{
    return ram_copy(block, iov, count, offset, false);
}

static int ram_write(struct block *block, const struct iovec *iov, int count, uint64_t offset)
{
    return ram_copy(block, iov, count, offset, true);
}

static int ram_flush(struct block *block)
{
    from_block(block)->flushes++;
    return from_block(block)->fail;
}

static int ram_discard(struct block *block, uint64_t offset, uint64_t size)
{
    assert_true(offset + size <= block->size_bytes);
    from_block(block)->discards++;
    return from_block(block)->fail;
}

static int ram_zero(struct block *block, uint64_t offset, uint64_t size, bool may_unmap)
{
    (void)may_unmap;
    assert_true(offset + size <= block->size_bytes);
    memset(from_block(block)->data + offset, 0, size);
    from_block(block)->zeroes++;
    return from_block(block)->fail;
}

static const struct block_ops ram_ops = {
    .read = ram_read,
    .write = ram_write,
    .flush = ram_flush,
    .discard = ram_discard,
    .write_zeroes = ram_zero,
};

/* ---- the bench: a rig with one disk under a started driver ---- */

struct device *add_disk(struct rig *rig, struct ram_disk *disk, const char *name, bool readonly)
{
    struct disk_config config = {.size_bytes = DISK_BYTES, .readonly = readonly};
    snprintf(config.device, sizeof(config.device), "%s", name);
    snprintf(config.serial, sizeof(config.serial), "ferry-serial");
    *disk = (struct ram_disk){
        .block = {.ops = &ram_ops, .size_bytes = DISK_BYTES, .readonly = readonly, .active = true}};
    disk->data = malloc(DISK_BYTES);
    assert_non_null(disk->data);
    for (unsigned n = 0; n < DISK_BYTES; n++)
        disk->data[n] = (uint8_t)(n * 2654435761u >> 24);
    struct device *device;
    struct ferry_error err = {0};
    if (virtio_blk_create(&rig->platform, rig->pci, &config, &disk->block, &device, &err))
        fail_msg("%s", err.message);
    assert_int_equal(device->ops->resume(device, NULL), 0);
    return device;
}

void bench_open(struct bench *bench, bool readonly, uint64_t without)
{
    rig_create(&bench->rig, -1);
    bench->device = add_disk(&bench->rig, &bench->disk, "vda", readonly);
    driver_start(&bench->driver, &bench->rig, rig_find(&bench->rig, BLK_ID, 0), without);
}

void bench_close(struct bench *bench)
{
    bench->device->ops->destroy(bench->device);
    rig_destroy(&bench->rig);
    free(bench->disk.data);
}

uint8_t *data_of(struct bench *bench)
{
    return rig_ram(&bench->rig, DRIVER_DATA_GPA);
}

uint64_t interrupts(struct device *device, unsigned vector)
{
    uint64_t count = 0;
    const struct virtio_device *virtio = (const struct virtio_device *)device;
    return read(virtio->msix.fd[vector], &count, sizeof(count)) == sizeof(count) ? count : 0;
}
