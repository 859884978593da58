/*
 * Packing: the file's runs of data are cut into chunks here; the writer's workers read, look for
 * zeroes, sum and compress.
 */
#include "imagefmt/pack.h"

#include <errno.h>
#include <unistd.h>

#include "common/file.h"

static int read_chunk(void *opaque, uint64_t offset, void *data, size_t size)
{
    const struct pack_source *source = opaque;

    return pread_all(source->fd, data, size, offset);
}

/* The next run of data at or behind *start: 1 and [*start, *end), or 0. */
static int next_data(const struct pack_source *source, uint64_t *start, uint64_t *end,
                     struct ferry_error *err)
{
    off_t data = *start < source->size ? lseek(source->fd, (off_t)*start, SEEK_DATA) : -1;

    if (*start >= source->size || (data < 0 && errno == ENXIO))
        return 0;
    *end = source->size;
    if (data < 0 && errno == EINVAL)
        return 1; /* it cannot tell: all of it may be data */
    if (data < 0)
        return ferry_fail_sys(err, -errno, source->about, "cannot look for data");
    *start = (uint64_t)data;
    off_t hole = lseek(source->fd, data, SEEK_HOLE);
    if (hole > 0 && (uint64_t)hole < source->size)
        *end = (uint64_t)hole;
    return *start < source->size;
}

static int pack_chunks(struct image_writer *w, uint32_t chunk_bytes,
                       const struct pack_source *source, struct ferry_error *err)
{
    uint64_t start = 0, end, next = 0; /* next: chunk not yet handed on */
    int found, error = 0;

    while ((found = next_data(source, &start, &end, err)) > 0) {
        uint64_t chunk = start / chunk_bytes;
        for (chunk = chunk < next ? next : chunk; !error && chunk * chunk_bytes < end; chunk++) {
            error = image_writer_fetch(w, chunk, read_chunk, (void *)(uintptr_t)source, err);
            if (!error && source->report)
                error = source->report(source->opaque, chunk * chunk_bytes, err);
            next = chunk + 1;
        }
        if (error)
            return error;
        start = end;
    }
    return found;
}

int image_pack(struct image_writer *w, enum image_section_kind kind, const char *name,
               uint32_t chunk_bytes, const struct pack_source *source, struct ferry_error *err)
{
    int error = image_writer_begin(w, kind, name, source->size, chunk_bytes, err);

    if (!error)
        error = pack_chunks(w, chunk_bytes, source, err);
    return error ? error : image_writer_end(w, err);
}
