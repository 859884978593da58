/*
 * The sequential reader's two halves, reader.c (records) and reader_chunk.c (chunks), and what they
 * share.  Private to imagefmt/.
 */
#ifndef FERRY_IMAGEFMT_READER_H
#define FERRY_IMAGEFMT_READER_H

#include "imagefmt/content.h"
#include "imagefmt/decode.h"
#include "imagefmt/image.h"
#include "imagefmt/input.h"
#include "imagefmt/table.h"

enum phase {
    IN_HEADER = 1,
    IN_CRYPT = 128,
    IN_MANIFEST = 2,
    IN_SECTIONS = 4,
    IN_DATA = 8,
    IN_INDEX = 16,
    IN_FOOTER = 32,
    IN_SIGNATURES = 64,
    COMPLETE = 256,
    IN_BASE = 512,
};

struct image_reader {
    struct input in;
    struct decode decode;
    const struct image_visitor *visitor;
    void *opaque;
    enum phase phase;
    struct table table;
    const struct image_environment *env;
    struct seal *seal; /* NULL: the image is not sealed */
    uint32_t flags;
    struct image *base;       /* what a child builds on */
    struct content_tree tree; /* of the open section */
    struct writer page;       /* entries that the next page must have */
    uint64_t next_index;
    uint64_t page_first;
    uint32_t page_count;
    bool page_last; /* a page that is not full must be the section's last */
    /* The index as it must be and as it was read: 24 bytes for 1024 chunks could still grow without
     * a bound over a pipe, so only their sums are kept. */
    struct sha256 *index_met, *index_read;
    uint64_t index_entries, index_offset, root_offset;
    uint8_t root[SHA256_BYTES];
    struct writer expected; /* scratch: the body that a record must have */
    struct image_summary summary;
};

/* Damage, named by what; a chunk by its place.  Always a negative errno. */
int reader_refuse(struct image_reader *r, const char *what, const char *why,
                  struct ferry_error *err);
int reader_refuse_chunk(struct image_reader *r, uint64_t index, const char *why,
                        struct ferry_error *err);
int reader_no_memory(struct image_reader *r, struct ferry_error *err);

/* CHNK, and what follows it. */
int reader_chunk(struct image_reader *r, struct record *record, struct ferry_error *err);
/* Hand all chunks in work to the visitor. */
int reader_deliver_all(struct image_reader *r, struct ferry_error *err);
/* Reading failed.  Chunks in work come before that place: they are handed on, and if one of them
 * turns out damaged, that is the error. */
int reader_earlier_damage(struct image_reader *r, int error, struct ferry_error *err);

#endif
