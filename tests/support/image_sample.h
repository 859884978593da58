/*
 * Images of known content for tests: a sample is a list of sections with their content at hand,
 * written by image_writer and compared by an image_visitor.
 */
#ifndef FERRY_TESTS_SUPPORT_IMAGE_SAMPLE_H
#define FERRY_TESTS_SUPPORT_IMAGE_SAMPLE_H

#include "imagefmt/image.h"

#define SAMPLE_SECTIONS 8

struct sample_section {
    enum image_section_kind kind;
    char name[LIMIT_NAME_BYTES + 1];
    uint16_t version;
    uint32_t chunk_bytes;
    uint64_t size;
    uint8_t *content; /* size bytes */
};

struct sample {
    const struct image_environment *env; /* for reading it; NULL: none */
    char manifest[256];
    unsigned count;
    struct sample_section sections[SAMPLE_SECTIONS];
};

/* Deterministic numbers: xorshift64*. */
uint64_t sample_random(uint64_t *seed);
/* A section with content of mixed kinds: zero, text-like, random, holes. */
void sample_add(struct sample *sample, enum image_section_kind kind, const char *name,
                uint64_t size, uint32_t chunk_bytes, uint64_t seed);
/* Some sections of every kind, sizes not multiples of the chunk. */
void sample_fill(struct sample *sample, uint64_t seed);
/* State, RAM and a disk in a few KiB, for exhaustive tests. */
void sample_small(struct sample *sample);
/* The worked example of FORMAT.md. */
void sample_example(struct sample *sample);
void sample_free(struct sample *sample);
/* Into fd; returns what the writer returned. */
int sample_write(const struct sample *sample, int fd, const struct image_writer_options *options,
                 uint8_t root[SHA256_BYTES], struct ferry_error *err);
/* The same into memory. */
uint8_t *sample_image(const struct sample *sample, const struct image_writer_options *options,
                      size_t *size);
/* Read fd and compare: 0, the reader's error, or -EILSEQ if the content differs. */
int sample_compare(const struct sample *sample, int fd, unsigned workers,
                   struct image_summary *summary, struct ferry_error *err);
/* image_read of bytes at hand, through a memfd, without a visitor. */
int sample_read_bytes(const uint8_t *data, size_t size, struct ferry_error *err);
/* The same of a sealed image. */
int sample_read_with(const uint8_t *data, size_t size, const struct image_environment *env,
                     struct ferry_error *err);
int sample_access_with(const uint8_t *data, size_t size, const struct image_environment *env,
                       struct ferry_error *err);
/* Read fd at random, all of it, and compare: 0, the reader's error, or -EILSEQ. */
int sample_access(const struct sample *sample, int fd, struct ferry_error *err);
/* All that random access can reach in bytes at hand, without comparing. */
int sample_access_bytes(const uint8_t *data, size_t size, struct ferry_error *err);
/* A memfd with these bytes, positioned at its start. */
int sample_fd(const uint8_t *data, size_t size);

#endif
