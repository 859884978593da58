/* Bounded reader and writer over memory; see bytes.h for the contract. */
#include "common/bytes.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct reader reader_init(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    return (struct reader){.cur = bytes, .end = size ? bytes + size : bytes};
}

size_t reader_left(const struct reader *r)
{
    return r->error ? 0 : (size_t)(r->end - r->cur);
}

const uint8_t *reader_take(struct reader *r, size_t size)
{
    if (r->error || size > (size_t)(r->end - r->cur)) {
        r->error = -EBADMSG;
        return NULL;
    }
    const uint8_t *taken = r->cur;
    if (size)
        r->cur += size;
    return taken;
}

void reader_copy(struct reader *r, void *out, size_t size)
{
    const uint8_t *from = reader_take(r, size);
    if (!size)
        return;
    if (from)
        memcpy(out, from, size);
    else
        memset(out, 0, size);
}

uint8_t reader_u8(struct reader *r)
{
    uint8_t value;
    reader_copy(r, &value, sizeof(value));
    return value;
}

uint16_t reader_u16(struct reader *r)
{
    uint16_t value;
    reader_copy(r, &value, sizeof(value));
    return le16toh(value);
}

uint32_t reader_u32(struct reader *r)
{
    uint32_t value;
    reader_copy(r, &value, sizeof(value));
    return le32toh(value);
}

uint64_t reader_u64(struct reader *r)
{
    uint64_t value;
    reader_copy(r, &value, sizeof(value));
    return le64toh(value);
}

uint16_t reader_u16be(struct reader *r)
{
    uint16_t value;
    reader_copy(r, &value, sizeof(value));
    return be16toh(value);
}

uint32_t reader_u32be(struct reader *r)
{
    uint32_t value;
    reader_copy(r, &value, sizeof(value));
    return be32toh(value);
}

uint64_t reader_u64be(struct reader *r)
{
    uint64_t value;
    reader_copy(r, &value, sizeof(value));
    return be64toh(value);
}

struct reader reader_sub(struct reader *r, size_t size)
{
    const uint8_t *start = reader_take(r, size);
    struct reader sub = reader_init(start, start ? size : 0);
    if (!start && r->error)
        sub.error = r->error;
    return sub;
}

struct writer writer_init(size_t limit)
{
    return (struct writer){.limit = limit};
}

void writer_free(struct writer *w)
{
    free(w->data);
    *w = (struct writer){0};
}

void writer_reset(struct writer *w)
{
    w->size = 0;
    w->error = 0;
}

int writer_reserve(struct writer *w, size_t size)
{
    if (w->error)
        return w->error;
    if (size > w->limit - w->size)
        return w->error = -EFBIG;
    size_t need = w->size + size;
    if (need <= w->capacity)
        return 0;
    size_t capacity = w->capacity < 256 ? 256 : w->capacity;
    while (capacity < need)
        capacity = capacity > w->limit / 2 ? w->limit : capacity * 2;
    uint8_t *data = realloc(w->data, capacity);
    if (!data)
        return w->error = -ENOMEM;
    w->data = data;
    w->capacity = capacity;
    return 0;
}

uint8_t *writer_grow(struct writer *w, size_t size)
{
    if (writer_reserve(w, size))
        return NULL;
    uint8_t *at = w->data + w->size;
    memset(at, 0, size);
    w->size += size;
    return at;
}

void writer_copy(struct writer *w, const void *data, size_t size)
{
    if (!size || writer_reserve(w, size))
        return;
    memcpy(w->data + w->size, data, size);
    w->size += size;
}

void writer_u8(struct writer *w, uint8_t value)
{
    writer_copy(w, &value, sizeof(value));
}

void writer_u16(struct writer *w, uint16_t value)
{
    value = htole16(value);
    writer_copy(w, &value, sizeof(value));
}

void writer_u32(struct writer *w, uint32_t value)
{
    value = htole32(value);
    writer_copy(w, &value, sizeof(value));
}

void writer_u64(struct writer *w, uint64_t value)
{
    value = htole64(value);
    writer_copy(w, &value, sizeof(value));
}

void writer_u16be(struct writer *w, uint16_t value)
{
    value = htobe16(value);
    writer_copy(w, &value, sizeof(value));
}

void writer_u32be(struct writer *w, uint32_t value)
{
    value = htobe32(value);
    writer_copy(w, &value, sizeof(value));
}

void writer_u64be(struct writer *w, uint64_t value)
{
    value = htobe64(value);
    writer_copy(w, &value, sizeof(value));
}

void writer_put_u32_at(struct writer *w, size_t offset, uint32_t value)
{
    if (w->error || w->size < sizeof(value) || offset > w->size - sizeof(value)) {
        w->error = w->error ? w->error : -EINVAL;
        return;
    }
    value = htole32(value);
    memcpy(w->data + offset, &value, sizeof(value));
}
