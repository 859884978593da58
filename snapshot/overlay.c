/*
 * Blocks are copied up whole on their first write.  The bitmap lives in memory; its pages that have
 * changed are written by a flush, between two syncs: the first makes the data durable that they
 * speak of, the second makes them so.
 */
#include "snapshot/overlay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define MAGIC         "ferryovl"
#define MAGIC_BYTES   8
#define VERSION       1
#define HEADER_BYTES  64
#define BITMAP_OFFSET UINT64_C(4096)
#define PAGE_BYTES    UINT64_C(4096) /* of the bitmap that are written at a time */

struct overlay {
    struct overlay_store *store;
    const struct overlay_base *base;
    uint64_t blocks, data_offset;
    uint64_t pages;   /* of the bitmap */
    uint8_t *bitmap;  /* whole pages */
    uint8_t *changed; /* a byte for each page */
    uint8_t *block;   /* one to copy up */
    bool written;     /* data or bits since the last flush */
    bool flush_failed;
};

static uint64_t blocks_of(uint64_t size_bytes)
{
    return size_bytes / OVERLAY_BLOCK_BYTES + !!(size_bytes % OVERLAY_BLOCK_BYTES);
}

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

/* ---- Header ---- */

static void make_header(const struct overlay_base *base, struct writer *out)
{
    writer_copy(out, MAGIC, MAGIC_BYTES);
    writer_u32(out, VERSION);
    writer_u32(out, OVERLAY_BLOCK_BYTES);
    writer_u64(out, base->size_bytes);
    writer_copy(out, base->digest, SHA256_BYTES);
    if (!out->error)
        writer_u64(out, xxh3(out->data, out->size));
}

int overlay_format(struct overlay_store *store, const struct overlay_base *base)
{
    CLEANUP(writer_free) struct writer header = writer_init(HEADER_BYTES);

    make_header(base, &header);
    return header.error ? header.error : store->write(store, header.data, header.size, 0);
}

static int check_header(struct overlay_store *store, const struct overlay_base *base,
                        const char *about, struct ferry_error *err)
{
    uint8_t header[HEADER_BYTES], digest[SHA256_BYTES];

    int error = store->read(store, header, sizeof(header), 0);
    if (error)
        return ferry_fail_sys(err, error, about, "cannot read the overlay");
    struct reader r = reader_init(header, sizeof(header));
    if (memcmp(reader_take(&r, MAGIC_BYTES), MAGIC, MAGIC_BYTES))
        return ferry_refuse(err, -EBADMSG, about, "is not an overlay of ferry");
    uint32_t version = reader_u32(&r), block_bytes = reader_u32(&r);
    uint64_t size_bytes = reader_u64(&r);
    reader_copy(&r, digest, sizeof(digest));
    if (reader_u64(&r) != xxh3(header, HEADER_BYTES - 8))
        return ferry_refuse(err, -EBADMSG, about, "the overlay's header is damaged");
    if (version != VERSION || block_bytes != OVERLAY_BLOCK_BYTES)
        return ferry_refuse(err, -ENOTSUP, about, "is an overlay that this ferry does not know");
    if (size_bytes != base->size_bytes || memcmp(digest, base->digest, sizeof(digest)))
        return ferry_refuse(err, -EINVAL, about,
                            "holds the changes of another disk; bring back the image that it "
                            "belongs to, or move it away");
    return 0;
}

/* ---- Opening ---- */

/* Bits behind the last block mean nothing, and must not be met later. */
static void clear_spare_bits(struct overlay *o)
{
    for (uint64_t bit = o->blocks; bit < o->pages * PAGE_BYTES * 8; bit++)
        o->bitmap[bit / 8] &= (uint8_t) ~(1u << bit % 8);
}

int overlay_open(struct overlay_store *store, const struct overlay_base *base, const char *about,
                 struct overlay **out, struct ferry_error *err)
{
    int error = check_header(store, base, about, err);
    if (error)
        return error;
    struct overlay *o = calloc(1, sizeof(*o));
    if (!o)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    o->store = store;
    o->base = base;
    o->blocks = blocks_of(base->size_bytes);
    o->pages = round_up(o->blocks, PAGE_BYTES * 8) / (PAGE_BYTES * 8);
    o->data_offset = round_up(BITMAP_OFFSET + o->pages * PAGE_BYTES, OVERLAY_BLOCK_BYTES);
    o->bitmap = calloc(o->pages + 1, PAGE_BYTES);
    o->changed = calloc(o->pages + 1, 1);
    o->block = malloc(OVERLAY_BLOCK_BYTES);
    error = -ENOMEM;
    if (o->bitmap && o->changed && o->block)
        error = store->read(store, o->bitmap, o->pages * PAGE_BYTES, BITMAP_OFFSET);
    if (error) {
        overlay_close(o);
        return ferry_fail_sys(err, error, about, "cannot read the overlay");
    }
    clear_spare_bits(o);
    *out = o;
    return 0;
}

void overlay_close(struct overlay *o)
{
    if (!o)
        return;
    free(o->bitmap);
    free(o->changed);
    free(o->block);
    free(o);
}

/* ---- Blocks ---- */

/* Readers look at bytes of the bitmap while the one writer sets bits of other blocks in them. */
static uint8_t bits_of(const struct overlay *o, uint64_t block)
{
    return __atomic_load_n(&o->bitmap[block / 8], __ATOMIC_ACQUIRE);
}

static bool is_here(const struct overlay *o, uint64_t block)
{
    return bits_of(o, block) >> block % 8 & 1;
}

static void set_here(struct overlay *o, uint64_t block)
{
    uint8_t bits = bits_of(o, block) | (uint8_t)(1u << block % 8);

    __atomic_store_n(&o->bitmap[block / 8], bits, __ATOMIC_RELEASE);
    o->changed[block / 8 / PAGE_BYTES] = 1;
}

static uint32_t block_bytes(const struct overlay *o, uint64_t block)
{
    uint64_t left = o->base->size_bytes - block * OVERLAY_BLOCK_BYTES;

    return left < OVERLAY_BLOCK_BYTES ? (uint32_t)left : OVERLAY_BLOCK_BYTES;
}

/* How far the blocks from offset on are all here, or all not; at most size bytes. */
static size_t run_length(const struct overlay *o, uint64_t offset, size_t size)
{
    uint64_t block = offset / OVERLAY_BLOCK_BYTES, last = (offset + size - 1) / OVERLAY_BLOCK_BYTES;
    bool here = is_here(o, block);

    while (block < last && is_here(o, block + 1) == here)
        block++;
    uint64_t end = (block + 1) * OVERLAY_BLOCK_BYTES;
    return end - offset < size ? (size_t)(end - offset) : size;
}

int overlay_read(struct overlay *o, void *data, size_t size, uint64_t offset)
{
    uint8_t *to = data;

    while (size) {
        size_t part = run_length(o, offset, size);
        int error = is_here(o, offset / OVERLAY_BLOCK_BYTES)
                        ? o->store->read(o->store, to, part, o->data_offset + offset)
                        : o->base->read(o->base->opaque, to, part, offset);
        if (error)
            return error;
        to += part;
        offset += part;
        size -= part;
    }
    return 0;
}

/* A part of a block that is not here yet: all of it is written, and then it is. */
static int copy_up(struct overlay *o, uint64_t block, const void *data, size_t size, size_t within)
{
    uint64_t start = block * OVERLAY_BLOCK_BYTES;
    uint32_t all = block_bytes(o, block);

    if (size < all) {
        int error = o->base->read(o->base->opaque, o->block, all, start);
        if (error)
            return error;
        memcpy(o->block + within, data, size);
        data = o->block;
    }
    int error = o->store->write(o->store, data, all, o->data_offset + start);
    if (!error)
        set_here(o, block);
    return error;
}

int overlay_write(struct overlay *o, const void *data, size_t size, uint64_t offset)
{
    const uint8_t *from = data;

    o->written = true;
    while (size) {
        uint64_t block = offset / OVERLAY_BLOCK_BYTES, within = offset % OVERLAY_BLOCK_BYTES;
        bool here = is_here(o, block);
        size_t rest = block_bytes(o, block) - within;
        size_t part = here ? run_length(o, offset, size) : rest < size ? rest : size;
        int error = here ? o->store->write(o->store, from, part, o->data_offset + offset)
                         : copy_up(o, block, from, part, within);
        if (error)
            return error;
        from += part;
        offset += part;
        size -= part;
    }
    return 0;
}

/* One block or a part of it. */
static int zero_part(struct overlay *o, uint64_t block, size_t size, size_t within)
{
    uint64_t at = o->data_offset + block * OVERLAY_BLOCK_BYTES + within;
    static const uint8_t zeroes[OVERLAY_BLOCK_BYTES];

    if (!is_here(o, block) && size < block_bytes(o, block))
        return copy_up(o, block, zeroes, size, within);
    int error = o->store->zero(o->store, at, size);
    if (!error && !is_here(o, block))
        set_here(o, block);
    return error;
}

int overlay_zero(struct overlay *o, uint64_t offset, uint64_t size)
{
    o->written = true;
    while (size) {
        uint64_t block = offset / OVERLAY_BLOCK_BYTES, within = offset % OVERLAY_BLOCK_BYTES;
        uint64_t rest = block_bytes(o, block) - within, part = rest < size ? rest : size;
        int error = zero_part(o, block, (size_t)part, (size_t)within);
        if (error)
            return error;
        offset += part;
        size -= part;
    }
    return 0;
}

/* ---- Flush ---- */

static int write_bitmap(struct overlay *o, bool *wrote)
{
    for (uint64_t page = 0; page < o->pages; page++) {
        if (!o->changed[page])
            continue;
        int error = o->store->write(o->store, o->bitmap + page * PAGE_BYTES, PAGE_BYTES,
                                    BITMAP_OFFSET + page * PAGE_BYTES);
        if (error)
            return error;
        *wrote = true;
    }
    return 0;
}

int overlay_flush(struct overlay *o)
{
    bool bits = false;

    if (o->flush_failed)
        return -EIO;
    if (!o->written)
        return 0;
    int error = o->store->sync(o->store);
    if (!error)
        error = write_bitmap(o, &bits);
    if (!error && bits)
        error = o->store->sync(o->store);
    o->flush_failed = error;
    if (error)
        return error;
    memset(o->changed, 0, o->pages);
    o->written = false;
    return 0;
}

/* ---- What is there ---- */

bool overlay_next(const struct overlay *o, uint64_t *start, uint64_t *end)
{
    uint64_t block = *start / OVERLAY_BLOCK_BYTES;

    while (block < o->blocks && !is_here(o, block))
        block += block % 8 || bits_of(o, block) ? 1 : 8;
    if (block >= o->blocks || *start >= o->base->size_bytes)
        return false;
    uint64_t first = block * OVERLAY_BLOCK_BYTES;
    while (block < o->blocks && is_here(o, block))
        block++;
    *start = first > *start ? first : *start;
    *end = block < o->blocks ? block * OVERLAY_BLOCK_BYTES : o->base->size_bytes;
    return true;
}
