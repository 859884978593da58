/*
 * Packing: runs of data are cut into chunks here; the writer's workers read, look for zeroes, sum
 * and compress.
 */
#include "imagefmt/pack.h"

#include <errno.h>
#include <unistd.h>

#include "common/file.h"

static int file_read_chunk(void *opaque, uint64_t offset, void *data, size_t size)
{
    return pread_all(*(const int *)opaque, data, size, offset);
}

static int file_next_data(void *opaque, uint64_t *start, uint64_t *end)
{
    int fd = *(const int *)opaque;
    off_t data = lseek(fd, (off_t)*start, SEEK_DATA);

    if (data < 0 && errno == EINVAL) { /* it cannot tell: all of it may be data */
        *end = UINT64_MAX;
        return 1;
    }
    if (data < 0)
        return errno == ENXIO ? 0 : -errno;
    off_t hole = lseek(fd, data, SEEK_HOLE);
    *start = (uint64_t)data;
    *end = hole < 0 ? UINT64_MAX : (uint64_t)hole;
    return 1;
}

struct pack_source pack_source_file(int *fd, uint64_t size_bytes, const char *about)
{
    return (struct pack_source){
        .read = file_read_chunk,
        .next_data = file_next_data,
        .opaque = fd,
        .size_bytes = size_bytes,
        .about = about,
    };
}

/* The next run of data within the source: 1, 0, or a negative errno. */
static int next_run(const struct pack_source *source, uint64_t *start, uint64_t *end,
                    struct ferry_error *err)
{
    int found = *start < source->size_bytes ? source->next_data(source->opaque, start, end) : 0;

    if (found < 0)
        return ferry_fail_sys(err, found, source->about, "cannot look for data");
    if (!found || *start >= source->size_bytes)
        return 0;
    *end = *end < source->size_bytes ? *end : source->size_bytes;
    return 1;
}

static int pack_run(struct image_writer *w, uint32_t chunk_bytes, const struct pack_source *source,
                    uint64_t first, uint64_t end, struct ferry_error *err)
{
    int error = 0;

    for (uint64_t chunk = first; !error && chunk * chunk_bytes < end; chunk++) {
        error = image_writer_fetch(w, chunk, source->read, source->opaque, err);
        if (!error && source->report)
            error = source->report(source->report_opaque, chunk * chunk_bytes, err);
    }
    return error;
}

static int pack_chunks(struct image_writer *w, uint32_t chunk_bytes,
                       const struct pack_source *source, struct ferry_error *err)
{
    uint64_t start = 0, end = 0, next = 0; /* next: chunk not yet handed on */
    int found;

    while ((found = next_run(source, &start, &end, err)) > 0) {
        uint64_t first = start / chunk_bytes;
        int error = pack_run(w, chunk_bytes, source, first < next ? next : first, end, err);
        if (error)
            return error;
        next = (end - 1) / chunk_bytes + 1;
        start = end;
    }
    return found;
}

int image_pack(struct image_writer *w, enum image_section_kind kind, const char *name,
               uint32_t chunk_bytes, const struct pack_source *source, struct ferry_error *err)
{
    int error = image_writer_begin(w, kind, name, source->size_bytes, chunk_bytes, err);

    if (!error)
        error = pack_chunks(w, chunk_bytes, source, err);
    if (!error)
        error = image_writer_end(w, err);
    if (error) /* the source is the caller's again */
        image_writer_settle(w);
    return error;
}
