/* Records to bytes and back: length within the limit, sum, place, and only then meaning. */
#include "imagefmt/record.h"

void record_begin(struct writer *record, enum record_tag tag, uint64_t offset)
{
    writer_reset(record);
    writer_u32(record, RECORD_MAGIC);
    writer_u32(record, 0);
    writer_u32(record, tag);
    writer_u64(record, offset);
}

void record_end(struct writer *record)
{
    size_t size = record->size + RECORD_SUM_BYTES;

    writer_put_u32_at(record, 4, (uint32_t)(size - RECORD_FRAME_BYTES));
    if (!record->error)
        writer_u64(record, xxh3(record->data, record->size));
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

const char *record_check(const uint8_t *data, size_t size, uint64_t offset, struct record *record)
{
    struct reader r = reader_init(data, size);

    reader_take(&r, RECORD_FRAME_BYTES);
    record->tag = reader_u32(&r);
    record->offset = offset;
    uint64_t place = reader_u64(&r);
    record->body = reader_sub(&r, reader_left(&r) - RECORD_SUM_BYTES);
    if (reader_u64(&r) != xxh3(data, size - RECORD_SUM_BYTES))
        return "its bytes do not match their sum";
    return place == offset ? NULL : "it belongs elsewhere in the image";
}
