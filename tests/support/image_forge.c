/* Images made by hand, and repaired sums. */
#include "tests/support/image_forge.h"

#include <endian.h>
#include <string.h>

#include "common/limits.h"
#include "imagefmt/format.h"

/* Places in a CHNK record, head included. */
#define CHUNK_CODEC_AT  (RECORD_HEAD_BYTES + 4)
#define CHUNK_STORED_AT (RECORD_HEAD_BYTES + 20)
#define CHUNK_SUM_AT    (RECORD_HEAD_BYTES + 24)

struct forge forge_new(void)
{
    return (struct forge){.out = writer_init(GIB)};
}

void forge_free(struct forge *f)
{
    writer_free(&f->out);
}

void forge_begin(struct forge *f, const char tag[4])
{
    f->start = f->out.size;
    writer_u32(&f->out, RECORD_MAGIC);
    writer_u32(&f->out, 0);
    writer_copy(&f->out, tag, 4);
    writer_u64(&f->out, f->start);
}

void forge_end(struct forge *f)
{
    size_t size = f->out.size - f->start;

    writer_put_u32_at(&f->out, f->start + 4, (uint32_t)(size));
    writer_u64(&f->out, xxh3(f->out.data + f->start, size));
}

void forge_header(struct forge *f, uint32_t version, uint32_t flags)
{
    forge_begin(f, "HEAD");
    writer_copy(&f->out, "ferryimg", 8);
    writer_u32(&f->out, version);
    writer_u32(&f->out, flags);
    forge_end(f);
}

void forge_manifest(struct forge *f, const char *text)
{
    forge_begin(f, "MANI");
    writer_copy(&f->out, text, strlen(text));
    forge_end(f);
}

void forge_state(struct forge *f, uint32_t number, const char *name, const void *data, size_t size)
{
    forge_begin(f, "STAT");
    writer_u32(&f->out, number);
    writer_u16(&f->out, 1);
    writer_u8(&f->out, 0);
    writer_u8(&f->out, (uint8_t)strlen(name));
    writer_copy(&f->out, name, strlen(name));
    writer_copy(&f->out, data, size);
    forge_end(f);
}

void forge_data(struct forge *f, uint32_t number, uint8_t kind, const char *name,
                uint32_t chunk_bytes, uint64_t size)
{
    forge_begin(f, "DATA");
    writer_u32(&f->out, number);
    writer_u8(&f->out, kind);
    writer_u16(&f->out, 0);
    writer_u8(&f->out, (uint8_t)strlen(name));
    writer_u32(&f->out, chunk_bytes);
    writer_u64(&f->out, size);
    writer_copy(&f->out, name, strlen(name));
    forge_end(f);
}

void forge_chunk(struct forge *f, uint32_t number, uint64_t index, uint32_t content_bytes,
                 const void *stored, uint32_t stored_bytes, const uint8_t digest[SHA256_BYTES])
{
    static const uint8_t none[SHA256_BYTES] = {1};

    forge_begin(f, "CHNK");
    writer_u32(&f->out, number);
    writer_u32(&f->out, CODEC_ZSTD);
    writer_u64(&f->out, index);
    writer_u32(&f->out, content_bytes);
    writer_u32(&f->out, stored_bytes);
    writer_u64(&f->out, xxh3(stored, stored_bytes));
    writer_copy(&f->out, digest ? digest : none, SHA256_BYTES);
    forge_end(f);
    writer_copy(&f->out, stored, stored_bytes);
}

void forge_same(struct forge *f, uint32_t number, uint64_t index, uint32_t content_bytes,
                uint32_t stored_bytes, uint64_t target, const uint8_t digest[SHA256_BYTES])
{
    forge_begin(f, "CHNK");
    writer_u32(&f->out, number);
    writer_u32(&f->out, CODEC_SAME);
    writer_u64(&f->out, index);
    writer_u32(&f->out, content_bytes);
    writer_u32(&f->out, stored_bytes);
    writer_u64(&f->out, target);
    writer_copy(&f->out, digest, SHA256_BYTES);
    forge_end(f);
}

static uint32_t get_u32(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof(value));
    return le32toh(value);
}

static void put_u64(uint8_t *at, uint64_t value)
{
    value = htole64(value);
    memcpy(at, &value, sizeof(value));
}

int forge_record_at(const uint8_t *image, size_t size, size_t start, struct forge_record *record)
{
    *record = (struct forge_record){.start = start};
    if (start >= size || size - start < RECORD_HEAD_BYTES + RECORD_SUM_BYTES)
        return 0;
    uint64_t whole = RECORD_FRAME_BYTES + (uint64_t)get_u32(image + start + 4);
    if (get_u32(image + start) != RECORD_MAGIC || whole > size - start ||
        whole < RECORD_HEAD_BYTES + RECORD_SUM_BYTES)
        return 0;
    record->size = whole;
    memcpy(record->tag, image + start + 8, 4);
    if (strcmp(record->tag, "CHNK") ||
        whole != RECORD_HEAD_BYTES + CHUNK_BODY_BYTES + RECORD_SUM_BYTES ||
        get_u32(image + start + CHUNK_CODEC_AT) != CODEC_ZSTD)
        return 1;
    record->stored = get_u32(image + start + CHUNK_STORED_AT);
    if (record->stored > size - start - whole)
        record->stored = size - start - whole;
    return 1;
}

void forge_repair(uint8_t *image, const struct forge_record *record)
{
    uint8_t *at = image + record->start;
    size_t summed = record->size - RECORD_SUM_BYTES;

    put_u64(at + 12, record->start);
    if (record->stored)
        put_u64(at + CHUNK_SUM_AT, xxh3(at + record->size, record->stored));
    put_u64(at + summed, xxh3(at, summed));
}

void forge_repair_all(uint8_t *image, size_t size)
{
    struct forge_record record;

    for (size_t at = 0; forge_record_at(image, size, at, &record);
         at += record.size + record.stored)
        forge_repair(image, &record);
}
