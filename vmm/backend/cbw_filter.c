/*
 * The filter before a disk: what is about to change is copied out of the way of the readers, or it
 * has to wait for them.
 */
#include <errno.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/zero.h"
#include "vmm/backend/cbw_internal.h"

static struct cbw_disk *of_filter(struct block *block)
{
    return (struct cbw_disk *)block; /* its first member */
}

/* ---- Making blocks free to be changed; with the lock held ---- */

/* Nobody reads it from the disk from now on. */
static bool is_free(const struct cbw_disk *d, uint64_t block)
{
    if (cbw_state_of(d, block) != CBW_AS_IT_WAS)
        return true;
    const struct cbw_entry *entry = cbw_table_find(&d->cbw->table, d->index, block);
    return entry && entry->slot != CBW_NONE && !entry->copying;
}

static bool is_being_read(const struct cbw_disk *d, uint64_t block)
{
    for (const struct cbw_reading *r = d->cbw->readings; r; r = r->next)
        if (r->disk == d->index && block >= r->first && block <= r->last)
            return true;
    return false;
}

/* A request of the guest on its way through the filter. */
struct request {
    struct cbw_disk *disk;
    uint64_t deadline_ns; /* 0: has not waited yet */
};

/* Wait for a change; with the time up, the guest comes first. */
static void wait_for_reader(struct request *request)
{
    struct cbw *cbw = request->disk->cbw;
    struct ferry_error err;

    if (!request->deadline_ns) {
        request->deadline_ns = monotonic_ns() + cbw->wait_ns;
        cbw->numbers.waits++;
    }
    const struct timespec until = {.tv_sec = (time_t)(request->deadline_ns / 1000000000),
                                   .tv_nsec = (long)(request->deadline_ns % 1000000000)};
    if (pthread_cond_timedwait(&cbw->changed, &cbw->lock, &until) != ETIMEDOUT || cbw->over)
        return;
    ferry_fail(&err, -ETIMEDOUT, NULL,
               "the disks were written to faster than what they held before was taken away, and "
               "the guest had waited for %u ms: given up",
               (unsigned)(cbw->wait_ns / 1000000));
    cbw_give_up(cbw, -ETIMEDOUT, &err);
}

/* What came of a copy into the store, or into scratch if that had no room.  state: of zeroes. */
static void end_copy(struct cbw_disk *d, struct cbw_entry *entry, int error, enum cbw_state state)
{
    struct cbw *cbw = d->cbw;
    struct ferry_error err;
    uint64_t block = entry->block;

    entry->copying = false;
    if (error) {
        ferry_fail_sys(&err, error, NULL, "cannot read what a write was about to replace");
        cbw_give_up(cbw, error, &err);
    } else if (state != CBW_AS_IT_WAS) {
        cbw_set_state(d, block, state);
    } else if (entry->slot != CBW_NONE) {
        uint64_t used = (cbw->slots - cbw->table.free_count) * CBW_BLOCK_BYTES;
        cbw->numbers.copied_bytes += cbw_block_bytes(d, block);
        cbw->numbers.most_bytes = used > cbw->numbers.most_bytes ? used : cbw->numbers.most_bytes;
        pthread_cond_broadcast(&cbw->changed);
        return;
    } else if (entry->taken) {
        pthread_cond_broadcast(&cbw->changed);
        return;
    }
    cbw_table_remove(&cbw->table, entry);
    pthread_cond_broadcast(&cbw->changed);
}

static bool is_hole(const struct cbw_disk *d, uint64_t block)
{
    uint64_t start = block * CBW_BLOCK_BYTES, end = 0;
    int found = d->below->ops->next_data(d->below, &start, &end);

    return !found || (found > 0 && start >= (block + 1) * CBW_BLOCK_BYTES);
}

/* Try to copy a block; the lock is given up meanwhile.  entry: its own, or NULL.  probe: look at it
 * even if there is no room, since zeroes need none.  False: nothing was done. */
static bool copy(struct cbw_disk *d, uint64_t block, struct cbw_entry *entry, bool probe)
{
    struct cbw *cbw = d->cbw;

    if (!cbw->table.free_count && !probe)
        return false;
    if (!entry)
        entry = cbw_table_add(&cbw->table, d->index, block);
    if (!entry)
        return false;
    uint8_t *to =
        cbw_table_take_slot(&cbw->table, entry) ? cbw_table_data(&cbw->table, entry) : d->scratch;
    entry->copying = true;
    pthread_mutex_unlock(&cbw->lock);
    uint32_t size = cbw_block_bytes(d, block);
    int error = cbw_read_below(d, to, size, block * CBW_BLOCK_BYTES);
    enum cbw_state state = CBW_AS_IT_WAS;
    if (!error && is_zero(to, size))
        state = is_hole(d, block) ? CBW_HOLE : CBW_ZERO;
    pthread_mutex_lock(&cbw->lock);
    end_copy(d, entry, error, state);
    return true;
}

/* Returns when the block may change. */
static void make_free(struct request *request, uint64_t block)
{
    struct cbw_disk *d = request->disk;
    struct cbw *cbw = d->cbw;
    bool probe = true;

    while (!cbw->over && !is_free(d, block)) {
        struct cbw_entry *entry = cbw_table_find(&cbw->table, d->index, block);
        bool busy = (entry && entry->copying) || is_being_read(d, block);
        if (!busy && copy(d, block, entry, probe))
            probe = false;
        else
            wait_for_reader(request);
    }
}

/* The same for all blocks of a range.  What is out of it the disk refuses. */
static void make_range_free(struct cbw_disk *d, uint64_t offset, uint64_t size)
{
    struct request request = {.disk = d};
    LOCK_SCOPE(&d->cbw->lock);

    if (!size || !cbw_is_within(d, offset, size))
        return;
    for (uint64_t block = offset / CBW_BLOCK_BYTES; block <= (offset + size - 1) / CBW_BLOCK_BYTES;
         block++)
        make_free(&request, block);
}

/* ---- The filter ---- */

static int filter_read(struct block *block, const struct iovec *iov, int count, uint64_t offset)
{
    struct block *below = of_filter(block)->below;

    return below->ops->read(below, iov, count, offset);
}

static int filter_write(struct block *block, const struct iovec *iov, int count, uint64_t offset)
{
    struct cbw_disk *d = of_filter(block);
    uint64_t size = 0;

    for (int n = 0; n < count; n++)
        size += iov[n].iov_len;
    make_range_free(d, offset, size);
    return d->below->ops->write(d->below, iov, count, offset);
}

static int filter_flush(struct block *block)
{
    struct block *below = of_filter(block)->below;

    return below->ops->flush(below);
}

/* From offset on: how many of size bytes are in blocks that are alike, and are these free? */
static uint64_t like_run(struct cbw_disk *d, uint64_t offset, uint64_t size, bool *free_blocks)
{
    uint64_t block = offset / CBW_BLOCK_BYTES, last = (offset + size - 1) / CBW_BLOCK_BYTES;
    LOCK_SCOPE(&d->cbw->lock);

    *free_blocks = d->cbw->over || is_free(d, block);
    if (d->cbw->over)
        return size;
    while (block < last && is_free(d, block + 1) == *free_blocks)
        block++;
    uint64_t end = (block + 1) * CBW_BLOCK_BYTES;
    return end - offset < size ? end - offset : size;
}

static int filter_discard(struct block *block, uint64_t offset, uint64_t size)
{
    struct cbw_disk *d = of_filter(block);
    int error = 0;

    if (!cbw_is_within(d, offset, size))
        return d->below->ops->discard(d->below, offset, size);
    while (!error && size) {
        bool free_blocks;
        uint64_t part = like_run(d, offset, size, &free_blocks);
        if (free_blocks)
            error = d->below->ops->discard(d->below, offset, part);
        offset += part;
        size -= part;
    }
    return error;
}

static int filter_write_zeroes(struct block *block, uint64_t offset, uint64_t size, bool may_unmap)
{
    struct cbw_disk *d = of_filter(block);

    make_range_free(d, offset, size);
    return d->below->ops->write_zeroes(d->below, offset, size, may_unmap);
}

static int filter_next_data(struct block *block, uint64_t *start, uint64_t *end)
{
    struct block *below = of_filter(block)->below;

    return below->ops->next_data(below, start, end);
}

const struct block_ops cbw_filter_ops = {
    .read = filter_read,
    .write = filter_write,
    .flush = filter_flush,
    .discard = filter_discard,
    .write_zeroes = filter_write_zeroes,
    .next_data = filter_next_data,
    .release = cbw_no_change_of_owner,
    .activate = cbw_no_change_of_owner,
    .close = cbw_no_close,
};
