/*
 * An image open for random access, as its parts know it.  Private to imagefmt/; image.h has what
 * users see.
 */
#ifndef FERRY_IMAGEFMT_ACCESS_H
#define FERRY_IMAGEFMT_ACCESS_H

#include "common/bytes.h"
#include "imagefmt/decode.h"
#include "imagefmt/format.h"
#include "imagefmt/image.h"
#include "imagefmt/table.h"

#define INDEX_CACHE 4 /* index records, 128 KiB each */
#define PAGE_CACHE  8 /* pages, 56 KiB each */
#define CHUNK_CACHE 8 /* decoded chunks */

/* One page as the index has it. */
struct page_place {
    uint32_t section, chunks;
    uint64_t first_chunk, offset;
};

/* Parts of the file that have been read and checked; used: when last, 0: never filled. */
struct index_record {
    uint64_t used, number;
    uint32_t count;
    struct page_place places[INDEX_ENTRIES];
};

struct page {
    uint64_t used, number;
    uint32_t count;
    struct page_line lines[PAGE_CHUNKS];
};

/* Content is the same only if all of this is: an index may lead to one record from anywhere. */
struct chunk_key {
    const struct image *image; /* in which it lies: this one, or one that it builds on */
    uint64_t offset;           /* of its record */
    uint32_t chunk_bytes, content_bytes;
    uint8_t digest[SHA256_BYTES];
};

struct cached_chunk {
    uint64_t used;
    struct chunk_key key;
    uint32_t room;
    uint8_t *content; /* with zeroes up to key.chunk_bytes */
};

struct image {
    int fd;
    const char *about;
    int own_fd;        /* closed with the handle; -1: fd is the caller's */
    struct seal *seal; /* NULL: it is not sealed */
    uint64_t footer_offset, footer_end;
    char *own_about;                 /* freed with it; NULL: about is the caller's */
    struct image *base;              /* what a child builds on; NULL: none, or not found */
    struct ferry_error base_problem; /* why it was not found */
    struct table table;
    uint64_t index_offset, root_offset;
    struct image_summary summary;
    char *manifest;
    struct writer record; /* the record at hand */
    uint64_t clock;       /* counts uses of the caches */
    struct index_record *index[INDEX_CACHE];
    struct page *pages[PAGE_CACHE];
    struct cached_chunk chunks[CHUNK_CACHE];
    struct decode_slot slot; /* decodes what goes to the cache */
};

/* The image is damaged in what; always a negative errno. */
int image_refuse(const struct image *image, const char *what, const char *why,
                 struct ferry_error *err);
int image_refuse_chunk(const struct image *image, const struct image_section *section,
                       uint64_t index, const char *why, struct ferry_error *err);
int image_no_memory(const struct image *image, struct ferry_error *err);
/*
 * The record at offset, which must have this tag, a right sum and end at or before end; the body is
 * valid until the next call.  what: its name in messages.
 */
int image_record(struct image *image, uint64_t offset, uint64_t end, enum record_tag tag,
                 const char *what, struct reader *body, struct ferry_error *err);
/* Length of a record with a body of so many bytes, in this image. */
uint64_t image_record_bytes(const struct image *image, uint64_t body_bytes);
/* image_open without the image's base. */
int image_open_alone(int fd, const char *about, const struct image_environment *env,
                     struct image **out, struct ferry_error *err);
/* Find the base of a child (chain.c), or note why there is none. */
int image_attach_base(struct image *image, const struct image_environment *env,
                      struct ferry_error *err);
/* The base of a child that is read from fd (perhaps a pipe), by its root; not NULL when it returns
 * 0. */
int image_find_base(int fd, const char *about, const uint8_t root[SHA256_BYTES],
                    const struct image_environment *env, struct image **out,
                    struct ferry_error *err);
/*
 * The base's section of the same kind and name, if chunks of it can stand for chunks of this one:
 * -1 if there is none, or its chunks have another size.
 */
int64_t image_base_section(const struct image *base, const struct image_section *section);
/* image_walk over the chunks [first, end). */
int image_walk_range(struct image *image, uint32_t number, unsigned workers, uint64_t first,
                     uint64_t end,
                     int (*chunk)(void *opaque, const struct image_section *section,
                                  uint64_t offset, const uint8_t *data, size_t size,
                                  struct ferry_error *err),
                     void *opaque, struct ferry_error *err);
/*
 * image_walk whose workers also put the content where it belongs: place runs on them, several at
 * once and in any order, and before chunk, which is told of each in order.
 */
int image_walk_placed(struct image *image, uint32_t number, unsigned workers,
                      int (*place)(void *opaque, uint64_t offset, const uint8_t *data, size_t size),
                      int (*chunk)(void *opaque, const struct image_section *section,
                                   uint64_t offset, const uint8_t *data, size_t size,
                                   struct ferry_error *err),
                      void *opaque, struct ferry_error *err);
/* The node over the 2^level chunks from index on, by the pages. */
int image_node(struct image *image, uint32_t number, uint64_t index, unsigned level,
               uint8_t node[SHA256_BYTES], struct ferry_error *err);
/* image_next_chunk, but 0 if there is none before end: what is kept is not followed further. */
int image_chunk_within(struct image *image, uint32_t number, uint64_t index, uint64_t end,
                       struct image_chunk *chunk, struct ferry_error *err);
/* Where a section's records end at the latest. */
uint64_t image_section_end(const struct image *image, uint32_t section);
/* The stored bytes of a chunk into slot (its buffers are there), its head checked. */
int image_fetch(const struct image_chunk *chunk, struct decode_slot *slot, struct ferry_error *err);

#endif
