/*
 * The journal of a conversion: which units were put and are durable.
 *
 *     "ferryres"  u32 version  u32 size of the JSON  u64 XXH3 of the JSON  JSON
 *     batches:  u32 mark  u32 units  u32 nodes  u32 0  u64 done  u64 unwritten  u64 sum
 *               units of 16 bytes, nodes of 44 bytes
 *
 * All is little-endian.  The sum is over the sum of the batch before, the head and the rest, so a
 * batch counts only in its place.  What is behind the last whole batch is torn, and as if it were
 * not there.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_RESUME_JOURNAL_H
#define FERRY_IMAGEFMT_FOREIGN_RESUME_JOURNAL_H

#include <jansson.h>

#include "common/bytes.h"
#include "common/hash.h"
#include "imagefmt/foreign/disk.h"

struct journal_node {
    uint64_t offset;
    uint32_t level;
    uint8_t node[SHA256_BYTES];
};

/* As read; nothing in it has been checked but its sum and counts. */
struct journal_batch {
    uint32_t units, nodes;
    uint64_t done;      /* all of the disk before it has been put */
    uint64_t unwritten; /* disk_format.unwritten, then */
    struct reader unit_bytes, node_bytes;
    uint8_t *bytes; /* freed by journal_batch_free */
};

struct journal {
    int fd; /* the caller's */
    const char *about;
    uint64_t start;             /* of the first batch */
    uint64_t end;               /* of the last whole one that was read or written */
    uint64_t sum;               /* its sum */
    struct writer units, nodes; /* of the next batch */
    uint32_t unit_count, node_count;
};

/* A new one in an empty file.  what: an object; what must be the same when it is taken up. */
int journal_create(struct journal *j, int fd, const char *about, const json_t *what,
                   struct ferry_error *err);
/* *what: a new reference.  -EBADMSG, FERRY_REFUSED: there is none, or it is damaged. */
int journal_open(struct journal *j, int fd, const char *about, json_t **what,
                 struct ferry_error *err);
void journal_close(struct journal *j);

/* The next batch, or from the first on again: 1, 0 behind the last whole one. */
int journal_next(struct journal *j, struct journal_batch *batch, struct ferry_error *err);
void journal_rewind(struct journal *j);
/* The next unit and node of a batch; only offset, content_bytes, stored_bytes and raw are set. */
void journal_next_unit(struct journal_batch *batch, struct disk_unit *unit);
void journal_next_node(struct journal_batch *batch, struct journal_node *node);
void journal_batch_free(struct journal_batch *batch);

/* Remember for the next batch.  -ENOMEM. */
int journal_add_unit(struct journal *j, const struct disk_unit *unit, struct ferry_error *err);
int journal_add_node(struct journal *j, const struct journal_node *node, struct ferry_error *err);
/* Forget units that were remembered but for the first count of them. */
void journal_drop_units(struct journal *j, uint32_t count);
/* Is it time for a batch, lest there be too much in one? */
bool journal_is_full(const struct journal *j);
/* Write the batch, whose data must be durable, and make it durable; what was remembered is then
 * forgotten. */
int journal_write(struct journal *j, uint64_t done, uint64_t unwritten, struct ferry_error *err);

#endif
