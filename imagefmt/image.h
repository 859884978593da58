/*
 * The ferry image as its users see it; FORMAT.md has the bytes.
 *
 * An image is a manifest (JSON), state sections (opaque bytes, named and versioned) and data
 * sections (RAM, disks, files) cut into chunks.  Written in one pass without seeking, read in one
 * pass, and known to be complete only at its end.
 */
#ifndef FERRY_IMAGEFMT_IMAGE_H
#define FERRY_IMAGEFMT_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/limits.h"

#define IMAGE_VERSION          1u
#define IMAGE_RAM_CHUNK_BYTES  (64 * KIB)
#define IMAGE_DISK_CHUNK_BYTES (256 * KIB)

struct signing_key;
struct image_secret;      /* imagefmt/secret.h */
struct image_environment; /* imagefmt/chain.h: what an image needs to be read; NULL: nothing */

enum image_section_kind {
    IMAGE_STATE = 1,
    IMAGE_RAM = 2,
    IMAGE_DISK = 3,
    IMAGE_FILE = 4, /* what a machine is started from: "kernel", "initrd" */
};

struct image_writer;

struct image;

struct image_writer_options {
    struct image *base; /* write a child of it: what is as there is not stored again; NULL: none.
                         * Must outlive the writer, which is the only one to use it. */
    int level;          /* zstd level IMAGE_LEVEL_MIN..IMAGE_LEVEL_MAX; 0: the default */
    unsigned workers;   /* compressing threads; 0: one a CPU */
    const struct image_secret *secret; /* seal the image with it; NULL: do not */
    const struct signing_key *signer;  /* imagefmt/sign.h: sign the root; NULL: do not */
};

#define IMAGE_LEVEL_MIN     (-50) /* negative: faster than 1 */
#define IMAGE_LEVEL_MAX     19
#define IMAGE_LEVEL_DEFAULT 1

/*
 * Bytes go to fd in order (pipe or file); not closed.  The manifest is written first.  The bytes
 * depend on content and level only, never on the number of workers.  Memory: four chunks a worker,
 * twice (content and stored), at most LIMIT_IN_FLIGHT_BYTES, and 24 bytes for 1024 chunks written.
 * After an error of any call the image is lost: only destroy is of use then.  Writing to a pipe
 * that nobody reads raises SIGPIPE unless the program ignores it.
 */
int image_writer_create(int fd, const struct image_writer_options *options, const char *manifest,
                        size_t manifest_size, struct image_writer **out, struct ferry_error *err);
/* A state section, not within a data section. */
int image_writer_state(struct image_writer *w, const char *name, uint16_t version, const void *data,
                       size_t size, struct ferry_error *err);
/* A data section of size bytes follows: begin, any number of ascending chunks, end.  chunk_bytes: a
 * power of two, LIMIT_CHUNK_MIN_BYTES to LIMIT_CHUNK_BYTES. */
int image_writer_begin(struct image_writer *w, enum image_section_kind kind, const char *name,
                       uint64_t size, uint32_t chunk_bytes, struct ferry_error *err);
/* Content of chunk `index` (chunk_bytes, the last one may be short).  Zero content is found here
 * and stored as nothing; chunks left out are zero.  data is copied before the call returns. */
int image_writer_chunk(struct image_writer *w, uint64_t index, const void *data,
                       struct ferry_error *err);
/*
 * The same with content that a worker reads: read fills data with the size bytes at offset of the
 * section and returns 0 or a negative errno.  It runs on several threads at once, until a call of
 * image_writer_end that succeeded, image_writer_settle or image_writer_destroy has returned.
 */
int image_writer_fetch(struct image_writer *w, uint64_t index,
                       int (*read)(void *opaque, uint64_t offset, void *data, size_t size),
                       void *opaque, struct ferry_error *err);
int image_writer_end(struct image_writer *w, struct ferry_error *err);
/* After an error: wait until nobody reads for image_writer_fetch any more. */
void image_writer_settle(struct image_writer *w);
/* Index, root and footer.  root: SHA-256 identity of the content (FORMAT.md), may be NULL.  The
 * bytes have been written when it returns, but not made durable.  After it only destroy. */
int image_writer_finish(struct image_writer *w, uint8_t root[SHA256_BYTES],
                        struct ferry_error *err);
uint64_t image_writer_bytes(const struct image_writer *w);         /* written so far */
uint64_t image_writer_content_bytes(const struct image_writer *w); /* of data that is not zero */
void image_writer_destroy(struct image_writer *w);                 /* NULL is fine */

struct image_section {
    enum image_section_kind kind;
    char name[LIMIT_NAME_BYTES + 1]; /* 1.. of [A-Za-z0-9._-], unique in its kind */
    uint16_t version;                /* state sections; else 0 */
    uint64_t size;                   /* state: bytes; data: size of the RAM or disk */
    uint32_t chunk_bytes;            /* data sections: a power of two; else 0 */
    uint8_t digest[SHA256_BYTES];    /* of the content (FORMAT.md); data: known at the end */
    /* Data sections; known when the section has ended, else 0. */
    uint64_t chunks;        /* stored ones */
    uint64_t content_bytes; /* of stored chunks, inflated */
    uint64_t stored_bytes;  /* of stored chunks, as stored */
};

/* What a sequential read meets, in the order of the file.  Any callback may be NULL. */
struct image_visitor {
    int (*manifest)(void *opaque, const char *json, size_t size, struct ferry_error *err);
    int (*state)(void *opaque, const struct image_section *section, const uint8_t *data,
                 struct ferry_error *err);
    int (*begin)(void *opaque, const struct image_section *section, struct ferry_error *err);
    /* Content of one stored chunk at byte `offset` of the section.  Chunks come in order, from one
     * thread; both sums have been checked. */
    int (*chunk)(void *opaque, const struct image_section *section, uint64_t offset,
                 const uint8_t *data, size_t size, struct ferry_error *err);
    int (*end)(void *opaque, const struct image_section *section, struct ferry_error *err);
    /* Bytes read of the file so far, for progress. */
    void (*progress)(void *opaque, uint64_t bytes);
};

struct image_summary {
    bool child; /* it builds on the image with this root */
    uint8_t base[SHA256_BYTES];
    uint32_t version;
    uint64_t bytes;         /* of the file */
    uint64_t content_bytes; /* of stored chunks, inflated */
    uint64_t stored_bytes;  /* of stored chunks, as stored */
    uint64_t chunks;
    uint8_t root[SHA256_BYTES];
    bool sealed;
    bool scrubbed; /* sealed, and read without its secret: only version, bytes and sums are known */
    unsigned signers;                  /* whose signatures over the root are right */
    uint8_t signer[LIMIT_SIGNERS][32]; /* their public keys (Ed25519) */
};

/*
 * Read the image from fd (pipe or file) to its end: check every sum, call the visitor, compare the
 * index, the root and the footer.  Anything wrong is FERRY_REFUSED with the name of what is
 * damaged, and nobody may use what the visitor got unless this returns 0.
 */
int image_read(int fd, const char *about, const struct image_environment *env, unsigned workers,
               const struct image_visitor *visitor, void *opaque, struct image_summary *summary,
               struct ferry_error *err);
/* The same of a pipe whose first head_bytes, at most IMAGE_HEAD_MAX_BYTES, somebody has read to see
 * what they are: they are in head. */
#define IMAGE_HEAD_MAX_BYTES (64 * KIB)
int image_read_behind(const void *head, size_t head_bytes, int fd, const char *about,
                      const struct image_environment *env, unsigned workers,
                      const struct image_visitor *visitor, void *opaque,
                      struct image_summary *summary, struct ferry_error *err);

/* "state", "ram", "disk", "file". */
const char *image_kind_name(enum image_section_kind kind);
/* "RAM at 0x1230000", "disk vda at 12.5 MiB (byte 13107200)" into text.  Returns text. */
char *image_place(const struct image_section *section, uint64_t offset, char *text, size_t size);

/*
 * An image in a file (not a pipe), for reading at random.  Opening it reads header, manifest,
 * section table and footer and checks them against each other and the root; index, pages and chunks
 * are read when needed and checked then, each sum before its meaning.  Whether the rest is whole is
 * not known: that is image_read's business.  Memory: the table, four index records, eight pages and
 * eight chunks, at most 42 MiB.
 *
 * A handle is for one thread at a time; threads open a handle each.  fd stays the caller's, must
 * stay open, and is only used at explicit offsets; about must outlive the handle.
 */
int image_open(int fd, const char *about, const struct image_environment *env, struct image **out,
               struct ferry_error *err);
void image_close(struct image *image);    /* NULL is fine */
void image_cleanup(struct image **image); /* CLEANUP(image_cleanup) */
/* The image's numbers. */
const struct image_summary *image_summary(const struct image *image);
const char *image_manifest(const struct image *image, size_t *size);
/* Sections are numbered from 0 in the order of the file; `number` is one of them from here on. */
uint32_t image_sections(const struct image *image);
const struct image_section *image_section(const struct image *image, uint32_t number);
/* The number of the section of this kind and name; negative: there is none. */
int64_t image_find(const struct image *image, enum image_section_kind kind, const char *name);
/* The image that a child builds on, which belongs to it; NULL: it builds on none.  Refused: it was
 * not found, or is damaged. */
int image_base(struct image *image, struct image **base, struct ferry_error *err);
/* The chunk size of the section of this kind and name; otherwise: there is none, or image is NULL.
 */
uint32_t image_chunk_bytes(const struct image *image, enum image_section_kind kind,
                           const char *name, uint32_t otherwise);
/* A state section's bytes, malloc'd (never NULL when 0 is returned). */
int image_state(struct image *image, uint32_t number, uint8_t **data, struct ferry_error *err);

/* One stored chunk, as the pages have it. */
struct image_chunk {
    uint64_t index;
    uint64_t offset; /* of its record in the file */
    uint32_t stored_bytes;
    bool same; /* its content was stored for an earlier chunk: offset is that one's */
    struct image
        *image; /* where it lies: this one or one that it builds on; and in which section */
    uint32_t section;
    uint8_t digest[SHA256_BYTES];
};

/* The first chunk of a data section that is stored, here or in an image below, with this index or a
 * higher one: 1, 0 if there is none, or a negative errno.  Its content ends where the section does.
 */
int image_next_chunk(struct image *image, uint32_t number, uint64_t index,
                     struct image_chunk *chunk, struct ferry_error *err);
/* Read all pages of a data section and compare its digest with what they add up to: after that the
 * identities in its chunks are those that the root vouches for. */
int image_check_pages(struct image *image, uint32_t number, struct ferry_error *err);
/* Content of a data section; size bytes at offset must lie within it. */
int image_pread(struct image *image, uint32_t number, uint64_t offset, void *data, size_t size,
                struct ferry_error *err);
/* All stored chunks of a data section in order, decoded by `workers` threads (0: one a CPU) and
 * handed to chunk on the calling one, as image_visitor has it. */
int image_walk(struct image *image, uint32_t number, unsigned workers,
               int (*chunk)(void *opaque, const struct image_section *section, uint64_t offset,
                            const uint8_t *data, size_t size, struct ferry_error *err),
               void *opaque, struct ferry_error *err);

#endif
