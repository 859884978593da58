/*
 * Unwrapping.  A member is begun, stepped through and ended, then the next one, until the bytes
 * below end between two members; anywhere else that is a file cut short.  Each library checks its
 * own sums (gzip CRC-32 and length; xz, zstd and bzip2 theirs), but none of them sees all that may
 * be wrong between members, so that is done here, for all alike.
 */
#include <bzlib.h>
#include <errno.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "common/cleanup.h"
#include "common/pool.h"
#include "imagefmt/foreign/stream.h"
#include "imagefmt/foreign/wrap.h"

#define IN_BYTES        (256 * KIB)
#define ZSTD_WINDOW_LOG 27 /* LIMIT_UNWRAP_BYTES; what `zstd --long` and --ultra need */
#define ZLIB_GZIP_ONLY  (15 + 16)

struct unwrap {
    struct stream stream;
    struct stream *below;
    const struct decoder *decoder;
    enum wrap_kind kind;
    uint8_t *in;
    size_t at, have;
    bool in_ended; /* nothing comes behind `have` */
    bool within;   /* a member has begun */
    bool any;      /* a member has ended */
    bool ended, failed;
    z_stream gzip;
    lzma_stream xz;
    ZSTD_DCtx *zstd;
    bz_stream bzip2;
};

/* A part of what a step moves. */
struct room {
    uint8_t *out;
    size_t left;
};

/* What a library has to offer.  Negative errno: -EBADMSG, -EFBIG, -ENOMEM. */
struct decoder {
    int (*begin)(struct unwrap *u);
    /* Take from u->in, give to room, as far as both go: 1 at the end of the member, 0 before. */
    int (*step)(struct unwrap *u, struct room *room);
    void (*end)(struct unwrap *u); /* also without begin */
};

/* ---- gzip ---- */

static int gzip_begin(struct unwrap *u)
{
    if (u->any)
        return inflateReset(&u->gzip) == Z_OK ? 0 : -ENOMEM;
    return inflateInit2(&u->gzip, ZLIB_GZIP_ONLY) == Z_OK ? 0 : -ENOMEM;
}

static uInt at_most_uint(size_t size)
{
    return size < GIB ? (uInt)size : (uInt)GIB;
}

static int gzip_step(struct unwrap *u, struct room *room)
{
    uInt in = at_most_uint(u->have - u->at), out = at_most_uint(room->left);

    u->gzip.next_in = u->in + u->at;
    u->gzip.avail_in = in;
    u->gzip.next_out = room->out;
    u->gzip.avail_out = out;
    int result = inflate(&u->gzip, Z_NO_FLUSH);
    u->at += in - u->gzip.avail_in;
    room->out += out - u->gzip.avail_out;
    room->left -= out - u->gzip.avail_out;
    return result == Z_STREAM_END                    ? 1
           : result == Z_OK || result == Z_BUF_ERROR ? 0
           : result == Z_MEM_ERROR                   ? -ENOMEM
                                                     : -EBADMSG;
}

static void gzip_end(struct unwrap *u)
{
    inflateEnd(&u->gzip);
}

/* ---- xz ---- */

/* The library goes from stream to stream itself, as only it knows the padding between them.  Blocks
 * that have their sizes in their headers (xz -T) are inflated by several threads, as far as memory
 * allows. */
static int xz_begin(struct unwrap *u)
{
    const lzma_mt options = {
        .flags = LZMA_CONCATENATED | LZMA_TELL_UNSUPPORTED_CHECK,
        .threads = pool_usable_cpus(),
        .memlimit_threading = LIMIT_UNWRAP_AHEAD_BYTES,
        .memlimit_stop = LIMIT_UNWRAP_BYTES,
    };

    return lzma_stream_decoder_mt(&u->xz, &options) == LZMA_OK ? 0 : -ENOMEM;
}

static int xz_step(struct unwrap *u, struct room *room)
{
    u->xz.next_in = u->in + u->at;
    u->xz.avail_in = u->have - u->at;
    u->xz.next_out = room->out;
    u->xz.avail_out = room->left;
    lzma_ret result = lzma_code(&u->xz, u->in_ended ? LZMA_FINISH : LZMA_RUN);
    u->at = u->have - u->xz.avail_in;
    room->out += room->left - u->xz.avail_out;
    room->left = u->xz.avail_out;
    return result == LZMA_STREAM_END                       ? 1
           : result == LZMA_OK || result == LZMA_BUF_ERROR ? 0
           : result == LZMA_MEM_ERROR                      ? -ENOMEM
           : result == LZMA_MEMLIMIT_ERROR                 ? -EFBIG
                                                           : -EBADMSG;
}

static void xz_end(struct unwrap *u)
{
    lzma_end(&u->xz);
}

/* ---- zstd ---- */

static int zstd_begin(struct unwrap *u)
{
    if (!u->zstd && !(u->zstd = ZSTD_createDCtx()))
        return -ENOMEM;
    size_t result = ZSTD_DCtx_setParameter(u->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG);
    return ZSTD_isError(result) || ZSTD_isError(ZSTD_DCtx_reset(u->zstd, ZSTD_reset_session_only))
               ? -ENOMEM
               : 0;
}

static int zstd_step(struct unwrap *u, struct room *room)
{
    ZSTD_inBuffer in = {.src = u->in + u->at, .size = u->have - u->at};
    ZSTD_outBuffer out = {.dst = room->out, .size = room->left};

    size_t result = ZSTD_decompressStream(u->zstd, &out, &in);
    u->at += in.pos;
    room->out += out.pos;
    room->left -= out.pos;
    if (!ZSTD_isError(result))
        return result == 0;
    ZSTD_ErrorCode code = ZSTD_getErrorCode(result);
    return code == ZSTD_error_frameParameter_windowTooLarge ? -EFBIG
           : code == ZSTD_error_memory_allocation           ? -ENOMEM
                                                            : -EBADMSG;
}

static void zstd_end(struct unwrap *u)
{
    ZSTD_freeDCtx(u->zstd);
}

/* ---- bzip2 ---- */

static int bzip2_begin(struct unwrap *u)
{
    BZ2_bzDecompressEnd(&u->bzip2);
    u->bzip2 = (bz_stream){0};
    return BZ2_bzDecompressInit(&u->bzip2, 0, 0) == BZ_OK ? 0 : -ENOMEM;
}

static int bzip2_step(struct unwrap *u, struct room *room)
{
    unsigned in = at_most_uint(u->have - u->at), out = at_most_uint(room->left);

    u->bzip2.next_in = (char *)u->in + u->at;
    u->bzip2.avail_in = in;
    u->bzip2.next_out = (char *)room->out;
    u->bzip2.avail_out = out;
    int result = BZ2_bzDecompress(&u->bzip2);
    u->at += in - u->bzip2.avail_in;
    room->out += out - u->bzip2.avail_out;
    room->left -= out - u->bzip2.avail_out;
    return result == BZ_STREAM_END  ? 1
           : result == BZ_OK        ? 0
           : result == BZ_MEM_ERROR ? -ENOMEM
                                    : -EBADMSG;
}

static void bzip2_end(struct unwrap *u)
{
    BZ2_bzDecompressEnd(&u->bzip2);
}

static const struct decoder decoders[] = {
    [WRAP_GZIP] = {gzip_begin, gzip_step, gzip_end},
    [WRAP_XZ] = {xz_begin, xz_step, xz_end},
    [WRAP_ZSTD] = {zstd_begin, zstd_step, zstd_end},
    [WRAP_BZIP2] = {bzip2_begin, bzip2_step, bzip2_end},
};

/* ---- All ---- */

static int refuse(struct unwrap *u, int error, struct ferry_error *err)
{
    const char *about = u->stream.about, *name = wrap_name(u->kind);

    u->failed = true;
    if (error == -ENOMEM)
        return ferry_fail(err, error, about, "out of memory");
    if (error == -EFBIG)
        return ferry_refuse(err, error, about,
                            "needs more memory to inflate than is allowed (%s with a window of "
                            "more than 128 MiB)",
                            name);
    return ferry_refuse(err, -EBADMSG, about, "is damaged: its %s data cannot be inflated", name);
}

/* More bytes from below, if there are none at hand. */
static int fill(struct unwrap *u, struct ferry_error *err)
{
    if (u->at < u->have || u->in_ended)
        return 0;
    u->at = 0;
    int error = u->below->read(u->below, u->in, IN_BYTES, &u->have, err);
    u->in_ended = !error && u->have < IN_BYTES;
    return error;
}

/* zstd has frames to be skipped, which have other marks. */
static bool is_member(enum wrap_kind kind, const uint8_t head[WRAP_MAGIC_BYTES])
{
    return wrap_by_magic(head, WRAP_MAGIC_BYTES) == kind ||
           (kind == WRAP_ZSTD && (head[0] & 0xf0) == 0x50 && !memcmp(head + 1, "\x2a\x4d\x18", 3));
}

/* Between two members, with bytes at hand: these must be a member.  A mark that is not at hand as a
 * whole is the library's to check. */
static int begin_member(struct unwrap *u, struct ferry_error *err)
{
    if (u->any && u->have - u->at >= WRAP_MAGIC_BYTES && !is_member(u->kind, u->in + u->at)) {
        u->failed = true;
        return ferry_refuse(err, -EBADMSG, u->stream.about,
                            "has something else behind the end of its %s data", wrap_name(u->kind));
    }
    int error = u->decoder->begin(u);
    u->within = !error;
    return error ? refuse(u, error, err) : 0;
}

static int step_member(struct unwrap *u, struct room *room, struct ferry_error *err)
{
    size_t in = u->at, out = room->left;
    int result = u->decoder->step(u, room);

    if (result < 0)
        return refuse(u, result, err);
    if (result) {
        u->within = false;
        u->any = true;
        return 0;
    }
    if (u->at != in || room->left != out)
        return 0;
    if (u->in_ended && u->at == u->have) {
        u->failed = true;
        return ferry_refuse(err, -EBADMSG, u->stream.about, "is cut short: its %s data end early",
                            wrap_name(u->kind));
    }
    return u->at == u->have ? 0 : refuse(u, -EBADMSG, err);
}

static int read_unwrapped(struct stream *stream, void *data, size_t size, size_t *got,
                          struct ferry_error *err)
{
    struct unwrap *u = (struct unwrap *)stream;
    struct room room = {.out = data, .left = size};
    int error = u->failed ? refuse(u, -EBADMSG, err) : 0;

    *got = 0;
    while (!error && room.left && !u->ended) {
        error = fill(u, err);
        if (!error && !u->within && u->any && u->at == u->have)
            u->ended = true;
        else if (!error)
            error = u->within ? step_member(u, &room, err) : begin_member(u, err);
    }
    *got = size - room.left;
    return error;
}

static void close_unwrap(struct stream *stream)
{
    struct unwrap *u = (struct unwrap *)stream;

    u->decoder->end(u);
    free(u->in);
    free(u);
}

int stream_unwrap(struct stream *below, enum wrap_kind kind, struct stream **out,
                  struct ferry_error *err)
{
    struct unwrap *u = calloc(1, sizeof(*u));

    if (!u)
        return ferry_fail(err, -ENOMEM, below->about, "out of memory");
    *u = (struct unwrap){
        .stream = {.read = read_unwrapped, .close = close_unwrap, .about = below->about},
        .below = below,
        .decoder = &decoders[kind],
        .kind = kind,
        .in = malloc(IN_BYTES),
    };
    CLEANUP(stream_cleanup) struct stream *stream = &u->stream;
    if (!u->in)
        return ferry_fail(err, -ENOMEM, below->about, "out of memory");
    *out = take_ptr(&stream);
    return 0;
}
