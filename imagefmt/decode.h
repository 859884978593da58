/*
 * Chunks on their way through the decoding workers, handed on in the order they came.  Private to
 * imagefmt/.
 */
#ifndef FERRY_IMAGEFMT_DECODE_H
#define FERRY_IMAGEFMT_DECODE_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/pool.h"
#include "imagefmt/seal.h"

typedef struct ZSTD_DCtx_s ZSTD_DCtx;
struct image;

/* One chunk: what its record says, and then its content. */
struct decode_slot {
    struct pool_task task;
    uint64_t index;
    const struct image *image; /* where it lies, for messages; set by who needs it */
    uint32_t section;
    uint32_t content_bytes;
    uint32_t stored_bytes;
    unsigned level; /* of a chunk in the tree of content */
    uint64_t sum;
    uint8_t digest[SHA256_BYTES];
    uint8_t *stored; /* the frame; sealed: the whole SEAL record.  Room for the largest */
    const struct image_key *key; /* NULL: it is not sealed */
    uint32_t seal_section;       /* which chunk it was sealed as, and where */
    uint64_t seal_index, seal_offset;
    uint8_t *content;   /* room for chunk_bytes */
    const char *damage; /* after decode_wait: what is wrong, NULL: nothing */
    /* What else the worker does with content that is whole, and what came of it: 0 or a negative
     * errno.  NULL: nothing. */
    int (*place)(void *opaque, const struct decode_slot *slot);
    void *opaque;
    int place_error;
    uint32_t room; /* the rest is decode.c's */
    ZSTD_DCtx *zstd;
    struct cipher *cipher;
};

struct decode {
    struct pool *pool;
    struct decode_slot *slots;
    unsigned slot_count, slots_used, oldest, busy;
    uint32_t chunk_bytes;
};

int decode_open(struct decode *d, unsigned workers, struct ferry_error *err);
void decode_close(struct decode *d); /* waits for chunks in work */
/* Chunks of at most chunk_bytes (within the limits) follow.  None may be in work. */
void decode_begin(struct decode *d, uint32_t chunk_bytes);
/* True when the oldest chunk has to be taken out (decode_wait) before the next can come in. */
bool decode_full(const struct decode *d);
/* For a slot of the caller's own: buffers for chunks of chunk_bytes; the content (NULL: it is
 * whole, else what is wrong); the end. */
int decode_prepare(struct decode_slot *slot, uint32_t chunk_bytes);
const char *decode_now(struct decode_slot *slot);
void decode_release(struct decode_slot *slot);
/* A free slot, to be filled and submitted.  -ENOMEM. */
int decode_slot(struct decode *d, struct decode_slot **slot);
void decode_submit(struct decode *d, struct decode_slot *slot);
/* The oldest chunk, decoded, taken out of the ring; NULL: none is in work. */
struct decode_slot *decode_wait(struct decode *d);

#endif
