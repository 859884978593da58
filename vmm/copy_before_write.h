/*
 * The disks of a machine as of one instant, while the guest goes on writing to them.
 *
 *     cbw_create            reserves what is needed; nothing has changed yet
 *     the instant T         nobody uses the disks: from here on their users use cbw_filter(i)
 *     cbw_view(i)           disk i as it was at T, for readers, by several threads
 *     cbw_stop              the filters only pass on; their users go back to the disks
 *     cbw_destroy
 *
 * A block (BLOCK_APART_BYTES) that is about to change is copied first into a store of limited size,
 * unless it has been read or was zero.  When the store is full the writer waits until something of
 * it has been read; when a request has waited for too long, or old content cannot be read, the view
 * is given up (cbw_failure) and the guest goes on: a write never fails because of it.
 */
#ifndef FERRY_VMM_COPY_BEFORE_WRITE_H
#define FERRY_VMM_COPY_BEFORE_WRITE_H

#include <stdint.h>

#include "common/error.h"
#include "vmm/block.h"

struct cbw;

struct cbw_options {
    uint64_t store_bytes; /* of old content kept in memory; 0: LIMIT_CBW_BYTES */
    uint64_t wait_ns;     /* that one request may wait; 0: LIMIT_CBW_WAIT_NS */
};

/* disks: active, at most LIMIT_DISKS; they stay the caller's and outlive it.  Memory: the store,
 * and two bits a block, as far as they come to be used.  Errors: FERRY_USAGE, -ENOMEM. */
int cbw_create(struct block *const *disks, uint32_t count, const struct cbw_options *options,
               struct cbw **out, struct ferry_error *err);
void cbw_destroy(struct cbw *cbw); /* nobody uses filters and views any more; NULL is fine */

/* Belongs to cbw.  As the disk itself, but it cannot be released or activated, and a discard, which
 * is a hint, does nothing to blocks that are still to be read.  NULL: the disk is read-only and
 * needs none. */
struct block *cbw_filter(struct cbw *cbw, uint32_t disk);
/*
 * Belongs to cbw.  Only to be read: read and next_data, by several threads.  Each byte can be read
 * once; next_data says what it would have said at T, but for whole blocks, however often.  Blocks
 * that are read in parts: at most LIMIT_CBW_PARTS at one time.
 */
struct block *cbw_view(struct cbw *cbw, uint32_t disk);

/* Any thread: nothing is copied from now on, whoever waits goes on, views can no longer be read. */
void cbw_stop(struct cbw *cbw);
/* Why the views were given up: a negative errno, or 0: they were not.  Any thread. */
int cbw_failure(struct cbw *cbw, struct ferry_error *err);

struct cbw_numbers {
    uint64_t copied_bytes; /* that went through the store */
    uint64_t most_bytes;   /* that were in it at one time */
    uint64_t waits;        /* of requests, for the reader */
};
struct cbw_numbers cbw_numbers(struct cbw *cbw);

#endif
