/*
 * The decoding half of the codec.  A chunk's stored bytes meet their sum first, then must be one
 * zstd frame that declares exactly the expected size, and are inflated into a buffer of that size;
 * then the content meets its identity.  Zero content is never stored, so that an image has one
 * form.
 */
#include "imagefmt/decode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <zstd.h>

#include "common/cleanup.h"
#include "imagefmt/chunk.h"
#include "imagefmt/content.h"
#include "imagefmt/format.h"

#define SLOTS_PER_WORKER 4

int decode_open(struct decode *d, unsigned workers, struct ferry_error *err)
{
    *d = (struct decode){0};
    int error = pool_create(workers, &d->pool, err);
    if (error)
        return error;
    d->slot_count = pool_workers(d->pool) * SLOTS_PER_WORKER;
    d->slots = calloc(d->slot_count, sizeof(*d->slots));
    return d->slots ? 0 : ferry_fail(err, -ENOMEM, NULL, "out of memory");
}

void decode_close(struct decode *d)
{
    pool_destroy(d->pool);
    for (unsigned i = 0; d->slots && i < d->slot_count; i++)
        decode_release(&d->slots[i]);
    free(d->slots);
}

void decode_release(struct decode_slot *slot)
{
    free(slot->stored);
    free(slot->content);
    ZSTD_freeDCtx(slot->zstd);
    cipher_free(slot->cipher);
}

void decode_begin(struct decode *d, uint32_t chunk_bytes)
{
    uint64_t most = LIMIT_IN_FLIGHT_BYTES / (2 * (uint64_t)chunk_bytes);

    most = most < 2 ? 2 : most;
    d->slots_used = d->slot_count < most ? d->slot_count : (unsigned)most;
    d->oldest = 0;
    d->chunk_bytes = chunk_bytes;
}

bool decode_full(const struct decode *d)
{
    return d->busy == d->slots_used;
}

/* The frame out of a SEAL record. */
static const char *unseal(struct decode_slot *slot)
{
    size_t sealed = slot->stored_bytes + SEAL_TAG_BYTES;
    struct record record;
    uint64_t size;

    if (!record_size(slot->stored, &size) || size != sealed + RECORD_LEAST_BYTES)
        return "its stored bytes are not where they belong";
    const char *damage = record_check(slot->stored, size, slot->seal_offset, NULL, &record);
    if (damage)
        return "the stored bytes do not match their sum or place";
    if (record.tag != RECORD_SEAL)
        return "its stored bytes are not where they belong";
    if (!slot->cipher && !(slot->cipher = cipher_new()))
        return "there is no memory to unseal it";
    return unseal_chunk(slot->cipher, slot->key, slot->seal_section, slot->seal_index,
                        slot->stored + RECORD_HEAD_BYTES, sealed)
               ? NULL
               : "the stored bytes are not what was sealed";
}

static const char *check_frame(const struct decode_slot *slot, const uint8_t *stored)
{
    size_t frame = ZSTD_findFrameCompressedSize(stored, slot->stored_bytes);

    if (ZSTD_isError(frame) || frame != slot->stored_bytes)
        return "it is not one zstd frame";
    if (ZSTD_getFrameContentSize(stored, slot->stored_bytes) != slot->content_bytes)
        return "its zstd frame declares another size than its head";
    return NULL;
}

const char *decode_now(struct decode_slot *slot)
{
    const uint8_t *stored = slot->stored + (slot->key ? RECORD_HEAD_BYTES : 0);
    uint8_t digest[SHA256_BYTES];

    const char *damage = slot->key ? unseal(slot) : NULL;
    if (damage)
        return damage;
    if (xxh3(stored, slot->stored_bytes) != slot->sum)
        return "the stored bytes do not match their sum";
    damage = check_frame(slot, stored);
    if (damage)
        return damage;
    size_t size = ZSTD_decompressDCtx(slot->zstd, slot->content, slot->content_bytes, stored,
                                      slot->stored_bytes);
    if (ZSTD_isError(size) || size != slot->content_bytes)
        return "its zstd frame does not inflate to the declared size";
    content_node(slot->content, slot->content_bytes, slot->level, digest);
    if (memcmp(digest, slot->digest, SHA256_BYTES))
        return "the content does not match its identity";
    return NULL;
}

static void decode_run(struct pool_task *task)
{
    struct decode_slot *slot = (struct decode_slot *)task;

    slot->damage = decode_now(slot);
    slot->place_error = 0;
    if (!slot->damage && slot->place)
        slot->place_error = slot->place(slot->opaque, slot);
}

int decode_prepare(struct decode_slot *slot, uint32_t chunk_bytes)
{
    slot->task.run = decode_run;
    slot->level = content_level(chunk_bytes);
    if (!slot->zstd && !(slot->zstd = ZSTD_createDCtx()))
        return -ENOMEM;
    if (slot->room >= chunk_bytes)
        return 0;
    free(take_ptr(&slot->stored));
    free(take_ptr(&slot->content));
    slot->room = 0;
    slot->stored = malloc(STORED_LIMIT(chunk_bytes) + SEAL_OVERHEAD_BYTES);
    slot->content = malloc(chunk_bytes);
    if (!slot->stored || !slot->content)
        return -ENOMEM;
    slot->room = chunk_bytes;
    return 0;
}

int decode_slot(struct decode *d, struct decode_slot **slot)
{
    *slot = &d->slots[(d->oldest + d->busy) % d->slots_used];
    return decode_prepare(*slot, d->chunk_bytes);
}

void decode_submit(struct decode *d, struct decode_slot *slot)
{
    d->busy++;
    pool_submit(d->pool, &slot->task);
}

struct decode_slot *decode_wait(struct decode *d)
{
    if (!d->busy)
        return NULL;
    struct decode_slot *slot = &d->slots[d->oldest];
    pool_wait(d->pool, &slot->task);
    d->oldest = (d->oldest + 1) % d->slots_used;
    d->busy--;
    return slot;
}
