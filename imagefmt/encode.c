/* A chunk on a worker: read if it is not there yet, looked at, summed, compressed, summed, sealed.
 */
#include "imagefmt/encode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <zstd.h>

#include "common/cleanup.h"
#include "common/zero.h"
#include "imagefmt/chunk.h"
#include "imagefmt/content.h"
#include "imagefmt/format.h"

static void encode(struct pool_task *task)
{
    struct encode_slot *slot = (struct encode_slot *)task;

    if (slot->read) {
        slot->read_error =
            slot->read(slot->opaque, slot->offset, slot->content, slot->content_bytes);
        slot->zero = slot->read_error || is_zero(slot->content, slot->content_bytes);
    }
    if (slot->zero)
        return;
    content_node(slot->content, slot->content_bytes, slot->level, slot->digest);
    slot->kept = slot->has_base && !memcmp(slot->digest, slot->base_digest, SHA256_BYTES);
    if (slot->kept)
        return;
    slot->stored_bytes = ZSTD_compress2(slot->zstd, slot->stored, STORED_LIMIT(slot->content_bytes),
                                        slot->content, slot->content_bytes);
    if (ZSTD_isError(slot->stored_bytes))
        return;
    slot->sum = xxh3(slot->stored, slot->stored_bytes);
    slot->not_sealed = slot->key && !seal_chunk(slot->cipher, slot->key, slot->section, slot->index,
                                                slot->stored, slot->stored_bytes);
}

static void free_buffers(struct encode_slot *slot)
{
    free(take_ptr(&slot->content));
    if (slot->stored)
        free(take_ptr(&slot->stored) - RECORD_HEAD_BYTES);
    slot->room = 0;
}

int encode_prepare(struct encode_slot *slot, uint32_t chunk_bytes, int level)
{
    slot->task.run = encode;
    if (!slot->zstd) {
        slot->zstd = ZSTD_createCCtx();
        if (!slot->zstd ||
            ZSTD_isError(ZSTD_CCtx_setParameter(slot->zstd, ZSTD_c_compressionLevel, level)))
            return -ENOMEM;
    }
    if (slot->key && !slot->cipher && !(slot->cipher = cipher_new()))
        return -ENOMEM;
    if (slot->room >= chunk_bytes)
        return 0;
    free_buffers(slot);
    slot->content = malloc(chunk_bytes);
    uint8_t *record = malloc(STORED_LIMIT(chunk_bytes) + SEAL_OVERHEAD_BYTES);
    slot->stored = record ? record + RECORD_HEAD_BYTES : NULL;
    if (!slot->content || !slot->stored)
        return -ENOMEM; /* cppcheck-suppress memleak ; the slot has it, behind its head */
    slot->room = chunk_bytes;
    return 0; /* cppcheck-suppress memleak ; the same */
}

void encode_release(struct encode_slot *slot)
{
    ZSTD_freeCCtx(slot->zstd);
    cipher_free(slot->cipher);
    free_buffers(slot);
}
