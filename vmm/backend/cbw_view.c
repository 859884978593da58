/*
 * The view of a disk as it was: from the disk what has not changed, from the store what has.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "common/cleanup.h"
#include "vmm/backend/cbw_internal.h"

#define WINDOW_BLOCKS UINT64_C(65536) /* looked at in one go */

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
    case CBW_HOLE:
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

/* The first block of [first, end), a hole of the disk now, that was none; end: there is none.  The
 * lock is given up now and then. */
static uint64_t next_hidden(struct cbw_disk *d, uint64_t first, uint64_t end)
{
    struct cbw *cbw = d->cbw;

    while (first < end && !cbw->over) {
        uint64_t stop = end - first < WINDOW_BLOCKS ? end : first + WINDOW_BLOCKS;
        uint64_t copied = first, zero = first;
        if (!cbw_table_next(&cbw->table, d->index, &copied, stop))
            copied = stop;
        while (zero < copied && cbw_state_of(d, zero) != CBW_ZERO)
            zero += zero % CBW_A_BYTE || d->states[zero / CBW_A_BYTE] ? 1 : CBW_A_BYTE;
        if (zero < copied)
            return zero;
        if (copied < stop && !cbw_table_find(&cbw->table, d->index, copied)->copying)
            return copied;
        if (copied < stop) { /* it may turn out to be a hole */
            pthread_cond_wait(&cbw->changed, &cbw->lock);
            continue;
        }
        first = stop;
        pthread_mutex_unlock(&cbw->lock);
        pthread_mutex_lock(&cbw->lock);
    }
    return end;
}

/* Of [*first, *end), data of the disk now, the first run that was data, or its beginning: true. */
static bool cut_run(const struct cbw_disk *d, uint64_t *first, uint64_t *end)
{
    uint64_t block = *first, last = *end;

    if (last - block > WINDOW_BLOCKS)
        last = block + WINDOW_BLOCKS;
    while (block < last && cbw_state_of(d, block) == CBW_HOLE)
        block++;
    *first = block;
    while (block < last && cbw_state_of(d, block) != CBW_HOLE)
        block++;
    *end = block;
    return *first < block;
}

/* From block *first on, as view_next_data. */
static int next_blocks(struct cbw_disk *d, uint64_t *first, uint64_t *end)
{
    uint64_t blocks = (d->below->size_bytes - 1) / CBW_BLOCK_BYTES + 1;

    for (;;) {
        uint64_t run = *first * CBW_BLOCK_BYTES, run_end = 0;
        int found = *first < blocks ? d->below->ops->next_data(d->below, &run, &run_end) : 0;
        if (found < 0)
            return found;
        run = found ? run / CBW_BLOCK_BYTES : blocks;
        run_end = found ? (run_end - 1) / CBW_BLOCK_BYTES + 1 : blocks;
        LOCK_SCOPE(&d->cbw->lock);
        uint64_t hidden = next_hidden(d, *first, run);
        if (d->cbw->over)
            return d->cbw->code;
        *first = hidden;
        *end = hidden < run ? hidden + 1 : run_end;
        if (hidden < run || cut_run(d, first, end))
            return 1;
        if (!found)
            return 0;
    }
}

/*
 * The disk is asked first, as it is now: what is data now but was a hole is known as that.  What
 * was data and is a hole now was copied before it became one, so that looking at what is known of
 * the blocks afterwards finds it.
 */
static int view_next_data(struct block *view, uint64_t *start, uint64_t *end)
{
    struct cbw_disk *d = of_view(view);
    uint64_t first = *start / CBW_BLOCK_BYTES, last = 0;

    if (*start >= view->size_bytes)
        return 0;
    int found = next_blocks(d, &first, &last);
    if (found <= 0)
        return found;
    *start = first * CBW_BLOCK_BYTES > *start ? first * CBW_BLOCK_BYTES : *start;
    *end = last * CBW_BLOCK_BYTES < view->size_bytes ? last * CBW_BLOCK_BYTES : view->size_bytes;
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
