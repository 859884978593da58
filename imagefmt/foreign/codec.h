/*
 * Compression of single units (clusters, grains) of foreign disks: whole buffers, any thread.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_CODEC_H
#define FERRY_IMAGEFMT_FOREIGN_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum codec_kind {
    CODEC_DEFLATE, /* RFC 1951, bare */
    CODEC_ZLIB,    /* RFC 1950: deflate between a header and an Adler-32 */
    CODEC_ZSTD,    /* one RFC 8878 frame with its content's size */
};

/* One byte inflates to no more than so many (Deflate: RFC 1951's longest match in two bits; zstd: a
 * block of 128 KiB in four bytes). */
#define CODEC_RATIO_DEFLATE 1032
#define CODEC_RATIO_ZSTD    32768

struct codec;

/* level: 0 for the usual one, else 1..12 (deflate) or 1..19 (zstd); FERRY_USAGE beyond. */
int codec_create(enum codec_kind kind, int level, struct codec **out, struct ferry_error *err);
void codec_destroy(struct codec *codec); /* NULL is fine */

/* Whatever codec_compress may be given of `size` bytes fits into this much. */
size_t codec_bound(const struct codec *codec, size_t size);
/*
 * data[0..size) into out[0..room).  Returns the bytes used, 0 if they do not fit (or nothing could
 * be allocated): the caller stores the data as it is.  By several threads at once.  The same data
 * gives the same bytes.
 */
size_t codec_compress(struct codec *codec, const void *data, size_t size, void *out, size_t room);
/*
 * What begins at data is inflated to exactly size bytes; what lies behind its end, up to data_size,
 * is not looked at.  Returns 0, -EBADMSG (damaged, or another size) or -ENOMEM.  *used: bytes of
 * data that were needed; may be NULL.  By several threads at once.
 */
int codec_decompress(struct codec *codec, const void *data, size_t data_size, void *out,
                     size_t size, size_t *used);

#endif
