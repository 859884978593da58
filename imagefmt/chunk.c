/* The head of a chunk to bytes and back. */
#include "imagefmt/chunk.h"

#include "imagefmt/format.h"

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

const char *chunk_record_read(const uint8_t *record, uint64_t offset, struct chunk_head *head)
{
    struct reader r = reader_init(record, CHUNK_RECORD_BYTES);

    uint32_t magic = reader_u32(&r), length = reader_u32(&r), tag = reader_u32(&r);
    uint64_t place = reader_u64(&r);
    chunk_head_read(&r, head);
    if (magic != RECORD_MAGIC || length != CHUNK_RECORD_BYTES - RECORD_FRAME_BYTES ||
        tag != RECORD_CHUNK)
        return "no chunk is where one should be";
    if (reader_u64(&r) != xxh3(record, CHUNK_RECORD_BYTES - RECORD_SUM_BYTES) || place != offset)
        return "its head does not match its sum or place";
    return NULL;
}
