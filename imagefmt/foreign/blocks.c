/*
 * Blocks.  A writer keeps a bit for each block: slots are given in the order of the disk, so the
 * bits are the table.
 */
#include "imagefmt/foreign/blocks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/sink.h"

/* ---- Reading ---- */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

int block_map_place(const struct block_map *map, uint64_t block, uint64_t *offset,
                    struct ferry_error *err)
{
    int error = map->place(map, block, offset, err);

    if (error || !*offset)
        return error;
    uint64_t start = *offset < map->prefix_bytes ? 0 : *offset - map->prefix_bytes;
    uint64_t end = *offset + least(map->block_bytes, map->size_bytes - block * map->block_bytes);
    for (size_t i = 0; i < BLOCK_AREAS; i++)
        if (start < map->areas[i].end && end > map->areas[i].start)
            return ferry_refuse(err, -EBADMSG, map->source->about,
                                "is damaged: block %llu lies on what is not content",
                                (unsigned long long)block);
    return 0;
}

int block_map_extent(const struct block_map *map, uint64_t offset, uint64_t most,
                     struct disk_extent *extent, struct ferry_error *err)
{
    uint64_t block = offset / map->block_bytes, first, next;
    uint64_t stop = least(map->size_bytes - offset, most) + offset;

    int error = block_map_place(map, block++, &first, err);
    for (next = first; !error && !first && block * map->block_bytes < stop; block++) {
        /* What is wrong there is reported when it is asked for. */
        if (block_map_place(map, block, &next, NULL) || next)
            break;
    }
    if (error)
        return error;
    uint64_t end = least(block * map->block_bytes, map->size_bytes);
    *extent = (struct disk_extent){
        .size_bytes = end - offset, .kind = first ? DISK_DATA : DISK_ZERO, .ratio = first != 0};
    return 0;
}

int block_map_read(const struct block_map *map, uint64_t offset, void *data, size_t size,
                   struct ferry_error *err)
{
    uint8_t *out = data;
    int error = 0;

    while (!error && size) {
        uint64_t within = offset % map->block_bytes, place;
        size_t part = size < map->block_bytes - within ? size : map->block_bytes - within;
        error = block_map_place(map, offset / map->block_bytes, &place, err);
        if (!error && !place)
            memset(out, 0, part);
        else if (!error)
            error = map->source->pread(map->source, place + within, out, part, err);
        out += part;
        offset += part;
        size -= part;
    }
    return error;
}

/* ---- Writing ---- */

int sink_at(struct sink *sink, uint64_t offset, const void *data, size_t size,
            struct ferry_error *err)
{
    if (sink->pwrite)
        return sink->pwrite(sink, offset, data, size, err);
    int error = sink_zeroes(sink, offset - sink->position, err);
    return error ? error : sink->write(sink, data, size, err);
}

int block_writer_init(struct block_writer *b, struct ferry_error *err)
{
    b->present = calloc(b->count / 8 + 1, 1);
    if (!b->present)
        return ferry_fail(err, -ENOMEM, b->sink->about, "out of memory");
    if (b->fixed)
        memset(b->present, 0xff, b->count / 8 + 1);
    return 0;
}

void block_writer_free(struct block_writer *b)
{
    free(b->present);
}

bool block_writer_has(const struct block_writer *b, uint64_t block)
{
    return b->present[block / 8] >> (block % 8) & 1;
}

static void set_present(struct block_writer *b, uint64_t block)
{
    b->present[block / 8] |= (uint8_t)(1 << (block % 8));
}

void block_writer_plan(struct block_writer *b, const struct disk_unit *unit)
{
    set_present(b, unit->offset / b->block_bytes);
}

static int write_front(struct block_writer *b, struct ferry_error *err)
{
    b->fronted = true;
    return b->front(b, err);
}

static uint64_t slot_offset(const struct block_writer *b, uint64_t slot)
{
    return b->data_offset + slot * (b->block_bytes + (uint64_t)b->prefix_bytes);
}

static int write_prefix(const struct block_writer *b, uint64_t slot, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *ones = b->prefix_bytes ? malloc(b->prefix_bytes) : NULL;

    if (!b->prefix_bytes)
        return 0;
    if (!ones)
        return ferry_fail(err, -ENOMEM, b->sink->about, "out of memory");
    memset(ones, 0xff, b->prefix_bytes);
    return sink_at(b->sink, slot_offset(b, slot), ones, b->prefix_bytes, err);
}

/* A part of one block. */
static int put_part(struct block_writer *b, uint64_t offset, const uint8_t *data, size_t size,
                    struct ferry_error *err)
{
    uint64_t block = offset / b->block_bytes;
    int error = 0;

    if (block + 1 != b->last) {
        set_present(b, block);
        b->stored = b->fixed ? block + 1 : b->stored + 1;
        b->last = block + 1;
        error = write_prefix(b, b->stored - 1, err);
    }
    return error
               ? error
               : sink_at(b->sink,
                         slot_offset(b, b->stored - 1) + b->prefix_bytes + offset % b->block_bytes,
                         data, size, err);
}

int block_writer_put(struct block_writer *b, const struct disk_unit *unit, struct ferry_error *err)
{
    uint64_t offset = unit->offset, end = offset + unit->content_bytes;
    int error = !b->sink->pwrite && !b->fronted ? write_front(b, err) : 0;

    while (!error && offset < end) {
        uint64_t next = (offset / b->block_bytes + 1) * b->block_bytes;
        next = next < end ? next : end;
        error = put_part(b, offset, unit->content + (offset - unit->offset), next - offset, err);
        offset = next;
    }
    return error;
}

int block_writer_finish(struct block_writer *b, uint64_t *end, struct ferry_error *err)
{
    int error = b->fronted ? 0 : write_front(b, err);

    if (b->fixed)
        b->stored = b->count;
    *end = slot_offset(b, b->stored);
    if (error)
        return error;
    return b->sink->pwrite ? b->sink->extend(b->sink, *end, err)
                           : sink_zeroes(b->sink, *end - b->sink->position, err);
}
