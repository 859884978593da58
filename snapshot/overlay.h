/*
 * The overlay of a disk on an image: what the guest has changed, in blocks of 64 KiB, in a file
 * that belongs to one content of one size.
 *
 *     0      8  "ferryovl"
 *     8      4  version: 1
 *     12     4  bytes of a block: 65536
 *     16     8  size of the disk in bytes
 *     24    32  digest of the section it lies over (imagefmt/FORMAT.md, Identity)
 *     56     8  XXH3-64 of the bytes before
 *     4096      bitmap: bit n (byte n / 8, bit n % 8) is set if block n is here
 *     ...       from the next multiple of 64 KiB on: block n at n * 65536
 *
 * Little-endian.  A bit is made durable only after its block's data, so after a crash each sector
 * is as it was at the last flush or as it was written since, whatever of the file had reached the
 * disk.
 */
#ifndef FERRY_SNAPSHOT_OVERLAY_H
#define FERRY_SNAPSHOT_OVERLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/limits.h"

#define OVERLAY_BLOCK_BYTES (64 * KIB) /* at most BLOCK_APART_BYTES of vmm/block.h */

/* What the overlay is kept in.  0 or a negative errno each; what is read behind the end is zero. */
struct overlay_store {
    int (*read)(struct overlay_store *store, void *data, size_t size, uint64_t offset);
    int (*write)(struct overlay_store *store, const void *data, size_t size, uint64_t offset);
    int (*zero)(struct overlay_store *store, uint64_t offset, uint64_t size);
    int (*sync)(struct overlay_store *store); /* all written before is durable */
};

/* What lies below.  Called by several threads only if overlay_read is. */
struct overlay_base {
    int (*read)(void *opaque, void *data, size_t size, uint64_t offset);
    void *opaque;
    uint64_t size_bytes; /* of the disk */
    uint8_t digest[SHA256_BYTES];
};

struct overlay;

/* Write the header of an empty overlay into an empty store; not made durable. */
int overlay_format(struct overlay_store *store, const struct overlay_base *base);
/*
 * Store and base outlive the overlay.  about: its name in messages.  FERRY_REFUSED: a damaged
 * header, or one of another content or size.  Memory: one bit a block.
 */
int overlay_open(struct overlay_store *store, const struct overlay_base *base, const char *about,
                 struct overlay **out, struct ferry_error *err);
void overlay_close(struct overlay *overlay); /* does not flush; NULL is fine */

/* size bytes at offset, within the disk; 0 or a negative errno.  Reading and overlay_next are for
 * several threads at once, also while one thread changes other blocks or flushes. */
int overlay_read(struct overlay *overlay, void *data, size_t size, uint64_t offset);
int overlay_write(struct overlay *overlay, const void *data, size_t size, uint64_t offset);
int overlay_zero(struct overlay *overlay, uint64_t offset, uint64_t size);
/* What was written before is durable when it returns 0.  One that failed is final: all later ones
 * fail, too. */
int overlay_flush(struct overlay *overlay);
/* The first run of blocks in the overlay at or behind *start: [*start, *end) and true. */
bool overlay_next(const struct overlay *overlay, uint64_t *start, uint64_t *end);

#endif
