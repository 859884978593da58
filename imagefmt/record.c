/* Records to bytes and back: length within the limit, sum, place, and only then meaning. */
#include "imagefmt/record.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

void record_begin(struct writer *record, enum record_tag tag, uint64_t offset)
{
    writer_reset(record);
    writer_u32(record, RECORD_MAGIC);
    writer_u32(record, 0);
    writer_u32(record, tag);
    writer_u64(record, offset);
}

void record_end(struct writer *record, const struct seal *seal)
{
    size_t body = record->size - RECORD_HEAD_BYTES;
    bool sealed = seal && !record->error && writer_grow(record, seal_record_adds(record->data));
    size_t size = record->size + RECORD_SUM_BYTES;

    writer_put_u32_at(record, 4, (uint32_t)(size - RECORD_FRAME_BYTES));
    if (sealed && !seal_record(seal, record->data, record->data + RECORD_HEAD_BYTES, body))
        record->error = -EIO;
    if (!record->error)
        writer_u64(record, xxh3(record->data, record->size));
}

void record_wrap(uint8_t *data, size_t size, enum record_tag tag, uint64_t offset)
{
    const uint32_t words[] = {
        htole32(RECORD_MAGIC),
        htole32((uint32_t)(RECORD_LEAST_BYTES - RECORD_FRAME_BYTES + size)),
        htole32(tag),
        htole32((uint32_t)offset),
        htole32((uint32_t)(offset >> 32)),
    };
    size_t summed = RECORD_HEAD_BYTES + size;

    memcpy(data, words, sizeof(words));
    uint64_t sum = htole64(xxh3(data, summed));
    memcpy(data + summed, &sum, sizeof(sum));
}

bool record_has_magic(const uint8_t *frame)
{
    struct reader r = reader_init(frame, RECORD_FRAME_BYTES);

    return reader_u32(&r) == RECORD_MAGIC;
}

bool record_size(const uint8_t *frame, uint64_t *size)
{
    struct reader r = reader_init(frame, RECORD_FRAME_BYTES);
    uint32_t magic = reader_u32(&r);

    *size = RECORD_FRAME_BYTES + (uint64_t)reader_u32(&r);
    return magic == RECORD_MAGIC && *size >= RECORD_LEAST_BYTES && *size <= RECORD_LIMIT_BYTES;
}

const char *record_check(uint8_t *data, size_t size, uint64_t offset, const struct seal *seal,
                         struct record *record)
{
    struct reader r = reader_init(data, size);

    reader_take(&r, RECORD_FRAME_BYTES);
    record->tag = reader_u32(&r);
    record->offset = offset;
    uint64_t place = reader_u64(&r);
    record->body = reader_sub(&r, reader_left(&r) - RECORD_SUM_BYTES);
    if (reader_u64(&r) != xxh3(data, size - RECORD_SUM_BYTES))
        return "its bytes do not match their sum";
    if (place != offset)
        return "it belongs elsewhere in the image";
    if (!seal)
        return NULL;
    size_t body = size - RECORD_LEAST_BYTES;
    if (!unseal_record(seal, data, data + RECORD_HEAD_BYTES, body))
        return "it is not what was sealed";
    record->body = reader_init(data + RECORD_HEAD_BYTES, body - seal_record_adds(data));
    return NULL;
}
