/* See the header. */
#include "tests/support/memory_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct memory_disk *from_block(struct block *block)
{
    return (struct memory_disk *)block;
}

static uint64_t blocks_of(const struct block *block)
{
    return (block->size_bytes + BLOCK_APART_BYTES - 1) / BLOCK_APART_BYTES;
}

static bool is_within(const struct block *block, uint64_t offset, uint64_t size)
{
    return offset <= block->size_bytes && size <= block->size_bytes - offset;
}

static int memory_read(struct block *block, const struct iovec *iov, int count, uint64_t offset)
{
    struct memory_disk *disk = from_block(block);

    if (disk->fail_reads)
        return disk->fail_reads;
    for (int n = 0; n < count; offset += iov[n++].iov_len) {
        if (!is_within(block, offset, iov[n].iov_len))
            return -EINVAL;
        memcpy(iov[n].iov_base, disk->data + offset, iov[n].iov_len);
    }
    return 0;
}

static void mark(struct memory_disk *disk, uint64_t offset, uint64_t size)
{
    for (uint64_t n = offset / BLOCK_APART_BYTES;
         size && n <= (offset + size - 1) / BLOCK_APART_BYTES; n++)
        disk->has_data[n] = true;
}

static int memory_write(struct block *block, const struct iovec *iov, int count, uint64_t offset)
{
    struct memory_disk *disk = from_block(block);

    for (int n = 0; n < count; offset += iov[n++].iov_len) {
        if (!is_within(block, offset, iov[n].iov_len))
            return -EINVAL;
        memcpy(disk->data + offset, iov[n].iov_base, iov[n].iov_len);
        mark(disk, offset, iov[n].iov_len);
    }
    return 0;
}

static int memory_flush(struct block *block)
{
    from_block(block)->flushes++;
    return 0;
}

/* Whole blocks become holes. */
static int memory_zero(struct block *block, uint64_t offset, uint64_t size, bool may_unmap)
{
    struct memory_disk *disk = from_block(block);

    if (!is_within(block, offset, size))
        return -EINVAL;
    memset(disk->data + offset, 0, size);
    if (!may_unmap)
        mark(disk, offset, size);
    for (uint64_t n = 0; may_unmap && n < blocks_of(block); n++)
        if (n * BLOCK_APART_BYTES >= offset && (n + 1) * BLOCK_APART_BYTES <= offset + size)
            disk->has_data[n] = false;
    return 0;
}

static int memory_discard(struct block *block, uint64_t offset, uint64_t size)
{
    from_block(block)->discards++;
    return memory_zero(block, offset, size, true);
}

static int memory_next(struct block *block, uint64_t *start, uint64_t *end)
{
    const struct memory_disk *disk = from_block(block);
    uint64_t n = *start / BLOCK_APART_BYTES, blocks = blocks_of(block);

    while (n < blocks && !disk->has_data[n])
        n++;
    if (n == blocks || *start >= block->size_bytes)
        return 0;
    *start = n * BLOCK_APART_BYTES > *start ? n * BLOCK_APART_BYTES : *start;
    while (n < blocks && disk->has_data[n])
        n++;
    *end = n < blocks ? n * BLOCK_APART_BYTES : block->size_bytes;
    return 1;
}

static int memory_own(struct block *block, struct ferry_error *err)
{
    (void)block, (void)err;
    return 0;
}

static void memory_close(struct block *block)
{
    struct memory_disk *disk = from_block(block);

    free(disk->data);
    free(disk->has_data);
    free(disk);
}

static const struct block_ops memory_ops = {
    .read = memory_read,
    .write = memory_write,
    .flush = memory_flush,
    .discard = memory_discard,
    .write_zeroes = memory_zero,
    .next_data = memory_next,
    .release = memory_own,
    .activate = memory_own,
    .close = memory_close,
};

struct memory_disk *memory_disk_new(uint64_t size_bytes)
{
    struct memory_disk *disk = calloc(1, sizeof(*disk));

    if (!disk)
        abort();
    disk->block = (struct block){.ops = &memory_ops, .size_bytes = size_bytes, .active = true};
    disk->data = calloc(1, size_bytes);
    disk->has_data = calloc(blocks_of(&disk->block), sizeof(*disk->has_data));
    if (!disk->data || !disk->has_data)
        abort();
    return disk;
}
