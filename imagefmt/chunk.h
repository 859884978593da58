/* The head of a chunk, as all readers and the writer have it.  Private to imagefmt/. */
#ifndef FERRY_IMAGEFMT_CHUNK_H
#define FERRY_IMAGEFMT_CHUNK_H

#include "common/bytes.h"
#include "common/hash.h"

struct chunk_head {
    uint32_t section, codec;
    uint64_t index;
    uint32_t content_bytes, stored_bytes;
    uint64_t sum; /* of the stored bytes; CODEC_SAME: offset of the record of the equal chunk */
    uint8_t digest[SHA256_BYTES];
};

void chunk_head_write(struct writer *body, const struct chunk_head *head);
/* body->error is set if it is too short; what is left behind is the caller's to refuse. */
void chunk_head_read(struct reader *body, struct chunk_head *head);
/*
 * Raw bytes of a CHNK record (CHUNK_RECORD_BYTES) that must lie at offset: NULL and the head, or
 * what is wrong with it.
 */
const char *chunk_record_read(const uint8_t *data, uint64_t offset, struct chunk_head *head);

#endif
