/*
 * The view of a disk as it was: from the disk what has not changed, from the store what has.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "common/cleanup.h"
#include "vmm/backend/cbw_internal.h"

static struct cbw_disk *of_view(struct block *block)
{
    return (struct cbw_disk *)((char *)block - offsetof(struct cbw_disk, view));
}

/* ---- Reading; with the lock held ---- */

/* `size` bytes of a block have been read.  entry: its own, or NULL. */
static int take(struct cbw_disk *d, uint64_t block, uint32_t size, struct cbw_entry *entry)
{
    struct cbw *cbw = d->cbw;
    uint32_t all = cbw_block_bytes(d, block);

    if (!entry && size < all && !(entry = cbw_table_add(&cbw->table, d->index, block)))
        return -E2BIG;
    if (entry)
        entry->taken += size;
    if ((entry ? entry->taken : size) < all)
        return 0;
    if (entry)
        cbw_table_remove(&cbw->table, entry);
    cbw_set_state(d, block, CBW_DONE);
    pthread_cond_broadcast(&cbw->changed);
    return 0;
}

/* How much of size bytes from offset on the disk still has in one run; 0: not even the first. */
static size_t run_on_disk(const struct cbw_disk *d, uint64_t offset, size_t size)
{
    uint64_t block = offset / CBW_BLOCK_BYTES, end = offset;

    for (; end < offset + size; block++) {
        const struct cbw_entry *entry = cbw_table_find(&d->cbw->table, d->index, block);
        if (cbw_state_of(d, block) != CBW_AS_IT_WAS ||
            (entry && (entry->copying || entry->slot != CBW_NONE)))
            break;
        end = (block + 1) * CBW_BLOCK_BYTES;
    }
    if (end <= offset)
        return 0;
    return end - offset < size ? (size_t)(end - offset) : size;
}

static int take_run(struct cbw_disk *d, uint64_t offset, size_t size)
{
    int error = 0;

    while (!error && size) {
        uint64_t block = offset / CBW_BLOCK_BYTES;
        uint64_t rest = block * CBW_BLOCK_BYTES + cbw_block_bytes(d, block) - offset;
        uint32_t part = (uint32_t)(rest < size ? rest : size);
        error = take(d, block, part, cbw_table_find(&d->cbw->table, d->index, block));
        offset += part;
        size -= part;
    }
    return error;
}

/* A run that is on the disk; the lock is given up meanwhile. */
static int read_run(struct cbw_disk *d, void *data, size_t size, uint64_t offset)
{
    struct cbw *cbw = d->cbw;
    struct cbw_reading reading = {.next = cbw->readings,
                                  .disk = d->index,
                                  .first = offset / CBW_BLOCK_BYTES,
                                  .last = (offset + size - 1) / CBW_BLOCK_BYTES};
    struct cbw_reading **link = &cbw->readings;

    cbw->readings = &reading;
    pthread_mutex_unlock(&cbw->lock);
    int error = cbw_read_below(d, data, size, offset);
    pthread_mutex_lock(&cbw->lock);
    while (*link != &reading)
        link = &(*link)->next;
    *link = reading.next;
    pthread_cond_broadcast(&cbw->changed);
    if (error)
        return error;
    return cbw->over ? cbw->code : take_run(d, offset, size);
}

/* Some of size bytes at offset, as they were; *got says how many.  With the lock held. */
static int read_some(struct cbw_disk *d, void *data, size_t size, uint64_t offset, size_t *got)
{
    struct cbw *cbw = d->cbw;
    uint64_t block = offset / CBW_BLOCK_BYTES;
    uint64_t within = offset % CBW_BLOCK_BYTES, rest = cbw_block_bytes(d, block) - within;
    struct cbw_entry *entry = cbw_table_find(&cbw->table, d->index, block);

    *got = rest < size ? (size_t)rest : size;
    switch (cbw_state_of(d, block)) {
    case CBW_DONE:
        return -EINVAL; /* what it was is known no longer */
    case CBW_ZERO:
        memset(data, 0, *got);
        return 0;
    case CBW_AS_IT_WAS:
        break;
    }
    if (entry && entry->copying) {
        *got = 0;
        pthread_cond_wait(&cbw->changed, &cbw->lock);
        return 0;
    }
    if (entry && entry->slot != CBW_NONE) {
        memcpy(data, cbw_table_data(&cbw->table, entry) + within, *got);
        return take(d, block, (uint32_t)*got, entry);
    }
    *got = run_on_disk(d, offset, size);
    return read_run(d, data, *got, offset);
}

static int view_read(struct block *view, const struct iovec *iov, int count, uint64_t offset)
{
    struct cbw_disk *d = of_view(view);
    int error = 0;
    LOCK_SCOPE(&d->cbw->lock);

    for (int n = 0; !error && n < count; n++) {
        size_t got = 0;
        if (!cbw_is_within(d, offset, iov[n].iov_len))
            return -EINVAL;
        for (size_t done = 0; !error && done < iov[n].iov_len; done += got)
            error = d->cbw->over ? d->cbw->code
                                 : read_some(d, (uint8_t *)iov[n].iov_base + done,
                                             iov[n].iov_len - done, offset + done, &got);
        offset += iov[n].iov_len;
    }
    return error;
}

/*
 * The disk is asked first, as it is now: what is data now may have been a hole at T, and then it is
 * known as zero.  What was data and is a hole now was copied before it became one, so that looking
 * at the copies afterwards finds it.
 */
static int view_next_data(struct block *view, uint64_t *start, uint64_t *end)
{
    struct cbw_disk *d = of_view(view);
    uint64_t size = view->size_bytes, run = *start, run_end = 0;

    if (*start >= size)
        return 0;
    int found = d->below->ops->next_data(d->below, &run, &run_end);
    if (found < 0)
        return found;
    uint64_t block = *start / CBW_BLOCK_BYTES;
    run = found ? run / CBW_BLOCK_BYTES : (size - 1) / CBW_BLOCK_BYTES + 1;
    run_end = (run_end + CBW_BLOCK_BYTES - 1) / CBW_BLOCK_BYTES;
    LOCK_SCOPE(&d->cbw->lock);
    if (d->cbw->over)
        return d->cbw->code;
    if (cbw_table_next(&d->cbw->table, d->index, &block, run)) {
        run = block;
        run_end = block + 1;
    } else if (!found) {
        return 0;
    }
    *start = run * CBW_BLOCK_BYTES > *start ? run * CBW_BLOCK_BYTES : *start;
    *end = run_end * CBW_BLOCK_BYTES < size ? run_end * CBW_BLOCK_BYTES : size;
    return 1;
}

static int view_write(struct block *view, const struct iovec *iov, int count, uint64_t offset)
{
    (void)view, (void)iov, (void)count, (void)offset;
    return -EROFS;
}

static int view_flush(struct block *view)
{
    (void)view;
    return 0;
}

static int view_discard(struct block *view, uint64_t offset, uint64_t size)
{
    (void)view, (void)offset, (void)size;
    return -EROFS;
}

static int view_write_zeroes(struct block *view, uint64_t offset, uint64_t size, bool may_unmap)
{
    (void)view, (void)offset, (void)size, (void)may_unmap;
    return -EROFS;
}

const struct block_ops cbw_view_ops = {
    .read = view_read,
    .write = view_write,
    .flush = view_flush,
    .discard = view_discard,
    .write_zeroes = view_write_zeroes,
    .next_data = view_next_data,
    .release = cbw_no_change_of_owner,
    .activate = cbw_no_change_of_owner,
    .close = cbw_no_close,
};
