/*
 * Wrapping: a sink that compresses what it is given into another one.  gzip and bzip2 are one
 * thread's work; xz and zstd have workers of their own, and always use them, as that is what makes
 * the file independent of their number.
 */
#include <bzlib.h>
#include <errno.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#define ZLIB_CONST
#include <zlib.h>
#include <zstd.h>

#include "common/cleanup.h"
#include "common/pool.h"
#include "imagefmt/foreign/sink.h"
#include "imagefmt/foreign/wrap.h"

#define OUT_BYTES       (256 * KIB)
#define PART_BYTES      (64 * MIB) /* of one call of a library, whose counts have 32 bits */
#define GZIP_WINDOW     (15 + 16)  /* zlib: with gzip's header */
#define GZIP_MEMORY     8
#define ZERO_RUN_BYTES  (16 * MIB) /* zeroes of one frame */
#define ZERO_FRAME_ROOM (64 * KIB) /* it has some 500 bytes */
#define ZERO_PART_BYTES (64 * KIB)
#define XZ_WORKERS_MOST 8 /* each needs 100 MiB and more */

struct wrapping {
    struct sink sink;
    struct sink *below;
    const struct encoder *encoder;
    enum wrap_kind kind;
    struct wrap_options options;
    uint8_t *out;
    z_stream gzip;
    lzma_stream xz;
    ZSTD_CCtx *zstd;
    bz_stream bzip2;
    bool zstd_within; /* a frame has begun */
    uint8_t *zeroes;  /* a frame of ZERO_RUN_BYTES zeroes; NULL: not made yet */
    size_t zeroes_bytes;
};

/* What is to be compressed. */
struct part {
    const uint8_t *data;
    size_t left;
};

struct encoder {
    int level, most; /* the usual one, and the highest */
    int (*begin)(struct wrapping *w);
    /* Take from part, put *made bytes into w->out (OUT_BYTES): 0, 1 when all was taken (and, with
     * end, put out), or a negative errno. */
    int (*step)(struct wrapping *w, struct part *part, bool end, size_t *made);
    void (*destroy)(struct wrapping *w); /* also without begin */
};

/* ---- gzip ---- */

static int gzip_begin(struct wrapping *w)
{
    return deflateInit2(&w->gzip, w->options.level, Z_DEFLATED, GZIP_WINDOW, GZIP_MEMORY,
                        Z_DEFAULT_STRATEGY) == Z_OK
               ? 0
               : -ENOMEM;
}

static int gzip_step(struct wrapping *w, struct part *part, bool end, size_t *made)
{
    z_stream *z = &w->gzip;

    z->next_in = part->data;
    z->avail_in = (uInt)part->left;
    z->next_out = w->out;
    z->avail_out = OUT_BYTES;
    int result = deflate(z, end ? Z_FINISH : Z_NO_FLUSH);
    part->data += part->left - z->avail_in;
    part->left = z->avail_in;
    *made = OUT_BYTES - z->avail_out;
    if (result == Z_STREAM_ERROR)
        return -EINVAL;
    return end ? result == Z_STREAM_END : !part->left && z->avail_out;
}

static void gzip_destroy(struct wrapping *w)
{
    deflateEnd(&w->gzip);
}

/* ---- xz ---- */

static int xz_begin(struct wrapping *w)
{
    const lzma_mt options = {
        .threads = w->options.workers < XZ_WORKERS_MOST ? w->options.workers : XZ_WORKERS_MOST,
        .preset = (uint32_t)w->options.level,
        .check = LZMA_CHECK_CRC64,
    };

    return lzma_stream_encoder_mt(&w->xz, &options) == LZMA_OK ? 0 : -ENOMEM;
}

static int xz_step(struct wrapping *w, struct part *part, bool end, size_t *made)
{
    lzma_stream *z = &w->xz;

    z->next_in = part->data;
    z->avail_in = part->left;
    z->next_out = w->out;
    z->avail_out = OUT_BYTES;
    lzma_ret result = lzma_code(z, end ? LZMA_FINISH : LZMA_RUN);
    part->data += part->left - z->avail_in;
    part->left = z->avail_in;
    *made = OUT_BYTES - z->avail_out;
    if (result != LZMA_OK && result != LZMA_STREAM_END && result != LZMA_BUF_ERROR)
        return result == LZMA_MEM_ERROR ? -ENOMEM : -EINVAL;
    return end ? result == LZMA_STREAM_END : !part->left;
}

static void xz_destroy(struct wrapping *w)
{
    lzma_end(&w->xz);
}

/* ---- zstd ---- */

static int zstd_begin(struct wrapping *w)
{
    if (!(w->zstd = ZSTD_createCCtx()))
        return -ENOMEM;
    ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel, w->options.level);
    ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_checksumFlag, 1);
    /* Refused by a library without threads, whose files differ then, but are as good. */
    ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_nbWorkers, (int)w->options.workers);
    return 0;
}

static int zstd_step(struct wrapping *w, struct part *part, bool end, size_t *made)
{
    ZSTD_inBuffer in = {.src = part->data, .size = part->left};
    ZSTD_outBuffer out = {.dst = w->out, .size = OUT_BYTES};

    w->zstd_within = true;
    size_t left = ZSTD_compressStream2(w->zstd, &out, &in, end ? ZSTD_e_end : ZSTD_e_continue);
    part->data += in.pos;
    part->left -= in.pos;
    *made = out.pos;
    if (ZSTD_isError(left))
        return -ENOMEM;
    if (end && !left)
        w->zstd_within = false;
    return end ? !left : !part->left;
}

static void zstd_destroy(struct wrapping *w)
{
    ZSTD_freeCCtx(w->zstd);
}

/* ---- bzip2 ---- */

static int bzip2_begin(struct wrapping *w)
{
    return BZ2_bzCompressInit(&w->bzip2, w->options.level, 0, 0) == BZ_OK ? 0 : -ENOMEM;
}

static int bzip2_step(struct wrapping *w, struct part *part, bool end, size_t *made)
{
    const union {
        const uint8_t *ours;
        char *theirs;
    } in = {part->data}; /* which is only read, but not declared so */
    bz_stream *z = &w->bzip2;
    int result = BZ_RUN_OK;

    z->next_in = in.theirs;
    z->avail_in = (unsigned)part->left;
    z->next_out = (char *)w->out;
    z->avail_out = OUT_BYTES;
    if (end || part->left)
        result = BZ2_bzCompress(z, end ? BZ_FINISH : BZ_RUN);
    part->data += part->left - z->avail_in;
    part->left = z->avail_in;
    *made = OUT_BYTES - z->avail_out;
    if (result < 0)
        return -EINVAL;
    return end ? result == BZ_STREAM_END : !part->left;
}

static void bzip2_destroy(struct wrapping *w)
{
    BZ2_bzCompressEnd(&w->bzip2);
}

static const struct encoder encoders[] = {
    [WRAP_GZIP] = {6, 9, gzip_begin, gzip_step, gzip_destroy},
    [WRAP_XZ] = {6, 9, xz_begin, xz_step, xz_destroy},
    [WRAP_ZSTD] = {3, 19, zstd_begin, zstd_step, zstd_destroy},
    [WRAP_BZIP2] = {9, 9, bzip2_begin, bzip2_step, bzip2_destroy},
};

/* ---- All ---- */

static int compress_part(struct wrapping *w, struct part part, bool end, struct ferry_error *err)
{
    int done = 0;

    while (!done) {
        size_t made = 0;
        done = w->encoder->step(w, &part, end, &made);
        if (done < 0)
            return ferry_fail(err, done, w->sink.about, "cannot be compressed with %s%s",
                              wrap_name(w->kind), done == -ENOMEM ? ": out of memory" : "");
        int error = made ? w->below->write(w->below, w->out, made, err) : 0;
        if (error)
            return error;
    }
    return 0;
}

/* Whatever the library still holds, and the end of the member. */
static int end_member(struct wrapping *w, struct ferry_error *err)
{
    static const uint8_t nothing[1];

    return compress_part(w, (struct part){.data = nothing}, true, err);
}

static int write_wrapped(struct sink *sink, const void *data, size_t size, struct ferry_error *err)
{
    struct wrapping *w = (struct wrapping *)sink;
    int error = 0;

    for (size_t at = 0; !error && at < size; at += PART_BYTES) {
        size_t left = size - at;
        const struct part part = {.data = (const uint8_t *)data + at,
                                  .left = left < PART_BYTES ? left : PART_BYTES};
        error = compress_part(w, part, false, err);
    }
    if (!error)
        sink->position += size;
    return error;
}

/* ---- Runs of zeroes in zstd ---- */

static int make_zero_frame(struct wrapping *w)
{
    static const uint8_t zeroes[ZERO_PART_BYTES];
    ZSTD_outBuffer out = {.dst = malloc(ZERO_FRAME_ROOM), .size = ZERO_FRAME_ROOM};
    ZSTD_CCtx *context = ZSTD_createCCtx();
    size_t left = 1;

    w->zeroes = out.dst;
    if (context && out.dst) {
        ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
        ZSTD_CCtx_setPledgedSrcSize(context, ZERO_RUN_BYTES);
        for (uint64_t at = 0; at < ZERO_RUN_BYTES; at += ZERO_PART_BYTES) {
            ZSTD_inBuffer in = {.src = zeroes, .size = sizeof(zeroes)};
            bool last = at + ZERO_PART_BYTES == ZERO_RUN_BYTES;
            left = ZSTD_compressStream2(context, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
        }
    }
    ZSTD_freeCCtx(context);
    w->zeroes_bytes = out.pos;
    return left ? -ENOMEM : 0;
}

static int write_zeroes(struct sink *sink, uint64_t size, struct ferry_error *err)
{
    static const uint8_t zeroes[ZERO_PART_BYTES];
    struct wrapping *w = (struct wrapping *)sink;
    int error = 0;

    if (size >= ZERO_RUN_BYTES && w->zstd_within)
        error = end_member(w, err);
    if (!error && size >= ZERO_RUN_BYTES && !w->zeroes && make_zero_frame(w))
        error = ferry_fail(err, -ENOMEM, sink->about, "out of memory");
    for (; !error && size >= ZERO_RUN_BYTES; size -= ZERO_RUN_BYTES) {
        error = w->below->write(w->below, w->zeroes, w->zeroes_bytes, err);
        sink->position += ZERO_RUN_BYTES;
    }
    while (!error && size) {
        size_t part = size < sizeof(zeroes) ? (size_t)size : sizeof(zeroes);
        error = write_wrapped(sink, zeroes, part, err);
        size -= part;
    }
    return error;
}

/* ---- Life ---- */

static void cleanup_wrapping(struct wrapping **w)
{
    if (*w)
        sink_wrap_destroy(&(*w)->sink);
}

int sink_wrap(struct sink *below, enum wrap_kind kind, const struct wrap_options *options,
              struct sink **out, struct ferry_error *err)
{
    const struct encoder *encoder = &encoders[kind];

    if (options->level < 0 || options->level > encoder->most)
        return ferry_usage(err, "--level", "%d is not a level of %s: 1 to %d", options->level,
                           wrap_name(kind), encoder->most);
    CLEANUP(cleanup_wrapping) struct wrapping *w = calloc(1, sizeof(*w));
    if (!w)
        return ferry_fail(err, -ENOMEM, below->about, "out of memory");
    w->sink = (struct sink){.write = write_wrapped, .about = below->about};
    if (kind == WRAP_ZSTD)
        w->sink.zeroes = write_zeroes;
    w->below = below;
    w->encoder = encoder;
    w->kind = kind;
    w->options = *options;
    if (!w->options.level)
        w->options.level = encoder->level;
    if (!w->options.workers)
        w->options.workers = pool_usable_cpus();
    w->out = malloc(OUT_BYTES);
    int error = w->out ? encoder->begin(w) : -ENOMEM;
    if (error)
        return ferry_fail(err, error, below->about, "out of memory");
    *out = &take_ptr(&w)->sink;
    return 0;
}

int sink_wrap_finish(struct sink *sink, struct ferry_error *err)
{
    struct wrapping *w = (struct wrapping *)sink;

    /* Behind zeroes no frame is open, and none at all would be no file. */
    if (w->kind == WRAP_ZSTD && !w->zstd_within && sink->position)
        return 0;
    return end_member(w, err);
}

void sink_wrap_destroy(struct sink *sink)
{
    struct wrapping *w = (struct wrapping *)sink;

    if (!w)
        return;
    w->encoder->destroy(w);
    free(w->zeroes);
    free(w->out);
    free(w);
}
