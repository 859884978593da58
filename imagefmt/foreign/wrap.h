/*
 * Wraps: a whole file that was compressed as it is (disk.raw.xz).  What is in one is read and
 * written in order.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_WRAP_H
#define FERRY_IMAGEFMT_FOREIGN_WRAP_H

#include "imagefmt/foreign/disk.h"

enum wrap_kind {
    WRAP_NONE,
    WRAP_GZIP, /* RFC 1952 */
    WRAP_XZ,   /* The .xz File Format 1.1.0 */
    WRAP_ZSTD, /* RFC 8878 */
    WRAP_BZIP2,
};

#define WRAP_MAGIC_BYTES 6

/* By the first bytes of a file; WRAP_NONE: it bears the marks of none. */
enum wrap_kind wrap_by_magic(const uint8_t *head, size_t size);
/* "gzip", "xz", "zstd", "bzip2"; WRAP_NONE: no such name. */
enum wrap_kind wrap_by_name(const char *name);
/* By ".gz", ".xz", ".zst" or ".bz2" at the end of path; *length: of path without it. */
enum wrap_kind wrap_by_extension(const char *path, size_t *length);
const char *wrap_name(enum wrap_kind kind);

/*
 * What is in the wrap in below, which stays the caller's and outlives it.  Several members (frames,
 * streams) one behind the other are one content.  FERRY_REFUSED: it is cut short, a sum is wrong,
 * something else lies behind the last member (-EBADMSG); more than LIMIT_UNWRAP_BYTES are needed to
 * inflate it (-EFBIG).  Only what is asked for is inflated.
 */
int stream_unwrap(struct stream *below, enum wrap_kind kind, struct stream **out,
                  struct ferry_error *err);

struct wrap_options {
    int level;        /* 0: the usual one; else 1 to 9, zstd to 19; FERRY_USAGE beyond */
    unsigned workers; /* where the library has threads (xz, zstd); 0: one a CPU */
};

/*
 * What is written to *out, in order, goes compressed to below, which stays the caller's and
 * outlives it.  The same bytes and level give the same file, whatever the number of workers.  Long
 * runs of zeroes cost next to nothing in zstd, which has them as frames of their own.
 */
int sink_wrap(struct sink *below, enum wrap_kind kind, const struct wrap_options *options,
              struct sink **out, struct ferry_error *err);
/* The end of the file.  Then only sink_wrap_destroy. */
int sink_wrap_finish(struct sink *sink, struct ferry_error *err);
void sink_wrap_destroy(struct sink *sink); /* NULL is fine */

#endif
