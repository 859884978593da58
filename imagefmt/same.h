/*
 * What the writer remembers of chunks that it has stored, to store equal ones once.  Bounded: one
 * entry for each of 65536 values of an identity's first bytes, the youngest wins; 3 MiB.  Private
 * to imagefmt/.
 */
#ifndef FERRY_IMAGEFMT_SAME_H
#define FERRY_IMAGEFMT_SAME_H

#include <stdint.h>

#include "common/hash.h"

struct same_chunk {
    uint64_t offset; /* of its record; 0: none */
    uint32_t content_bytes, stored_bytes;
    uint8_t digest[SHA256_BYTES];
};

struct same_table;

struct same_table *same_new(void); /* NULL: out of memory */
void same_free(struct same_table *table);
/* The chunk with this identity and length, if its record lies within reach of offset now; or NULL.
 */
const struct same_chunk *same_find(const struct same_table *table, const uint8_t *digest,
                                   uint32_t content_bytes, uint64_t now);
void same_note(struct same_table *table, const struct same_chunk *chunk);

#endif
