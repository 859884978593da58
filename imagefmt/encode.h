/* Chunks on their way through the compressing workers.  Private to imagefmt/. */
#ifndef FERRY_IMAGEFMT_ENCODE_H
#define FERRY_IMAGEFMT_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/hash.h"
#include "common/pool.h"
#include "imagefmt/seal.h"

typedef struct ZSTD_CCtx_s ZSTD_CCtx;

/* One chunk: where its content is, and then what is to be stored. */
struct encode_slot {
    struct pool_task task;
    ZSTD_CCtx *zstd;
    uint8_t *content;
    uint8_t *stored; /* RECORD_HEAD_BYTES lie before it, room for tag and sum behind */
    struct cipher *cipher;
    const struct image_key *key; /* NULL: the image is not sealed */
    uint32_t section;
    size_t room; /* content bytes there is memory for */
    uint64_t index;
    uint32_t content_bytes;
    unsigned level;      /* of a chunk in the tree of content */
    size_t stored_bytes; /* of the frame, without a tag; or zstd's error */
    bool not_sealed;     /* libcrypto failed */
    uint64_t sum;
    uint8_t digest[SHA256_BYTES];
    int (*read)(void *opaque, uint64_t offset, void *data, size_t size); /* NULL: it is there */
    void *opaque;
    uint64_t offset; /* of the content in its section */
    int read_error;
    bool zero;     /* it turned out to be */
    bool has_base; /* the base has a chunk at this place, with this identity */
    uint8_t base_digest[SHA256_BYTES];
    bool kept; /* it turned out to be the same */
};

/* Memory and a compressor of this level for chunks of this size, kept for the next ones, and a
 * cipher if slot->key is set; 0 or -ENOMEM. */
int encode_prepare(struct encode_slot *slot, uint32_t chunk_bytes, int level);
void encode_release(struct encode_slot *slot);

#endif
