/*
 * Two ways in: a disk at random is a source of packing, read by the workers; one in order is cut
 * into chunks here, where long zeroes cost nothing either.
 */
#include "imagefmt/foreign/disk_pack.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/pack.h"

#define REPORT_BYTES (8 * MIB)

struct disk_pack {
    struct disk *disk;
    struct image_writer *writer;
    const char *name;
    uint64_t size_bytes, reported;
    uint32_t chunk_bytes;
    struct progress *progress;
    pthread_mutex_t lock;   /* of: */
    struct ferry_error why; /* the first failure of the disk; code 0: none */
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Packing knows errnos only: the words are kept for the end. */
static int keep_reason(struct disk_pack *p, int error, const struct ferry_error *why)
{
    LOCK_SCOPE(&p->lock);
    if (!p->why.code)
        p->why = *why;
    return error;
}

static int report(void *opaque, uint64_t done, struct ferry_error *err)
{
    struct disk_pack *p = opaque;

    if (!p->progress)
        return 0;
    if (atomic_load(&p->progress->cancelled))
        return ferry_fail(err, -ECANCELED, NULL, "cancelled");
    if (done && done - p->reported < REPORT_BYTES)
        return 0;
    p->reported = done;
    const struct progress_report now = {.phase = p->name,
                                        .done_bytes = done,
                                        .total_bytes = p->size_bytes,
                                        .sent_bytes = image_writer_bytes(p->writer)};
    if (p->progress->report)
        p->progress->report(p->progress->opaque, &now);
    return 0;
}

/* ---- At random ---- */

static int read_at(void *opaque, uint64_t offset, void *data, size_t size)
{
    struct disk_pack *p = opaque;
    uint64_t there = offset < p->disk->size_bytes ? p->disk->size_bytes - offset : 0;
    size_t part = least(size, there);
    struct ferry_error why = {0};

    memset((uint8_t *)data + part, 0, size - part);
    int error = part ? p->disk->format->read(p->disk, offset, data, part, &why) : 0;
    return error ? keep_reason(p, error, &why) : 0;
}

static int next_data(void *opaque, uint64_t *start, uint64_t *end)
{
    struct disk_pack *p = opaque;
    struct ferry_error why = {0};
    struct disk_extent extent;

    for (uint64_t at = *start; at < p->disk->size_bytes; at += extent.size_bytes) {
        int error = p->disk->format->extent(p->disk, at, &extent, &why);
        if (error)
            return keep_reason(p, error, &why);
        if (extent.kind == DISK_ZERO)
            continue;
        *start = at;
        *end = at + least(extent.size_bytes, p->disk->size_bytes - at);
        return 1;
    }
    return 0;
}

static int pack_at_random(struct disk_pack *p, struct ferry_error *err)
{
    const struct pack_source source = {.read = read_at,
                                       .next_data = next_data,
                                       .opaque = p,
                                       .size_bytes = p->size_bytes,
                                       .about = p->name,
                                       .report = report,
                                       .report_opaque = p};

    int error = image_pack(p->writer, IMAGE_DISK, p->name, p->chunk_bytes, &source, err);
    if (error && p->why.code && err)
        *err = p->why;
    return error;
}

/* ---- In order ---- */

/* The bytes of an extent of data, into the chunk at hand and the next ones. */
static int pack_data(struct disk_pack *p, uint64_t at, uint64_t end, uint8_t *buffer,
                     uint64_t *chunk, struct ferry_error *err)
{
    int error = 0;

    while (!error && at < end) {
        uint64_t index = at / p->chunk_bytes;
        if (*chunk != index && *chunk != UINT64_MAX)
            error = image_writer_chunk(p->writer, *chunk, buffer, err);
        if (*chunk != index)
            memset(buffer, 0, p->chunk_bytes);
        *chunk = index;
        size_t part = least(end, (index + 1) * p->chunk_bytes) - at;
        if (!error)
            error = p->disk->format->read(p->disk, at, buffer + at % p->chunk_bytes, part, err);
        if (!error)
            error = report(p, at, err);
        at += part;
    }
    return error;
}

static int pack_extents(struct disk_pack *p, uint8_t *buffer, struct ferry_error *err)
{
    uint64_t chunk = UINT64_MAX; /* in buffer; none yet */
    int error = 0;

    for (uint64_t at = 0, end; !error && at < p->disk->size_bytes; at = end) {
        struct disk_extent extent;
        error = p->disk->format->extent(p->disk, at, &extent, err);
        if (error)
            return error;
        end = at + least(extent.size_bytes, p->disk->size_bytes - at);
        if (extent.kind == DISK_DATA)
            error = pack_data(p, at, end, buffer, &chunk, err);
    }
    if (!error && chunk != UINT64_MAX)
        error = image_writer_chunk(p->writer, chunk, buffer, err);
    return error;
}

static int pack_in_order(struct disk_pack *p, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *buffer = malloc(p->chunk_bytes);

    if (!buffer)
        return ferry_fail(err, -ENOMEM, p->name, "out of memory");
    int error =
        image_writer_begin(p->writer, IMAGE_DISK, p->name, p->size_bytes, p->chunk_bytes, err);
    if (!error)
        error = pack_extents(p, buffer, err);
    if (!error && p->disk->format->drain)
        error = p->disk->format->drain(p->disk, err);
    return error ? error : image_writer_end(p->writer, err);
}

int disk_pack(struct disk *disk, struct image_writer *w, const char *name, uint64_t size_bytes,
              uint32_t chunk_bytes, struct progress *progress, struct ferry_error *err)
{
    struct disk_pack p = {.disk = disk,
                          .writer = w,
                          .name = name,
                          .size_bytes = size_bytes,
                          .chunk_bytes = chunk_bytes,
                          .progress = progress,
                          .lock = PTHREAD_MUTEX_INITIALIZER};

    int error = report(&p, 0, err);
    if (error)
        return error;
    return disk->in_order ? pack_in_order(&p, err) : pack_at_random(&p, err);
}
