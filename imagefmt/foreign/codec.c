/*
 * Compression of single units.  A context costs more to make than a small unit to compress, so
 * contexts are kept in a list: a call takes one, or makes one if none is free, and puts it back.
 * There are never more of them than there were calls at one time.
 *
 * Deflate is libdeflate's: its window is 32 KiB as RFC 1951 has it, and every inflater that works
 * on a whole buffer (QEMU's, too, though it asks zlib for a window of 4 KiB) reads it.
 */
#include "imagefmt/foreign/codec.h"

#include <errno.h>
#include <libdeflate.h>
#include <pthread.h>
#include <stdlib.h>
#include <zstd.h>

#include "common/cleanup.h"

#define DEFLATE_LEVEL 6
#define ZSTD_LEVEL    3

struct context {
    struct context *next;
    struct libdeflate_compressor *deflate;
    struct libdeflate_decompressor *inflate;
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
};

struct codec {
    enum codec_kind kind;
    int level;
    pthread_mutex_t lock;
    struct context *free;
};

int codec_create(enum codec_kind kind, int level, struct codec **out, struct ferry_error *err)
{
    int most = kind == CODEC_ZSTD ? 19 : 12;

    if (level < 0 || level > most)
        return ferry_usage(err, "--level", "%d is not a level of %s: 1 to %d", level,
                           kind == CODEC_ZSTD ? "zstd" : "zlib", most);
    struct codec *codec = calloc(1, sizeof(*codec));
    if (!codec)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    codec->kind = kind;
    codec->level = level ? level : kind == CODEC_ZSTD ? ZSTD_LEVEL : DEFLATE_LEVEL;
    pthread_mutex_init(&codec->lock, NULL);
    *out = codec;
    return 0;
}

void codec_destroy(struct codec *codec)
{
    if (!codec)
        return;
    while (codec->free) {
        struct context *context = codec->free;
        codec->free = context->next;
        libdeflate_free_compressor(context->deflate);
        libdeflate_free_decompressor(context->inflate);
        ZSTD_freeCCtx(context->compress);
        ZSTD_freeDCtx(context->decompress);
        free(context);
    }
    pthread_mutex_destroy(&codec->lock);
    free(codec);
}

static struct context *take(struct codec *codec)
{
    {
        LOCK_SCOPE(&codec->lock);
        struct context *context = codec->free;
        if (context) {
            codec->free = context->next;
            return context;
        }
    }
    return calloc(1, sizeof(struct context));
}

static void put_back(struct codec *codec, struct context *context)
{
    LOCK_SCOPE(&codec->lock);
    context->next = codec->free;
    codec->free = context;
}

size_t codec_bound(const struct codec *codec, size_t size)
{
    return codec->kind == CODEC_ZSTD      ? ZSTD_compressBound(size)
           : codec->kind == CODEC_DEFLATE ? libdeflate_deflate_compress_bound(NULL, size)
                                          : libdeflate_zlib_compress_bound(NULL, size);
}

static size_t compress_with(const struct codec *codec, struct context *context, const void *data,
                            size_t size, void *out, size_t room)
{
    if (codec->kind == CODEC_ZSTD) {
        if (!context->compress && !(context->compress = ZSTD_createCCtx()))
            return 0;
        size_t used = ZSTD_compressCCtx(context->compress, out, room, data, size, codec->level);
        return ZSTD_isError(used) ? 0 : used;
    }
    if (!context->deflate && !(context->deflate = libdeflate_alloc_compressor(codec->level)))
        return 0;
    return codec->kind == CODEC_ZLIB
               ? libdeflate_zlib_compress(context->deflate, data, size, out, room)
               : libdeflate_deflate_compress(context->deflate, data, size, out, room);
}

size_t codec_compress(struct codec *codec, const void *data, size_t size, void *out, size_t room)
{
    struct context *context = take(codec);

    if (!context)
        return 0;
    size_t used = compress_with(codec, context, data, size, out, room);
    put_back(codec, context);
    return used;
}

/* The window of a frame needs no memory here: the output is the window. */
static int unzstd(struct context *context, const void *data, size_t data_size, void *out,
                  size_t size, size_t *used)
{
    size_t frame = ZSTD_findFrameCompressedSize(data, data_size);

    if (ZSTD_isError(frame))
        return -EBADMSG;
    if (!context->decompress && !(context->decompress = ZSTD_createDCtx()))
        return -ENOMEM;
    *used = frame;
    return ZSTD_decompressDCtx(context->decompress, out, size, data, frame) == size ? 0 : -EBADMSG;
}

static int inflate_with(const struct codec *codec, struct context *context, const void *data,
                        size_t data_size, void *out, size_t size, size_t *used)
{
    if (!context->inflate && !(context->inflate = libdeflate_alloc_decompressor()))
        return -ENOMEM;
    enum libdeflate_result result =
        codec->kind == CODEC_ZLIB ? libdeflate_zlib_decompress_ex(context->inflate, data, data_size,
                                                                  out, size, used, NULL)
                                  : libdeflate_deflate_decompress_ex(
                                        context->inflate, data, data_size, out, size, used, NULL);
    return result == LIBDEFLATE_SUCCESS ? 0 : -EBADMSG;
}

int codec_decompress(struct codec *codec, const void *data, size_t data_size, void *out,
                     size_t size, size_t *used)
{
    struct context *context = take(codec);
    size_t needed = 0;

    if (!context)
        return -ENOMEM;
    int error = codec->kind == CODEC_ZSTD
                    ? unzstd(context, data, data_size, out, size, &needed)
                    : inflate_with(codec, context, data, data_size, out, size, &needed);
    put_back(codec, context);
    if (!error && used)
        *used = needed;
    return error;
}
