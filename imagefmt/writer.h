/*
 * The writer's two halves, writer.c (records) and writer_chunk.c (chunks), and what they share.
 * Private to imagefmt/.
 */
#ifndef FERRY_IMAGEFMT_WRITER_H
#define FERRY_IMAGEFMT_WRITER_H

#include "imagefmt/content.h"
#include "imagefmt/encode.h"
#include "imagefmt/format.h"
#include "imagefmt/image.h"
#include "imagefmt/keep.h"
#include "imagefmt/record.h"
#include "imagefmt/same.h"
#include "imagefmt/table.h"

struct image_writer {
    int fd;
    int level;
    uint64_t offset; /* bytes written */
    uint64_t begun;  /* of them the kernel has been told to write back */
    uint64_t content_bytes;
    bool broken; /* an error has been returned */
    struct pool *pool;
    struct encode_slot *slots;
    unsigned slot_count; /* allocated */
    unsigned slots_used; /* of them, for the chunk size of this section */
    unsigned oldest, busy;
    struct table table;
    struct same_table *same;
    const struct signing_key *signer;
    struct seal *seal;    /* NULL: the image is not sealed */
    struct writer record; /* the record being made */
    struct writer page;   /* entries of the page being filled */
    struct writer index;  /* entries of the index so far */
    uint64_t page_first;  /* index of the page's first chunk */
    uint32_t page_count;
    bool open; /* a data section is */
    uint64_t next_index;
    struct content_tree tree; /* of the open section */
    struct image *base;       /* what the image builds on; NULL: nothing */
    struct keep keep;         /* what the open section keeps of it */
};

/* The image is lost: error, a usage error, -ENOMEM. */
int writer_broken(struct image_writer *w, int error);
int writer_usage(struct image_writer *w, struct ferry_error *err, const char *about,
                 const char *message);
int writer_no_memory(struct image_writer *w, struct ferry_error *err);
/* An image that has failed, or a call in the wrong place, is a bug of the caller. */
int writer_check(struct image_writer *w, bool want_open, struct ferry_error *err);
/* Begin the next record; its body goes to what is returned.  Then write it, with size bytes behind.
 */
struct writer *writer_begin_record(struct image_writer *w, enum record_tag tag);
int writer_put_record(struct image_writer *w, uint8_t *behind, size_t size,
                      struct ferry_error *err);

/* Wait for all chunks in work and write them. */
int writer_drain(struct image_writer *w, struct ferry_error *err);
/* The page that is being filled, which has entries. */
int writer_page(struct image_writer *w, struct ferry_error *err);
/* struct keep's node: one that is as in the base.  opaque: the writer. */
int writer_kept(void *opaque, uint64_t index, unsigned level, const uint8_t digest[SHA256_BYTES],
                struct ferry_error *err);

#endif
