/* The head of a chunk to bytes and back. */
#include "imagefmt/chunk.h"

#include "imagefmt/record.h"

void chunk_head_write(struct writer *body, const struct chunk_head *head)
{
    writer_u32(body, head->section);
    writer_u32(body, head->codec);
    writer_u64(body, head->index);
    writer_u32(body, head->content_bytes);
    writer_u32(body, head->stored_bytes);
    writer_u64(body, head->sum);
    writer_copy(body, head->digest, SHA256_BYTES);
}

void chunk_head_read(struct reader *body, struct chunk_head *head)
{
    head->section = reader_u32(body);
    head->codec = reader_u32(body);
    head->index = reader_u64(body);
    head->content_bytes = reader_u32(body);
    head->stored_bytes = reader_u32(body);
    head->sum = reader_u64(body);
    reader_copy(body, head->digest, SHA256_BYTES);
}

size_t chunk_record_bytes(bool sealed)
{
    return CHUNK_RECORD_BYTES + (sealed ? SEAL_TAG_BYTES : 0);
}

size_t chunk_stored_bytes(bool sealed, uint32_t stored_bytes)
{
    return stored_bytes + (sealed ? SEAL_OVERHEAD_BYTES : 0);
}

const char *chunk_record_read(uint8_t *data, uint64_t offset, const struct seal *seal,
                              struct chunk_head *head)
{
    struct record record;
    uint64_t size;

    if (!record_size(data, &size) || size != chunk_record_bytes(seal))
        return "no chunk is where one should be";
    if (record_check(data, size, offset, seal, &record))
        return "its head does not match its sum or place";
    if (record.tag != RECORD_CHUNK)
        return "no chunk is where one should be";
    chunk_head_read(&record.body, head);
    return NULL;
}
