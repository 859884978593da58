/*
 * The identity of content (FORMAT.md, Identity): a binary tree of SHA-256 over leaves of 4 KiB, in
 * which zeroes cost nothing.  A chunk is a node of the tree of its section, whatever the chunk
 * size, so content is hashed once and its digest is independent of how it is cut and stored.
 */
#ifndef FERRY_IMAGEFMT_CONTENT_H
#define FERRY_IMAGEFMT_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/limits.h"

#define CONTENT_LEAF_BYTES LIMIT_CHUNK_MIN_BYTES
#define CONTENT_LEVELS     35 /* level 34 covers LIMIT_DISK_BYTES */
#define CONTENT_TOP_LEAST  10 /* the tree is never lower: covers LIMIT_CHUNK_BYTES */

struct content_tree {
    uint64_t leaves;                            /* taken in so far */
    uint8_t left[CONTENT_LEVELS][SHA256_BYTES]; /* nodes that wait for their right neighbour */
};

/* The level whose nodes cover bytes, a power of two of CONTENT_LEAF_BYTES or more. */
unsigned content_level(uint64_t bytes);
/* The node of this level over data[0..size) with zeroes behind.  All zero bytes: all is zero. */
void content_node(const void *data, size_t size, unsigned level, uint8_t node[SHA256_BYTES]);
bool content_is_zero(const uint8_t node[SHA256_BYTES]);

/*
 * The next node of this level, the index-th of its level; nodes come with ascending index, and what
 * is left out is zero.  Start with a zeroed struct.
 */
void content_add(struct content_tree *tree, uint64_t index, unsigned level,
                 const uint8_t node[SHA256_BYTES]);
/* The node of this level over all that was added, and zeroes behind; no more than it covers. */
void content_top(const struct content_tree *tree, unsigned level, uint8_t node[SHA256_BYTES]);
/* The digest of content of size bytes (at most LIMIT_DISK_BYTES), of which no leaf lies behind. */
void content_digest(const struct content_tree *tree, uint64_t size, uint8_t digest[SHA256_BYTES]);

/*
 * The digest of the first size bytes of a file (or block device), on `workers` threads (0: one a
 * CPU).  Holes are not read.  report: NULL, or told now and then how far it is; a negative errno
 * from it ends the work.
 */
int content_digest_file(int fd, const char *about, uint64_t size, unsigned workers,
                        int (*report)(void *opaque, uint64_t done_bytes, struct ferry_error *err),
                        void *opaque, uint8_t digest[SHA256_BYTES], struct ferry_error *err);

#endif
