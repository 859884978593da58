/*
 * What a virtual disk stands on: a raw file or device (vmm/backend/raw_file.c), an image
 * (snapshot/image_disk.c).  All calls of one backend come from one thread at a time, but for read
 * and next_data, which several threads may call at once, also while that one writes, discards,
 * writes zeroes or flushes.  What is read then is as it was before or after only in blocks of
 * BLOCK_APART_BYTES that are not being changed; next_data may tell of any instant during the call.
 */
#ifndef FERRY_VMM_BLOCK_H
#define FERRY_VMM_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/error.h"
#include "common/limits.h"

#define BLOCK_APART_BYTES (64 * KIB) /* at multiples of it */

struct block;

struct block_ops {
    /* Whole transfers within the size; 0 or a negative errno. */
    int (*read)(struct block *block, const struct iovec *iov, int count, uint64_t offset);
    int (*write)(struct block *block, const struct iovec *iov, int count, uint64_t offset);
    int (*flush)(struct block *block); /* durable when it returns 0 */
    int (*discard)(struct block *block, uint64_t offset, uint64_t size);
    int (*write_zeroes)(struct block *block, uint64_t offset, uint64_t size, bool may_unmap);
    /* The next run that may hold data at or after *start: 1 and [*start, *end), or 0. */
    int (*next_data)(struct block *block, uint64_t *start, uint64_t *end);
    /* Give up ownership: flush, close, unlock.  The block can then only be activated or closed. */
    int (*release)(struct block *block, struct ferry_error *err);
    /* Take (again) ownership: open, lock, check the size.  A locked disk is -EBUSY, refused. */
    int (*activate)(struct block *block, struct ferry_error *err);
    void (*close)(struct block *block); /* frees it */
};

struct block {
    const struct block_ops *ops;
    uint64_t size_bytes; /* a multiple of 512 */
    bool readonly;
    bool active; /* owned: open and locked */
    bool stays;  /* no other host can open it by its file name: it cannot move */
};

/*
 * A raw file or block device at path.  It is only looked at: neither kept open nor locked until
 * ops->activate.  expect_bytes: refuse another size; 0: any (a multiple of 512).  If it is not
 * there yet: -ENOENT, or with expect_bytes and absent_ok a block that activates once the file is
 * there.
 */
int raw_file_open(const char *path, bool readonly, uint64_t expect_bytes, bool absent_ok,
                  struct block **out, struct ferry_error *err);

#endif
