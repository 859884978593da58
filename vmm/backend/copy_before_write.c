/*
 * Copy before write.  One lock guards what is known of the blocks; no I/O is done under it.
 *
 * A block is `as it was` while the disk has the content of T.  Who reads it from there stands in
 * `readings`; who wants to change it waits for them, then copies it (entry->copying), then changes
 * it.  After that it is copied, or was found to be zero, or has been read; for all of these the
 * block of the disk is the writer's alone.
 *
 * A writer that waits for room holds nothing that a reader needs, and a reader waits only for a
 * copy under way: so the store empties as fast as the reader reads, whatever it reads first.
 */
#include "vmm/copy_before_write.h"

#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "vmm/backend/cbw_internal.h"

void cbw_give_up(struct cbw *cbw, int code, const struct ferry_error *err)
{
    if (!cbw->over) {
        cbw->over = true;
        cbw->code = code;
        cbw->err = *err;
    }
    pthread_cond_broadcast(&cbw->changed);
}

int cbw_no_change_of_owner(struct block *block, struct ferry_error *err)
{
    (void)block;
    return ferry_fail(err, -EBUSY, NULL, "the disk is being read as it was; it stays where it is");
}

void cbw_no_close(struct block *block)
{
    (void)block; /* of the cbw */
}

static int add_disk(struct cbw *cbw, struct block *disk, struct ferry_error *err)
{
    struct cbw_disk *d = &cbw->disks[cbw->count];
    uint64_t blocks = (disk->size_bytes + CBW_BLOCK_BYTES - 1) / CBW_BLOCK_BYTES;

    *d = (struct cbw_disk){.cbw = cbw, .below = disk, .index = cbw->count++};
    d->filter = d->view = *disk; /* size, and what else is known of it */
    d->filter.ops = &cbw_filter_ops;
    d->view.ops = &cbw_view_ops;
    d->view.readonly = true;
    if (!disk->active)
        return ferry_fail(err, -EBADF, NULL, "the machine does not own its disk");
    if (disk->readonly)
        return 0;
    d->states = calloc(blocks / CBW_A_BYTE + 1, 1);
    d->scratch = malloc(CBW_BLOCK_BYTES);
    return d->states && d->scratch ? 0 : ferry_fail(err, -ENOMEM, NULL, "out of memory");
}

static void create_lock(struct cbw *cbw)
{
    pthread_condattr_t monotonic;

    pthread_mutex_init(&cbw->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&cbw->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

int cbw_create(struct block *const *disks, uint32_t count, const struct cbw_options *options,
               struct cbw **out, struct ferry_error *err)
{
    uint64_t store = options->store_bytes ? options->store_bytes : LIMIT_CBW_BYTES;

    if (store < CBW_BLOCK_BYTES || store > LIMIT_CBW_MAX_BYTES || count > LIMIT_DISKS)
        return ferry_usage(err, NULL, "%llu bytes to keep what is overwritten: from 64K to 16G",
                           (unsigned long long)store);
    struct cbw *cbw = calloc(1, sizeof(*cbw));
    if (!cbw)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    create_lock(cbw);
    cbw->slots = (uint32_t)(store / CBW_BLOCK_BYTES);
    cbw->wait_ns = options->wait_ns ? options->wait_ns : LIMIT_CBW_WAIT_NS;
    int error = cbw_table_init(&cbw->table, cbw->slots, LIMIT_CBW_PARTS);
    if (error)
        ferry_fail(err, error, NULL, "out of memory");
    for (uint32_t i = 0; !error && i < count; i++)
        error = add_disk(cbw, disks[i], err);
    if (error)
        cbw_destroy(cbw);
    else
        *out = cbw;
    return error;
}

void cbw_destroy(struct cbw *cbw)
{
    if (!cbw)
        return;
    for (uint32_t i = 0; i < cbw->count; i++) {
        free(cbw->disks[i].states);
        free(cbw->disks[i].scratch);
    }
    cbw_table_free(&cbw->table);
    pthread_cond_destroy(&cbw->changed);
    pthread_mutex_destroy(&cbw->lock);
    free(cbw);
}

struct block *cbw_filter(struct cbw *cbw, uint32_t disk)
{
    return cbw->disks[disk].states ? &cbw->disks[disk].filter : NULL;
}

struct block *cbw_view(struct cbw *cbw, uint32_t disk)
{
    return cbw->disks[disk].states ? &cbw->disks[disk].view : cbw->disks[disk].below;
}

void cbw_stop(struct cbw *cbw)
{
    const struct ferry_error err = {
        .kind = FERRY_FAILED, .code = -ECANCELED, .message = "reading the disks was ended"};
    LOCK_SCOPE(&cbw->lock);

    cbw_give_up(cbw, -ECANCELED, &err);
}

int cbw_failure(struct cbw *cbw, struct ferry_error *err)
{
    LOCK_SCOPE(&cbw->lock);

    if (err && cbw->over)
        *err = cbw->err;
    return cbw->code;
}

struct cbw_numbers cbw_numbers(struct cbw *cbw)
{
    LOCK_SCOPE(&cbw->lock);

    return cbw->numbers;
}
