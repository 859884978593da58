/*
 * raw+zstd, reading in order.  The stored bytes pass through a buffer; at the start of each frame a
 * look tells whether it is all zeroes, and such a frame is only counted.  Everything else goes
 * through zstd's decoder, straight into the reader's memory.
 *
 * An extent is told as zero only for whole units of 1 MiB, or up to the end of the disk, so that
 * whoever rounds to units never has to go back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "imagefmt/foreign/raw_zstd.h"
#include "imagefmt/foreign/raw_zstd_frame.h"

#define BUFFER_BYTES   (256 * KIB)
#define SCRATCH_BYTES  (256 * KIB)
#define WINDOW_LOG_MAX 27 /* 128 MiB, what zstd itself takes without being asked */
#define TINY_BLOCK     16 /* a raw block of zeroes that is looked into */

struct frames {
    struct stream *stream;
    uint8_t *buffer;
    size_t start, end; /* of what is in the buffer and not used yet */
    bool ended;        /* the stream has no more */
    bool within;       /* a frame that the decoder has begun */
    uint64_t zeroes;   /* still to come of a frame of zeroes */
    ZSTD_DCtx *decoder;
};

struct raw_zstd_disk {
    struct disk disk;
    struct frames frames;
    uint64_t at; /* of the disk: what comes next from frames */
    uint8_t *scratch;
};

/* ---- Frames of zeroes ---- */

static uint64_t frame_size(struct reader *r)
{
    uint32_t magic = reader_u32(r);
    uint8_t descriptor = reader_u8(r);
    uint8_t window = reader_u8(r);
    uint64_t size = reader_u64(r);

    /* The shape that is written here, and no other: 8 bytes of size, a window, no dictionary, no
     * sum. */
    return magic == ZSTD_FRAME_MAGIC && descriptor == 3 << 6 &&
                   window == (ZSTD_BLOCK_BITS - 10) << 3
               ? size
               : 0;
}

/* The zeroes of the next block, 0: it is something else. */
static uint32_t zero_block(struct reader *r, bool *last)
{
    uint32_t header = reader_u16(r);
    header |= (uint32_t)reader_u8(r) << 16;
    uint32_t size = header >> 3;
    unsigned kind = header >> 1 & 3;

    *last = header & 1;
    if (kind == ZSTD_BLOCK_RLE && size <= ZSTD_BLOCK_MAX)
        return reader_u8(r) ? 0 : size;
    if (kind != ZSTD_BLOCK_RAW || size > TINY_BLOCK)
        return 0;
    for (uint32_t i = 0; i < size; i++)
        if (reader_u8(r))
            return 0;
    return size;
}

uint64_t raw_zstd_zeroes(const uint8_t *data, size_t size, size_t *used)
{
    struct reader r = reader_init(data, size);
    uint64_t content = frame_size(&r), found = 0;
    bool last = false;

    while (content && !last) {
        uint32_t zeroes = zero_block(&r, &last);
        if (r.error || !zeroes)
            return 0;
        found += zeroes;
    }
    if (r.error || found != content)
        return 0;
    *used = size - reader_left(&r);
    return content;
}

/* ---- Frames ---- */

static int open_frames(struct frames *f, struct stream *stream, struct ferry_error *err)
{
    *f = (struct frames){.stream = stream, .buffer = malloc(BUFFER_BYTES)};
    f->decoder = ZSTD_createDCtx();
    if (!f->buffer || !f->decoder)
        return ferry_fail(err, -ENOMEM, stream->about, "out of memory");
    ZSTD_DCtx_setParameter(f->decoder, ZSTD_d_windowLogMax, WINDOW_LOG_MAX);
    return 0;
}

static void close_frames(struct frames *f)
{
    ZSTD_freeDCtx(f->decoder);
    free(f->buffer);
}

/* At least `least` bytes in the buffer, unless the stream ends before. */
static int refill(struct frames *f, size_t least, struct ferry_error *err)
{
    size_t got;

    if (f->ended || f->end - f->start >= least)
        return 0;
    memmove(f->buffer, f->buffer + f->start, f->end - f->start);
    f->end -= f->start;
    f->start = 0;
    int error = f->stream->read(f->stream, f->buffer + f->end, BUFFER_BYTES - f->end, &got, err);
    f->ended = got < BUFFER_BYTES - f->end;
    f->end += got;
    return error;
}

/* Enter the next frame: 1, or 0 at the end of all. */
static int next_frame(struct frames *f, struct ferry_error *err)
{
    size_t used;
    int error = refill(f, ZERO_FRAME_ROOM, err);

    if (error)
        return error;
    if (f->start == f->end)
        return 0;
    f->zeroes = raw_zstd_zeroes(f->buffer + f->start, f->end - f->start, &used);
    if (f->zeroes)
        f->start += used;
    else
        f->within = true;
    return 1;
}

static int decode(struct frames *f, uint8_t *data, size_t size, size_t *got,
                  struct ferry_error *err)
{
    int error = refill(f, 1, err);
    ZSTD_inBuffer in = {.src = f->buffer + f->start, .size = f->end - f->start};
    ZSTD_outBuffer out = {.dst = data, .size = size};

    if (error)
        return error;
    size_t left = ZSTD_decompressStream(f->decoder, &out, &in);
    if (ZSTD_isError(left))
        return ferry_refuse(err, -EBADMSG, f->stream->about, "is damaged: zstd says: %s",
                            ZSTD_getErrorName(left));
    if (!in.size && !out.pos) /* there is nothing left, not even in the decoder */
        return ferry_refuse(err, -EBADMSG, f->stream->about, "is cut short within a frame");
    f->start += in.pos;
    f->within = left != 0;
    *got = out.pos;
    return 0;
}

/* Up to size bytes of content; *got is 0 at the end of all only. */
static int take(struct frames *f, uint8_t *data, size_t size, size_t *got, struct ferry_error *err)
{
    int more = 1;

    for (*got = 0; !*got;) {
        if (!f->zeroes && !f->within && (more = next_frame(f, err)) <= 0)
            return more;
        if (!f->zeroes) {
            int error = decode(f, data, size, got, err);
            if (error)
                return error;
            continue;
        }
        *got = f->zeroes < size ? (size_t)f->zeroes : size;
        memset(data, 0, *got);
        f->zeroes -= *got;
    }
    return 0;
}

/* ---- The disk ---- */

static int open_stream(struct stream *stream, const struct disk_open_options *options,
                       struct disk **out, struct ferry_error *err)
{
    if (options->size_bytes > LIMIT_DISK_BYTES)
        return ferry_refuse(err, -EFBIG, stream->about, "is larger than a disk may be");
    struct raw_zstd_disk *d = calloc(1, sizeof(*d));
    if (!d)
        return ferry_fail(err, -ENOMEM, stream->about, "out of memory");
    d->disk = (struct disk){
        .format = &disk_format_raw_zstd,
        .size_bytes = options->size_bytes,
        .in_order = true,
        .block_bytes = RAW_ZSTD_UNIT_BYTES,
        .opaque = d,
    };
    int error = open_frames(&d->frames, stream, err);
    d->scratch = malloc(SCRATCH_BYTES);
    if (!error && !d->scratch)
        error = ferry_fail(err, -ENOMEM, stream->about, "out of memory");
    if (error)
        disk_format_raw_zstd.close(&d->disk);
    else
        *out = &d->disk;
    return error;
}

static int read_on(struct raw_zstd_disk *d, uint8_t *data, size_t size, struct ferry_error *err)
{
    while (size) {
        size_t got;
        int error = take(&d->frames, data, size, &got, err);
        if (error)
            return error;
        if (!got)
            return ferry_refuse(err, -EBADMSG, d->frames.stream->about,
                                "is cut short: the disk has %llu bytes, here are %llu",
                                (unsigned long long)d->disk.size_bytes, (unsigned long long)d->at);
        d->at += got;
        data += got;
        size -= got;
    }
    return 0;
}

static int go_to(struct raw_zstd_disk *d, uint64_t offset, struct ferry_error *err)
{
    if (offset < d->at)
        return ferry_fail(err, -EINVAL, d->frames.stream->about, "cannot be read backwards");
    while (d->at < offset) {
        uint64_t left = offset - d->at;
        uint64_t zeroes = d->frames.zeroes < left ? d->frames.zeroes : left;
        d->frames.zeroes -= zeroes;
        d->at += zeroes;
        left -= zeroes;
        int error =
            read_on(d, d->scratch, left < SCRATCH_BYTES ? (size_t)left : SCRATCH_BYTES, err);
        if (error)
            return error;
    }
    return 0;
}

static uint64_t unit_end(const struct raw_zstd_disk *d, uint64_t offset)
{
    uint64_t end = (offset / RAW_ZSTD_UNIT_BYTES + 1) * RAW_ZSTD_UNIT_BYTES;

    return end < d->disk.size_bytes ? end : d->disk.size_bytes;
}

static int extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                  struct ferry_error *err)
{
    struct raw_zstd_disk *d = disk->opaque;
    struct frames *f = &d->frames;
    int more = 1, error = go_to(d, offset, err);

    if (!error && !f->zeroes && !f->within)
        more = next_frame(f, err);
    if (error || more < 0)
        return error ? error : more;
    uint64_t end = f->zeroes < disk->size_bytes - offset
                       ? (offset + f->zeroes) / RAW_ZSTD_UNIT_BYTES * RAW_ZSTD_UNIT_BYTES
                       : disk->size_bytes;
    if (f->zeroes && end > offset)
        *extent = (struct disk_extent){.size_bytes = end - offset, .kind = DISK_ZERO};
    else
        *extent =
            (struct disk_extent){.size_bytes = unit_end(d, offset) - offset, .kind = DISK_DATA};
    return 0;
}

static int read_disk(struct disk *disk, uint64_t offset, void *data, size_t size,
                     struct ferry_error *err)
{
    struct raw_zstd_disk *d = disk->opaque;
    int error = go_to(d, offset, err);

    return error ? error : read_on(d, data, size, err);
}

static int drain(struct disk *disk, struct ferry_error *err)
{
    struct raw_zstd_disk *d = disk->opaque;
    size_t got;

    int error = go_to(d, disk->size_bytes, err);
    if (!error)
        error = take(&d->frames, d->scratch, 1, &got, err);
    if (!error && got)
        error = ferry_refuse(err, -EBADMSG, d->frames.stream->about,
                             "holds more than the %llu bytes of the disk",
                             (unsigned long long)disk->size_bytes);
    return error;
}

static void close_disk(struct disk *disk)
{
    struct raw_zstd_disk *d = disk->opaque;

    close_frames(&d->frames);
    free(d->scratch);
    free(d);
}

/* ---- Counting ---- */

int raw_zstd_measure(struct stream *stream, uint64_t *size, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *scratch = malloc(SCRATCH_BYTES);
    CLEANUP(close_frames) struct frames f;
    size_t got = 1;

    int error = open_frames(&f, stream, err);
    if (!error && !scratch)
        error = ferry_fail(err, -ENOMEM, stream->about, "out of memory");
    for (*size = 0; !error && got; *size += got) {
        if (*size > LIMIT_DISK_BYTES || f.zeroes > LIMIT_DISK_BYTES - *size)
            return ferry_refuse(err, -EFBIG, stream->about, "is larger than a disk may be");
        *size += f.zeroes;
        f.zeroes = 0;
        error = take(&f, scratch, SCRATCH_BYTES, &got, err);
    }
    return error;
}

const struct disk_format disk_format_raw_zstd = {
    .name = "raw+zstd",
    .extension = ".raw.zst",
    .limits = "disks to 64 TiB",
    .streams = true,
    .open_stream = open_stream,
    .drain = drain,
    .extent = extent,
    .read = read_disk,
    .close = close_disk,
    .create = raw_zstd_create,
    .encode = raw_zstd_encode,
    .put = raw_zstd_put,
    .finish = raw_zstd_finish,
    .destroy = raw_zstd_destroy,
};
