/*
 * What a child keeps of its base: the writer says which chunks are as there and which are not, and
 * is told the largest nodes of the tree that can stand for the former.  Private to imagefmt/.
 */
#ifndef FERRY_IMAGEFMT_KEEP_H
#define FERRY_IMAGEFMT_KEEP_H

#include "imagefmt/image.h"

struct keep {
    struct image *base; /* NULL: nothing is kept of this section */
    uint32_t section;   /* of base */
    uint64_t start;     /* chunks [start, next) are as in the base */
    uint64_t next;      /* the first chunk that is not decided */
    uint64_t chunks;    /* of the section */
    /* A node that is as in the base: 2^level chunks from index on, not all zero. */
    int (*node)(void *opaque, uint64_t index, unsigned level, const uint8_t digest[SHA256_BYTES],
                struct ferry_error *err);
    void *opaque;
};

/* A section begins.  keep->base, node and opaque are set; base is cleared if it has no such
 * section. */
void keep_begin(struct keep *keep, const struct image_section *section);
/* The identity of chunk index in the base: 1, 0 if it has none, or a negative errno. */
int keep_digest(struct keep *keep, uint64_t index, uint8_t digest[SHA256_BYTES],
                struct ferry_error *err);
/* Chunk index, not zero, is as in the base or not; those between it and the one before are zero. */
int keep_chunk(struct keep *keep, uint64_t index, bool as_in_base, struct ferry_error *err);
int keep_end(struct keep *keep, struct ferry_error *err); /* what is left is zero */

#endif
