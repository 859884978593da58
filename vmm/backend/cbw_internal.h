/* What the files of copy before write share: copy_before_write.c (life), cbw_filter.c (who
 * writes), cbw_view.c (who reads). */
#ifndef FERRY_VMM_BACKEND_CBW_INTERNAL_H
#define FERRY_VMM_BACKEND_CBW_INTERNAL_H

#include <pthread.h>

#include "vmm/backend/cbw_table.h"
#include "vmm/copy_before_write.h"

enum cbw_state {
    CBW_AS_IT_WAS = 0,
    CBW_DONE = 1, /* has been read */
    CBW_ZERO = 2, /* was zero, if not a hole */
    CBW_HOLE = 3, /* was a hole */
};
#define CBW_STATE_BITS 2u
#define CBW_A_BYTE     (8 / CBW_STATE_BITS)

/* A read of blocks that are as they were, under way. */
struct cbw_reading {
    struct cbw_reading *next;
    uint32_t disk;
    uint64_t first, last;
};

struct cbw_disk {
    struct block filter, view;
    struct cbw *cbw;
    struct block *below; /* the disk itself */
    uint32_t index;
    uint8_t *states;  /* CBW_STATE_BITS a block; NULL: read-only */
    uint8_t *scratch; /* a block, of its one writer */
};

struct cbw {
    struct cbw_disk disks[LIMIT_DISKS];
    uint32_t count;
    uint32_t slots;
    uint64_t wait_ns;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a block has another state, a read or copy has ended */
    struct cbw_table table;
    struct cbw_reading *readings;
    bool over;
    int code; /* over because of this */
    struct ferry_error err;
    struct cbw_numbers numbers;
};

extern const struct block_ops cbw_filter_ops, cbw_view_ops;

static inline uint32_t cbw_block_bytes(const struct cbw_disk *d, uint64_t block)
{
    uint64_t left = d->below->size_bytes - block * CBW_BLOCK_BYTES;

    return left < CBW_BLOCK_BYTES ? (uint32_t)left : CBW_BLOCK_BYTES;
}

static inline bool cbw_is_within(const struct cbw_disk *d, uint64_t offset, uint64_t size)
{
    return offset <= d->below->size_bytes && size <= d->below->size_bytes - offset;
}

static inline int cbw_read_below(const struct cbw_disk *d, void *data, size_t size, uint64_t offset)
{
    struct iovec iov = {data, size};

    return d->below->ops->read(d->below, &iov, 1, offset);
}

/* With the lock held: */
static inline enum cbw_state cbw_state_of(const struct cbw_disk *d, uint64_t block)
{
    return d->states[block / CBW_A_BYTE] >> block % CBW_A_BYTE * CBW_STATE_BITS & 3;
}
/* From CBW_AS_IT_WAS, once. */
static inline void cbw_set_state(const struct cbw_disk *d, uint64_t block, enum cbw_state state)
{
    d->states[block / CBW_A_BYTE] |= (uint8_t)(state << block % CBW_A_BYTE * CBW_STATE_BITS);
}
/* It is over; only the first reason counts. */
void cbw_give_up(struct cbw *cbw, int code, const struct ferry_error *err);

/* Neither a filter nor a view can be given away, and both belong to the cbw. */
int cbw_no_change_of_owner(struct block *block, struct ferry_error *err);
void cbw_no_close(struct block *block);

#endif
