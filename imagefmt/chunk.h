/* The head of a chunk, as all readers and the writer have it.  Private to imagefmt/. */
#ifndef FERRY_IMAGEFMT_CHUNK_H
#define FERRY_IMAGEFMT_CHUNK_H

#include "common/bytes.h"
#include "common/hash.h"
#include "imagefmt/record.h"

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
 * Raw bytes of a CHNK record (chunk_record_bytes) that must lie at offset: NULL and the head, or
 * what is wrong with it.  seal: as record_check has it, which opens data in place.
 */
const char *chunk_record_read(uint8_t *data, uint64_t offset, const struct seal *seal,
                              struct chunk_head *head);
/* Length of a CHNK record, and of what follows one: the frame, or a SEAL record with it. */
size_t chunk_record_bytes(bool sealed);
size_t chunk_stored_bytes(bool sealed, uint32_t stored_bytes);

#define CHUNK_RECORD_MOST_BYTES (CHUNK_RECORD_BYTES + SEAL_TAG_BYTES)
/* What a SEAL record has besides the frame. */
#define SEAL_OVERHEAD_BYTES (RECORD_LEAST_BYTES + SEAL_TAG_BYTES)

#endif
