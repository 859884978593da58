/*
 * The bounded reader and writer: the only two ways in which ferry turns outside bytes into numbers
 * and numbers into outside bytes.  Fixed width; little-endian, or big-endian where the name ends in
 * be.  The error is sticky: after the first read past the end (or write past the limit) every
 * further call does nothing, reads give 0, and `error` stays set, so a parser checks once at the
 * end of a run of calls.
 */
#ifndef FERRY_COMMON_BYTES_H
#define FERRY_COMMON_BYTES_H

#include <stddef.h>
#include <stdint.h>

struct reader {
    const uint8_t *cur;
    const uint8_t *end;
    int error; /* 0, or -EBADMSG after a read past the end */
};

/* A reader over data[0..size); the bytes are not copied and must outlive the reader. */
struct reader reader_init(const void *data, size_t size);
size_t reader_left(const struct reader *r); /* bytes not yet read, 0 after an error */
uint8_t reader_u8(struct reader *r);
uint16_t reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);
uint16_t reader_u16be(struct reader *r);
uint32_t reader_u32be(struct reader *r);
uint64_t reader_u64be(struct reader *r);
/* Copies size bytes to out; out is zeroed on error. */
void reader_copy(struct reader *r, void *out, size_t size);
/* The next size bytes in place, or NULL on error. */
const uint8_t *reader_take(struct reader *r, size_t size);
/* A reader over the next size bytes, which this reader skips; in error if there are fewer. */
struct reader reader_sub(struct reader *r, size_t size);

/* A growing buffer with a limit.  Zero-initialise with writer_init, release with writer_free. */
struct writer {
    uint8_t *data;
    size_t size;     /* bytes written */
    size_t capacity; /* bytes allocated */
    size_t limit;    /* most bytes it may hold */
    int error;       /* 0, -EFBIG past the limit, -ENOMEM */
};

struct writer writer_init(size_t limit);
void writer_free(struct writer *w);  /* also the cleanup function: CLEANUP(writer_free) */
void writer_reset(struct writer *w); /* empty again, keeps the memory, clears the error */
void writer_u8(struct writer *w, uint8_t value);
void writer_u16(struct writer *w, uint16_t value);
void writer_u32(struct writer *w, uint32_t value);
void writer_u64(struct writer *w, uint64_t value);
void writer_u16be(struct writer *w, uint16_t value);
void writer_u32be(struct writer *w, uint32_t value);
void writer_u64be(struct writer *w, uint64_t value);
void writer_copy(struct writer *w, const void *data, size_t size);
/* size zero bytes at the end, to be filled by the caller; NULL on error.  Valid until next call. */
uint8_t *writer_grow(struct writer *w, size_t size);
/* Overwrite 4 bytes at offset, which must have been written before (lengths known afterwards). */
void writer_put_u32_at(struct writer *w, size_t offset, uint32_t value);
/* Make room for size more bytes beforehand, so that later calls cannot run out of memory. */
int writer_reserve(struct writer *w, size_t size);

#endif
