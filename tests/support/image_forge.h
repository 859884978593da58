/*
 * Images made by hand, for what no ferry writes: any record with a right sum, and the repair of
 * sums in bytes that have been changed, so that tests and fuzzers get behind the sums.
 */
#ifndef FERRY_TESTS_SUPPORT_IMAGE_FORGE_H
#define FERRY_TESTS_SUPPORT_IMAGE_FORGE_H

#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/hash.h"

struct forge {
    struct writer out;
    size_t start; /* of the record being made */
};

struct forge forge_new(void);
void forge_free(struct forge *f);
/* Begin a record; write its body to f->out; end it. */
void forge_begin(struct forge *f, const char tag[4]);
void forge_end(struct forge *f);
void forge_header(struct forge *f, uint32_t version, uint32_t flags);
void forge_manifest(struct forge *f, const char *text);
void forge_state(struct forge *f, uint32_t number, const char *name, const void *data, size_t size);
void forge_data(struct forge *f, uint32_t number, uint8_t kind, const char *name,
                uint32_t chunk_bytes, uint64_t size);
/* Head and stored bytes; digest: the identity, NULL: a wrong one. */
void forge_chunk(struct forge *f, uint32_t number, uint64_t index, uint32_t content_bytes,
                 const void *stored, uint32_t stored_bytes, const uint8_t digest[SHA256_BYTES]);

/* A chunk that refers to the record at offset target. */
void forge_same(struct forge *f, uint32_t number, uint64_t index, uint32_t content_bytes,
                uint32_t stored_bytes, uint64_t target, const uint8_t digest[SHA256_BYTES]);

/* One record of an image at hand. */
struct forge_record {
    size_t start, size; /* with head and sum */
    size_t stored;      /* bytes of the chunk behind it */
    char tag[5];
};

/* The record at start: 1, or 0 if there is none (end, or not a record). */
int forge_record_at(const uint8_t *image, size_t size, size_t start, struct forge_record *record);
/* Make offset and sum of this record right again, and a chunk's sum of its stored bytes. */
void forge_repair(uint8_t *image, const struct forge_record *record);
/* All records, as far as the image can be followed. */
void forge_repair_all(uint8_t *image, size_t size);

#endif
