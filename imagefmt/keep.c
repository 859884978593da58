/*
 * A run of chunks that are as in the base, zero ones too, grows until a chunk differs; then it is
 * cut into the largest aligned nodes, as a binary tree has them.
 */
#include "imagefmt/keep.h"

#include <string.h>

#include "imagefmt/access.h"
#include "imagefmt/content.h"

void keep_begin(struct keep *keep, const struct image_section *section)
{
    int64_t found = keep->base ? image_base_section(keep->base, section) : -1;

    if (found < 0)
        keep->base = NULL;
    keep->section = (uint32_t)found;
    keep->start = keep->next = 0;
    keep->chunks = section_chunks(section);
}

int keep_digest(struct keep *keep, uint64_t index, uint8_t digest[SHA256_BYTES],
                struct ferry_error *err)
{
    struct image_chunk chunk;

    if (!keep->base)
        return 0;
    int found = image_chunk_within(keep->base, keep->section, index, index + 1, &chunk, err);
    if (found <= 0)
        return found;
    memcpy(digest, chunk.digest, SHA256_BYTES);
    return 1;
}

/* The run ends before chunk end. */
static int close_run(struct keep *keep, uint64_t end, struct ferry_error *err)
{
    uint8_t digest[SHA256_BYTES];
    int error = 0;

    while (!error && keep->start < end) {
        unsigned level = 63 - (unsigned)__builtin_clzll(end - keep->start);
        unsigned aligned = keep->start ? (unsigned)__builtin_ctzll(keep->start) : level;
        level = aligned < level ? aligned : level;
        error = image_node(keep->base, keep->section, keep->start, level, digest, err);
        if (!error && !content_is_zero(digest))
            error = keep->node(keep->opaque, keep->start, level, digest, err);
        keep->start += UINT64_C(1) << level;
    }
    return error;
}

/* Chunks up to this one are zero: where the base has something, they differ. */
static int settle(struct keep *keep, uint64_t until, struct ferry_error *err)
{
    while (keep->next < until) {
        struct image_chunk chunk;
        int found = image_chunk_within(keep->base, keep->section, keep->next, until, &chunk, err);
        if (found < 0)
            return found;
        if (!found)
            break;
        int error = close_run(keep, chunk.index, err);
        if (error)
            return error;
        keep->start = keep->next = chunk.index + 1;
    }
    keep->next = until;
    return 0;
}

int keep_chunk(struct keep *keep, uint64_t index, bool as_in_base, struct ferry_error *err)
{
    if (!keep->base)
        return 0;
    int error = settle(keep, index, err);
    if (!error && !as_in_base)
        error = close_run(keep, index, err);
    keep->next = index + 1;
    if (!as_in_base)
        keep->start = keep->next;
    return error;
}

int keep_end(struct keep *keep, struct ferry_error *err)
{
    if (!keep->base)
        return 0;
    int error = settle(keep, keep->chunks, err);
    return error ? error : close_run(keep, keep->chunks, err);
}
