/*
 * VMDK, reading streamOptimized in order: the disk.  Grains are read ahead into a ring and inflated
 * by a pool; the reader takes them from its other end.  A fault that is met while reading ahead is
 * told when the grains before it have been taken.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/vmdk_stream.h"

#define GRAINS_PER_WORKER 4

static void close_vmdk_stream(struct disk *disk)
{
    struct vmdk_stream *v = disk->opaque;

    pool_destroy(v->pool); /* waits for what is still at work */
    for (unsigned i = 0; v->grains && i < v->count; i++) {
        free(v->grains[i].stored);
        free(v->grains[i].content);
    }
    free(v->grains);
    codec_destroy(v->codec);
    free(v);
}

static void cleanup_vmdk_stream(struct vmdk_stream **v)
{
    if (*v)
        close_vmdk_stream(&(*v)->disk);
}

/* ---- Reading ---- */

/* The oldest grain that was not dropped, inflated: 1, 0 at the end, or a negative errno. */
static int front(struct vmdk_stream *v, struct vmdk_grain **out, struct ferry_error *err)
{
    while (!v->ended && !v->failed && v->busy < v->count)
        v->failed = vmdk_next_marker(v, &v->failure);
    if (!v->busy) {
        if (v->failed && err)
            *err = v->failure;
        return v->failed;
    }
    struct vmdk_grain *grain = &v->grains[v->oldest];
    pool_wait(v->pool, &grain->task);
    if (grain->error == -ENOMEM)
        return ferry_fail(err, grain->error, v->in.stream->about, "out of memory");
    if (grain->error)
        return ferry_refuse(err, -EBADMSG, v->in.stream->about,
                            "is damaged: the grain at byte %llu of the disk cannot be inflated",
                            (unsigned long long)grain->offset);
    *out = grain;
    return 1;
}

static void drop(struct vmdk_stream *v)
{
    v->oldest = vmdk_in_ring(v, 1);
    v->busy--;
}

/* The same of those that end behind offset; the others are dropped. */
static int front_from(struct vmdk_stream *v, uint64_t offset, struct vmdk_grain **out,
                      struct ferry_error *err)
{
    int found;

    while ((found = front(v, out, err)) > 0 && (*out)->offset + v->grain_bytes <= offset)
        drop(v);
    return found;
}

static int vmdk_stream_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                              struct ferry_error *err)
{
    struct vmdk_stream *v = disk->opaque;
    uint64_t end = disk->size_bytes;
    struct vmdk_grain *grain;

    int found = front_from(v, offset, &grain, err);
    if (found < 0)
        return found;
    extent->kind = found && grain->offset <= offset ? DISK_DATA : DISK_ZERO;
    if (extent->kind == DISK_DATA && grain->offset + v->grain_bytes < end)
        end = grain->offset + v->grain_bytes;
    else if (found && extent->kind == DISK_ZERO && grain->offset < end)
        end = grain->offset;
    extent->size_bytes = end - offset;
    return 0;
}

static int vmdk_stream_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                            struct ferry_error *err)
{
    struct vmdk_stream *v = disk->opaque;
    uint8_t *to = data;

    while (size) {
        struct vmdk_grain *grain;
        int found = front_from(v, offset, &grain, err);
        if (found < 0)
            return found;
        bool here = found && grain->offset <= offset;
        uint64_t left = here    ? grain->offset + v->grain_bytes - offset
                        : found ? grain->offset - offset
                                : size;
        size_t part = size < left ? size : (size_t)left;
        if (here)
            memcpy(to, grain->content + (offset - grain->offset), part);
        else
            memset(to, 0, part);
        to += part;
        offset += part;
        size -= part;
    }
    return 0;
}

static int vmdk_stream_drain(struct disk *disk, struct ferry_error *err)
{
    struct vmdk_stream *v = disk->opaque;
    struct vmdk_grain *grain;
    int found;

    while ((found = front(v, &grain, err)) > 0)
        drop(v);
    return found;
}

static void *vmdk_stream_describe(const struct disk *disk)
{
    const struct vmdk_stream *v = disk->opaque;

    return json_pack("{s:s, s:I}", "create_type", v->descriptor.create_type, "grain_bytes",
                     (json_int_t)v->grain_bytes);
}

static const struct disk_format format_vmdk_stream = {
    .name = "vmdk",
    .extension = ".vmdk",
    .extent = vmdk_stream_extent,
    .read = vmdk_stream_read,
    .drain = vmdk_stream_drain,
    .describe = vmdk_stream_describe,
    .close = close_vmdk_stream,
};

/* ---- Opening ---- */

static void inflate_grain(struct pool_task *task)
{
    struct vmdk_grain *grain = (struct vmdk_grain *)task;
    const struct vmdk_stream *v = grain->v;
    uint64_t size = v->disk.size_bytes,
             left = grain->offset < size ? size - grain->offset : v->grain_bytes;

    grain->error = vmdk_inflate(v->codec, grain->stored, grain->stored_bytes, grain->content,
                                v->grain_bytes, left);
}

static int make_ring(struct vmdk_stream *v, struct ferry_error *err)
{
    const char *about = v->in.stream->about;
    size_t room = (VMDK_STORED_GRAINS + 1) * v->grain_bytes;

    int error = pool_create(0, &v->pool, err);
    if (error)
        return error;
    v->count = pool_workers(v->pool) * GRAINS_PER_WORKER;
    if (v->count > LIMIT_IN_FLIGHT_BYTES / room)
        v->count = (unsigned)(LIMIT_IN_FLIGHT_BYTES / room);
    if (!(v->grains = calloc(v->count, sizeof(*v->grains))))
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    for (unsigned i = 0; i < v->count; i++) {
        struct vmdk_grain *grain = &v->grains[i];
        grain->task.run = inflate_grain;
        grain->v = v;
        grain->stored = malloc(VMDK_STORED_GRAINS * v->grain_bytes);
        grain->content = malloc(v->grain_bytes);
        if (!grain->stored || !grain->content)
            return ferry_fail(err, -ENOMEM, about, "out of memory");
    }
    return 0;
}

int vmdk_open_stream(struct stream *stream, const struct disk_open_options *options,
                     struct disk **out, struct ferry_error *err)
{
    CLEANUP(cleanup_vmdk_stream) struct vmdk_stream *v = calloc(1, sizeof(*v));

    (void)options;
    if (!v)
        return ferry_fail(err, -ENOMEM, stream->about, "out of memory");
    v->disk = (struct disk){.format = &format_vmdk_stream, .in_order = true, .opaque = v};
    v->in.stream = stream;
    int error = vmdk_take_head(v, err);
    if (!error)
        error = codec_create(CODEC_ZLIB, 0, &v->codec, err);
    if (!error)
        error = make_ring(v, err);
    if (error)
        return error;
    *out = &take_ptr(&v)->disk;
    return 0;
}
