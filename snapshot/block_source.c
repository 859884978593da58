/* Blocks speak iovecs, packing speaks buffers. */
#include "snapshot/block_source.h"

static int read_chunk(void *opaque, uint64_t offset, void *data, size_t size)
{
    struct block *block = opaque;
    struct iovec iov = {data, size};

    return block->ops->read(block, &iov, 1, offset);
}

static int next_data(void *opaque, uint64_t *start, uint64_t *end)
{
    struct block *block = opaque;

    return block->ops->next_data(block, start, end);
}

struct pack_source pack_source_block(struct block *block, const char *about)
{
    return (struct pack_source){
        .read = read_chunk,
        .next_data = next_data,
        .opaque = block,
        .size_bytes = block->size_bytes,
        .about = about,
    };
}
