/*
 * VHD, reading in order: a fixed one is the content and then the footer, which has the size; so the
 * size must be known beforehand, and the footer must agree.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/stream.h"
#include "imagefmt/foreign/vhd.h"

struct vhd_stream {
    struct disk disk;
    struct stream *peeked; /* its first sector was looked at */
    struct stream_cursor in;
};

static void close_vhd_stream(struct disk *disk)
{
    struct vhd_stream *v = disk->opaque;

    stream_close(v->peeked);
    free(v);
}

static void cleanup_vhd_stream(struct vhd_stream **v)
{
    if (*v)
        close_vhd_stream(&(*v)->disk);
}

static int vhd_stream_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                             struct ferry_error *err)
{
    (void)err;
    *extent = (struct disk_extent){.size_bytes = disk->size_bytes - offset, .kind = DISK_DATA};
    return 0;
}

static int vhd_stream_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                           struct ferry_error *err)
{
    struct vhd_stream *v = disk->opaque;

    return stream_read_at(&v->in, offset, data, size, err);
}

static int vhd_stream_drain(struct disk *disk, struct ferry_error *err)
{
    struct vhd_stream *v = disk->opaque;
    uint8_t bytes[VHD_FOOTER_BYTES];
    struct vhd_footer footer;

    int error = stream_read_at(&v->in, disk->size_bytes, bytes, sizeof(bytes), err);
    if (error)
        return error;
    if (!vhd_parse_footer(bytes, &footer) || footer.type != VHD_FIXED ||
        footer.version != VHD_VERSION)
        return ferry_refuse(err, -EBADMSG, v->peeked->about,
                            "is not a fixed VHD of this size: no footer with a right sum follows "
                            "the content");
    if (vhd_disk_size(&footer) != disk->size_bytes)
        return ferry_refuse(err, -EBADMSG, v->peeked->about,
                            "has a disk of %llu bytes by its footer, %llu were stated",
                            (unsigned long long)vhd_disk_size(&footer),
                            (unsigned long long)disk->size_bytes);
    return stream_expect_end(v->peeked, err);
}

static void *vhd_stream_describe(const struct disk *disk)
{
    (void)disk;
    return json_pack("{s:s}", "type", "fixed");
}

static const struct disk_format format_vhd_stream = {
    .name = "vhd",
    .extension = ".vhd",
    .extent = vhd_stream_extent,
    .read = vhd_stream_read,
    .drain = vhd_stream_drain,
    .describe = vhd_stream_describe,
    .close = close_vhd_stream,
};

static int check_kind(const struct stream *stream, const struct stream_head *head,
                      struct ferry_error *err)
{
    struct vhd_footer footer;

    if (head->size < VHD_FOOTER_BYTES || !vhd_parse_footer(head->bytes, &footer) ||
        footer.type == VHD_FIXED)
        return 0;
    return ferry_refuse(err, -ENOTSUP, stream->about,
                        "is a VHD that is not fixed; it needs a file: it is read at random");
}

int vhd_open_stream(struct stream *stream, const struct disk_open_options *options,
                    struct disk **out, struct ferry_error *err)
{
    CLEANUP(cleanup_vhd_stream) struct vhd_stream *v = calloc(1, sizeof(*v));
    uint64_t size = options->size_bytes;
    struct stream_head head;

    if (!v)
        return ferry_fail(err, -ENOMEM, stream->about, "out of memory");
    if (!size && options->stream_bytes > VHD_FOOTER_BYTES)
        size = options->stream_bytes - VHD_FOOTER_BYTES;
    v->disk = (struct disk){
        .format = &format_vhd_stream, .size_bytes = size, .in_order = true, .opaque = v};
    int error = stream_peek(stream, VHD_FOOTER_BYTES, &v->peeked, &head, err);
    if (!error)
        error = check_kind(stream, &head, err);
    if (error)
        return error;
    v->in.stream = v->peeked;
    if (!size)
        return ferry_usage(err, stream->about,
                           "has its size at its end: give the disk's size with --size");
    if (size > VHD_SIZE_MAX)
        return ferry_refuse(err, -EFBIG, stream->about, "is larger than a VHD may be");
    *out = &take_ptr(&v)->disk;
    return 0;
}
