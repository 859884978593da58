/*
 * From disk to writer: the content is read, searched for zeroes, hashed and encoded by all cores,
 * and put in order.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_COPY_H
#define FERRY_IMAGEFMT_FOREIGN_COPY_H

#include "common/hash.h"
#include "common/progress.h"
#include "imagefmt/foreign/disk.h"

struct content_tree;

/* Told what has been put, and where to begin: for work that is taken up again (resume.h). */
struct disk_copy_watch {
    uint64_t start; /* all before it has been put; a multiple of DISK_UNIT_MAX_BYTES */
    const struct content_tree *tree; /* of what lies before start; NULL: nothing, or no digest */
    /* After each put. */
    int (*put)(void *opaque, const struct disk_unit *unit, struct ferry_error *err);
    /* All before end has been put, from offset on since the last time.  node: of this part, if
     * there is to be a digest. */
    int (*done)(void *opaque, uint64_t offset, uint64_t end, unsigned level, const uint8_t *node,
                struct ferry_error *err);
    void *opaque;
};

struct disk_copy_options {
    unsigned workers;                    /* 0: one a CPU */
    bool digest;                         /* hash the content, too */
    const char *phase;                   /* in reports of progress */
    struct progress *progress;           /* NULL: none */
    const struct disk_copy_watch *watch; /* disk_copy into a file; NULL: none */
};

struct disk_copy_result {
    uint64_t size_bytes;          /* of the disk as written, or as given to disk_digest */
    uint64_t content_bytes;       /* of units that are not zero */
    uint8_t digest[SHA256_BYTES]; /* of size_bytes (imagefmt/content.h); zero if not asked for */
};

/* What a disk of this size has in a format of sectors: a part of one at its end is filled up. */
static inline uint64_t disk_whole_sectors(uint64_t size_bytes)
{
    return (size_bytes + 511) / 512 * 512;
}

/*
 * Everything of disk into writer, which was created for size_bytes (disk->size_bytes or more: the
 * rest is zero): plan if it wants to, put, finish.  After an error what was written is lost; writer
 * stays the caller's.  -ECANCELED: so progress says.  Memory: at most LIMIT_IN_FLIGHT_BYTES and
 * what the formats need.
 */
int disk_copy(struct disk *disk, struct disk_writer *writer, uint64_t size_bytes,
              const struct disk_copy_options *options, struct disk_copy_result *result,
              struct ferry_error *err);
/* The same without writing: the digest of disk's content, filled up with zeroes to size_bytes. */
int disk_digest(struct disk *disk, uint64_t size_bytes, const struct disk_copy_options *options,
                struct disk_copy_result *result, struct ferry_error *err);

#endif
