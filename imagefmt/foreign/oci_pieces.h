/*
 * A disk in pieces: the way into a pipe, where a blob must be whole before its name is known.
 * Private to the writer of OCI artifacts.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_OCI_PIECES_H
#define FERRY_IMAGEFMT_FOREIGN_OCI_PIECES_H

#include "imagefmt/foreign/disk.h"

#define OCI_PIECE_BYTES (64 * MIB) /* stored, at most */

struct oci_piece {
    uint64_t offset; /* in the disk, of its first byte */
    uint32_t number; /* from 0 */
    bool last;
    const uint8_t *data; /* stored; until the call returns */
    size_t size;
};

/* A writer of raw+zstd that hands out pieces as they are full: one after the other they are the
 * stream that a writer into one sink would have made.  about outlives it. */
int oci_pieces_create(const struct disk_write_options *options, const char *about,
                      int (*take)(void *opaque, const struct oci_piece *piece,
                                  struct ferry_error *err),
                      void *opaque, struct disk_writer **out, struct ferry_error *err);

#endif
