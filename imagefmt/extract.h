/* One section of an image as a plain file or stream. */
#ifndef FERRY_IMAGEFMT_EXTRACT_H
#define FERRY_IMAGEFMT_EXTRACT_H

#include "imagefmt/image.h"

struct extract_options {
    enum image_section_kind kind; /* 0: RAM or disk of that name, else state of that name */
    const char *name;
    bool sparse;      /* out is a new regular file: zeroes are left out, and it gets its size */
    bool salvage;     /* what comes before the damage is enough */
    unsigned workers; /* 0: one a CPU */
};

struct extract_result {
    struct image_section section;
    uint64_t whole_bytes;      /* of the section are there, from its start */
    struct ferry_error damage; /* with salvage: why no more; code 0: nothing is missing */
};

/*
 * The section's content from image fd to out.  An image in a file is read at random, only that
 * section of it, which is checked up to its digest in the table (and so to the root); from a pipe,
 * or with salvage, it is read to its end.  What was written counts only when this returns 0.
 * Errors: -ENOENT (FERRY_USAGE): there is no such section.
 */
int image_extract(int fd, const char *about, const struct image_environment *env, int out,
                  const struct extract_options *options, struct extract_result *result,
                  struct ferry_error *err);

#endif
