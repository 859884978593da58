/*
 * Copy before write: the steps one by one, what happens when the store is full, when the reader is
 * stuck and when the disk fails; and guests at work against readers, on each kind of disk, where
 * every byte read must be that of the instant T and every byte of the disk the guest's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/pool.h"
#include "common/zero.h"
#include "snapshot/image_disk.h"
#include "tests/support/image_sample.h"
#include "tests/support/memory_disk.h"
#include "vmm/copy_before_write.h"

#define BLOCK      BLOCK_APART_BYTES
#define DISK_BYTES (40 * BLOCK + 1536)
#define FOR_EVER   UINT64_C(600000000000)

/* ---- The steps; one disk, no threads ---- */

struct bench {
    struct memory_disk *disk;
    struct cbw *cbw;
    struct block *filter, *view;
    uint8_t *then; /* content at T */
};

static int move(struct block *block, bool write, uint64_t offset, void *data, size_t size)
{
    /* in two pieces that are no whole blocks */
    size_t first = size / 3;
    const struct iovec iov[] = {{data, first}, {(uint8_t *)data + first, size - first}};

    return write ? block->ops->write(block, iov, 2, offset)
                 : block->ops->read(block, iov, 2, offset);
}

static void put(struct block *block, uint64_t offset, size_t size, int byte)
{
    uint8_t *data = malloc(size);

    memset(data, byte, size);
    assert_int_equal(move(block, true, offset, data, size), 0);
    free(data);
}

static int get(struct bench *b, uint64_t offset, size_t size)
{
    uint8_t *data = malloc(size);

    memset(data, 0xee, size);
    int error = move(b->view, false, offset, data, size);
    if (!error)
        assert_memory_equal(data, b->then + offset, size);
    free(data);
    return error;
}

/* Every block of three is a hole. */
static void begin(struct bench *b, uint64_t store_bytes, uint64_t wait_ns)
{
    struct ferry_error err = {0};

    b->disk = memory_disk_new(DISK_BYTES);
    for (uint64_t n = 0; n * BLOCK < DISK_BYTES; n++)
        if (n % 3 != 2)
            put(&b->disk->block, n * BLOCK, n < 40 ? BLOCK : 1536, (int)n + 1);
    assert_non_null(b->then = malloc(DISK_BYTES));
    memcpy(b->then, b->disk->data, DISK_BYTES);
    struct block *disks[] = {&b->disk->block};
    const struct cbw_options options = {.store_bytes = store_bytes, .wait_ns = wait_ns};
    if (cbw_create(disks, 1, &options, &b->cbw, &err))
        fail_msg("%s", err.message);
    b->filter = cbw_filter(b->cbw, 0);
    b->view = cbw_view(b->cbw, 0);
    assert_int_equal(b->view->size_bytes, DISK_BYTES);
}

static void end(struct bench *b)
{
    cbw_destroy(b->cbw);
    b->disk->block.ops->close(&b->disk->block);
    free(b->then);
}

static void test_what_was(void **state)
{
    struct bench b;

    (void)state;
    begin(&b, 0, 0);
    put(b.filter, 100, 50, 0xaa);                    /* within a block */
    put(b.filter, 4 * BLOCK - 512, 3 * BLOCK, 0xbb); /* over a hole */
    put(b.filter, 40 * BLOCK + 512, 1024, 0xcc);     /* the short one at the end */
    assert_int_equal(b.disk->data[100], 0xaa);
    assert_int_equal(b.disk->data[4 * BLOCK], 0xbb);
    assert_int_equal(cbw_numbers(b.cbw).copied_bytes, 5 * BLOCK + 1536 - BLOCK);
    assert_int_equal(get(&b, 0, 7 * BLOCK), 0);
    assert_int_equal(get(&b, 39 * BLOCK, BLOCK + 1536), 0);
    put(b.filter, 0, 7 * BLOCK, 0xdd); /* has been read: nothing to copy */
    assert_int_equal(cbw_numbers(b.cbw).copied_bytes, 4 * BLOCK + 1536);
    assert_int_equal(get(&b, 0, 512), -EINVAL); /* each byte once */
    assert_int_equal(get(&b, 10 * BLOCK, 31 * BLOCK), -EINVAL);
    assert_int_equal(b.view->ops->write(b.view, NULL, 0, 0), -EROFS);
    assert_int_equal(b.filter->ops->release(b.filter, NULL), -EBUSY);
    assert_int_equal(b.filter->ops->flush(b.filter), 0);
    assert_int_equal(b.disk->flushes, 1);
    assert_int_equal(cbw_failure(b.cbw, NULL), 0);
    end(&b);
}

static void test_in_parts(void **state)
{
    struct bench b;

    (void)state;
    begin(&b, BLOCK, FOR_EVER);
    assert_int_equal(get(&b, 0, 512), 0);
    assert_int_equal(get(&b, 1024, 512), 0);
    put(b.filter, 0, BLOCK, 0xaa); /* the store is full now */
    assert_int_equal(get(&b, 512, 512), 0);
    assert_int_equal(get(&b, 1536, BLOCK - 2048), 0);
    assert_int_equal(get(&b, BLOCK - 512, 512), 0); /* and now it is not */
    put(b.filter, BLOCK, BLOCK, 0xbb);
    for (unsigned n = 0; n < BLOCK; n += 512)
        assert_int_equal(get(&b, BLOCK + n, 512), 0);
    for (unsigned n = 0; n < BLOCK; n += 4096)
        assert_int_equal(get(&b, 3 * BLOCK + n, 4096), 0);
    put(b.filter, 3 * BLOCK, BLOCK, 0xcc); /* all parts of it have been read */
    assert_int_equal(cbw_numbers(b.cbw).copied_bytes, 2 * BLOCK);
    assert_int_equal(cbw_numbers(b.cbw).most_bytes, BLOCK);
    assert_int_equal(cbw_numbers(b.cbw).waits, 0);
    end(&b);
}

/* More blocks that are read in parts than anybody may have. */
static void test_too_many_parts(void **state)
{
    struct memory_disk *disk = memory_disk_new((LIMIT_CBW_PARTS + 2) * BLOCK);
    struct block *disks[] = {&disk->block};
    const struct cbw_options options = {.store_bytes = BLOCK};
    struct cbw *cbw;
    uint8_t data[512];
    int error = 0;
    uint64_t n = 0;

    (void)state;
    assert_int_equal(cbw_create(disks, 1, &options, &cbw, NULL), 0);
    for (; !error && n < LIMIT_CBW_PARTS + 2; n++)
        error = move(cbw_view(cbw, 0), false, n * BLOCK, data, sizeof(data));
    assert_int_equal(error, -E2BIG);
    assert_true(n > LIMIT_CBW_PARTS);
    cbw_destroy(cbw);
    disk->block.ops->close(&disk->block);
}

/* What next_data says from here on; *start is where it ends. */
static bool next_is(struct bench *b, uint64_t *start, uint64_t first, uint64_t last)
{
    uint64_t stop = 0;
    int found = b->view->ops->next_data(b->view, start, &stop);

    if (found <= 0)
        return first == UINT64_MAX;
    bool right = *start == first && stop == last;
    *start = stop;
    return right;
}

static void test_holes(void **state)
{
    struct bench b;
    uint64_t at = 0;

    (void)state;
    begin(&b, 0, 0);
    put(b.filter, 2 * BLOCK, BLOCK, 0xaa); /* was a hole, is data */
    assert_int_equal(cbw_numbers(b.cbw).copied_bytes, 0);
    /* was data, is a hole */
    assert_int_equal(b.filter->ops->write_zeroes(b.filter, 6 * BLOCK, 2 * BLOCK, true), 0);
    assert_false(b.disk->has_data[6]);
    assert_true(next_is(&b, &at, 0, 5 * BLOCK)); /* more than there was is allowed */
    assert_true(next_is(&b, &at, 6 * BLOCK, 7 * BLOCK));
    assert_true(next_is(&b, &at, 7 * BLOCK, 8 * BLOCK));
    assert_true(next_is(&b, &at, 9 * BLOCK, 11 * BLOCK));
    at = 39 * BLOCK;
    assert_true(next_is(&b, &at, 39 * BLOCK, DISK_BYTES));
    assert_true(next_is(&b, &at, UINT64_MAX, 0));
    assert_int_equal(b.filter->ops->write_zeroes(b.filter, 40 * BLOCK, 1536, true), 0);
    memset(b.disk->has_data, 0, 41 * sizeof(*b.disk->has_data)); /* nothing but the copies */
    at = 7 * BLOCK;
    assert_true(next_is(&b, &at, 7 * BLOCK, 8 * BLOCK));
    assert_true(next_is(&b, &at, 40 * BLOCK, DISK_BYTES));
    assert_true(next_is(&b, &at, UINT64_MAX, 0));
    assert_int_equal(get(&b, 0, 9 * BLOCK), 0);
    end(&b);
}

static void test_discard_is_a_hint(void **state)
{
    struct bench b;

    (void)state;
    begin(&b, BLOCK, FOR_EVER);
    put(b.filter, 0, 512, 0xaa); /* copied: free to be discarded */
    assert_int_equal(b.filter->ops->discard(b.filter, 0, 2 * BLOCK), 0);
    assert_true(is_zero(b.disk->data, BLOCK));
    assert_memory_equal(b.disk->data + BLOCK, b.then + BLOCK, BLOCK);
    assert_int_equal(get(&b, 0, 4 * BLOCK), 0);
    assert_int_equal(b.filter->ops->discard(b.filter, BLOCK, 6 * BLOCK), 0);
    assert_true(is_zero(b.disk->data, 4 * BLOCK));
    assert_memory_equal(b.disk->data + 4 * BLOCK, b.then + 4 * BLOCK, BLOCK);
    assert_int_equal(b.disk->discards, 2);
    assert_int_equal(b.filter->ops->discard(b.filter, DISK_BYTES, 512), -EINVAL);
    assert_int_equal(get(&b, 4 * BLOCK, 8 * BLOCK), 0);
    cbw_stop(b.cbw);
    assert_int_equal(b.filter->ops->discard(b.filter, 12 * BLOCK, 28 * BLOCK), 0);
    assert_true(is_zero(b.disk->data + 12 * BLOCK, 28 * BLOCK));
    assert_int_equal(get(&b, 20 * BLOCK, 512), -ECANCELED);
    end(&b);
}

static void test_stuck_reader(void **state)
{
    struct bench b;
    struct ferry_error err = {0};
    uint64_t at = 0, stop;

    (void)state;
    begin(&b, 2 * BLOCK, 20000000);
    put(b.filter, 0, 10 * BLOCK, 0xaa); /* returns, and all of it is there */
    for (unsigned n = 0; n < 10 * BLOCK; n++)
        assert_int_equal(b.disk->data[n], 0xaa);
    assert_int_equal(cbw_failure(b.cbw, &err), -ETIMEDOUT);
    assert_int_equal(err.code, -ETIMEDOUT);
    assert_non_null(strstr(err.message, "had waited for 20 ms"));
    assert_int_equal(get(&b, 0, 512), -ETIMEDOUT);
    assert_int_equal(b.view->ops->next_data(b.view, &at, &stop), -ETIMEDOUT);
    put(b.filter, 20 * BLOCK, 10 * BLOCK, 0xbb);
    assert_int_equal(cbw_numbers(b.cbw).waits, 1);
    cbw_stop(b.cbw); /* the first reason stays */
    assert_int_equal(cbw_failure(b.cbw, NULL), -ETIMEDOUT);
    end(&b);
}

/* Zeroes need no room even if there is none. */
static void test_holes_in_a_full_store(void **state)
{
    struct bench b;

    (void)state;
    begin(&b, BLOCK, FOR_EVER);
    put(b.filter, 0, 512, 0xaa);
    for (uint64_t n = 2; n < 40; n += 3)
        put(b.filter, n * BLOCK, BLOCK, 0xbb);
    assert_int_equal(cbw_numbers(b.cbw).waits, 0);
    assert_int_equal(get(&b, 0, DISK_BYTES), 0);
    end(&b);
}

static void test_failing_disk(void **state)
{
    struct bench b;
    struct ferry_error err = {0};

    (void)state;
    begin(&b, 0, 0);
    b.disk->fail_reads = -EIO;
    assert_int_equal(get(&b, 0, BLOCK), -EIO); /* the reader's trouble alone */
    assert_int_equal(cbw_failure(b.cbw, NULL), 0);
    put(b.filter, 5 * BLOCK - 100, 200, 0xaa); /* works, but what was is lost */
    b.disk->fail_reads = 0;
    assert_int_equal(b.disk->data[5 * BLOCK], 0xaa);
    assert_int_equal(cbw_failure(b.cbw, &err), -EIO);
    assert_int_equal(get(&b, 20 * BLOCK, 512), -EIO);
    put(b.filter, 0, 20 * BLOCK, 0xbb);
    end(&b);
}

static void test_refusals(void **state)
{
    struct memory_disk *disk = memory_disk_new(DISK_BYTES);
    struct block *disks[LIMIT_DISKS + 1] = {&disk->block};
    struct cbw_options options = {.store_bytes = BLOCK - 1};
    struct ferry_error err = {0};
    struct cbw *cbw;
    uint8_t sector[512] = {0};

    (void)state;
    assert_int_equal(cbw_create(disks, 1, &options, &cbw, &err), -EINVAL);
    assert_int_equal(err.kind, FERRY_USAGE);
    options.store_bytes = LIMIT_CBW_MAX_BYTES + 1;
    assert_int_equal(cbw_create(disks, 1, &options, &cbw, &err), -EINVAL);
    options.store_bytes = 0;
    assert_int_equal(cbw_create(disks, LIMIT_DISKS + 1, &options, &cbw, &err), -EINVAL);
    disk->block.active = false;
    assert_int_equal(cbw_create(disks, 1, &options, &cbw, &err), -EBADF);
    disk->block.active = disk->block.readonly = true;
    assert_int_equal(cbw_create(disks, 1, &options, &cbw, &err), 0);
    assert_null(cbw_filter(cbw, 0));
    assert_ptr_equal(cbw_view(cbw, 0), &disk->block);
    cbw_destroy(cbw);
    disk->block.readonly = false;
    assert_int_equal(cbw_create(disks, 1, &options, &cbw, &err), 0);
    assert_int_equal(move(cbw_view(cbw, 0), false, DISK_BYTES, sector, 512), -EINVAL);
    assert_int_equal(move(cbw_view(cbw, 0), false, UINT64_MAX - 100, sector, 512), -EINVAL);
    assert_int_equal(move(cbw_filter(cbw, 0), true, DISK_BYTES - 511, sector, 512), -EINVAL);
    assert_int_equal(cbw_filter(cbw, 0)->ops->write_zeroes(cbw_filter(cbw, 0), UINT64_MAX, 2, true),
                     -EINVAL);
    cbw_destroy(cbw);
    cbw_destroy(NULL);
    disk->block.ops->close(&disk->block);
}

/* ---- A writer that waits ---- */

static void *write_all_of_it(void *opaque)
{
    struct bench *b = opaque;

    put(b->filter, 0, DISK_BYTES, 0xaa);
    return NULL;
}

static void until_it_waits(struct bench *b)
{
    while (!cbw_numbers(b->cbw).waits)
        sched_yield();
}

/* One request that needs ten times the room there is, and a reader that comes from the far end. */
static void test_full_store(void **state)
{
    struct bench b;
    pthread_t writer;

    (void)state;
    begin(&b, 3 * BLOCK, FOR_EVER);
    pthread_create(&writer, NULL, write_all_of_it, &b);
    until_it_waits(&b);
    for (uint64_t n = 41; n--;)
        assert_int_equal(get(&b, n * BLOCK, n < 40 ? BLOCK : 1536), 0);
    pthread_join(writer, NULL);
    assert_int_equal(b.disk->data[0], 0xaa);
    assert_int_equal(b.disk->data[DISK_BYTES - 1], 0xaa);
    assert_true(cbw_numbers(b.cbw).most_bytes <= 3 * BLOCK);
    assert_int_equal(cbw_failure(b.cbw, NULL), 0);
    end(&b);
}

static void test_stop_wakes_the_writer(void **state)
{
    struct bench b;
    pthread_t writer;

    (void)state;
    begin(&b, BLOCK, FOR_EVER);
    pthread_create(&writer, NULL, write_all_of_it, &b);
    until_it_waits(&b);
    cbw_stop(b.cbw);
    pthread_join(writer, NULL);
    assert_int_equal(b.disk->data[DISK_BYTES - 1], 0xaa);
    end(&b);
}

/* ---- Guests at work ---- */

#define DISKS 3
#define STEPS 400

struct guest {
    struct block *disk, *filter, *view;
    struct pool *pool;
    uint64_t seed, chunk_bytes;
    uint8_t *then, *now, *got;
    bool *perhaps; /* by sector: discarded, so it may be zero as well */
    atomic_bool *readers_done;
    pthread_t writer, reader;
};

static void change(struct guest *g)
{
    uint64_t sectors = g->disk->size_bytes / 512;
    uint64_t first = sample_random(&g->seed) % sectors;
    uint64_t most = sample_random(&g->seed) % 4 ? 64 : 600;
    uint64_t count = 1 + sample_random(&g->seed) % most;
    uint64_t kind = sample_random(&g->seed) % 8;
    uint8_t *at = g->now + first * 512;

    count = count < sectors - first ? count : sectors - first;
    uint64_t offset = first * 512, size = count * 512;
    if (kind == 0) {
        assert_int_equal(g->filter->ops->discard(g->filter, offset, size), 0);
    } else if (kind == 1) {
        bool unmap = sample_random(&g->seed) % 2;
        assert_int_equal(g->filter->ops->write_zeroes(g->filter, offset, size, unmap), 0);
        memset(at, 0, size);
    } else {
        for (uint64_t n = 0; n < size; n += 8) {
            uint64_t word = sample_random(&g->seed);
            memcpy(at + n, &word, 8);
        }
        assert_int_equal(move(g->filter, true, offset, at, size), 0);
    }
    for (uint64_t n = first; n < first + count; n++)
        g->perhaps[n] = kind == 0;
    if (sample_random(&g->seed) % 16 == 0)
        assert_int_equal(g->filter->ops->flush(g->filter), 0);
}

static void *write_on(void *opaque)
{
    struct guest *g = opaque;

    for (unsigned step = 0; step < STEPS || !*g->readers_done; step++)
        change(g);
    return NULL;
}

struct fetch {
    struct pool_task task;
    struct guest *guest;
    uint64_t offset;
    size_t size;
    int error;
};

static void fetch(struct pool_task *task)
{
    struct fetch *f = (struct fetch *)task;
    struct iovec iov = {f->guest->got + f->offset, f->size};

    f->error = f->guest->view->ops->read(f->guest->view, &iov, 1, f->offset);
}

/* As image_pack does it. */
static void *read_view(void *opaque)
{
    struct guest *g = opaque;
    uint64_t size = g->view->size_bytes, start = 0, stop = 0, next = 0;
    struct fetch *fetches = calloc(size / g->chunk_bytes + 1, sizeof(*fetches));
    int found;

    while ((found = g->view->ops->next_data(g->view, &start, &stop)) > 0) {
        uint64_t chunk = start / g->chunk_bytes;
        for (chunk = chunk < next ? next : chunk; chunk * g->chunk_bytes < stop; chunk++) {
            uint64_t offset = chunk * g->chunk_bytes, left = size - offset;
            fetches[chunk] = (struct fetch){.task.run = fetch,
                                            .guest = g,
                                            .offset = offset,
                                            .size = left < g->chunk_bytes ? left : g->chunk_bytes};
            pool_submit(g->pool, &fetches[chunk].task);
            next = chunk + 1;
            if (chunk % 4 == 0)
                pool_wait(g->pool, &fetches[chunk].task);
        }
        start = stop;
    }
    assert_int_equal(found, 0);
    for (uint64_t chunk = 0; chunk < next; chunk++)
        if (fetches[chunk].guest) {
            pool_wait(g->pool, &fetches[chunk].task);
            assert_int_equal(fetches[chunk].error, 0);
        }
    free(fetches);
    return NULL;
}

static void fill(struct guest *g)
{
    struct block *disk = g->disk;
    uint64_t size = disk->size_bytes;

    assert_non_null(g->then = calloc(1, size));
    assert_non_null(g->now = calloc(1, size));
    assert_non_null(g->got = calloc(1, size));
    assert_non_null(g->perhaps = calloc(size / 512, sizeof(*g->perhaps)));
    g->filter = disk;
    struct iovec all = {g->now, size};
    assert_int_equal(disk->ops->read(disk, &all, 1, 0), 0);
    for (unsigned step = 0; step < 30; step++)
        change(g);
    assert_int_equal(disk->ops->read(disk, &all, 1, 0), 0); /* discards are decided */
    memset(g->perhaps, 0, size / 512 * sizeof(*g->perhaps));
    memcpy(g->then, g->now, size);
}

static void check(struct guest *g)
{
    uint64_t size = g->disk->size_bytes;
    uint8_t *last = malloc(size);
    struct iovec all = {last, size};

    assert_memory_equal(g->got, g->then, size);
    assert_int_equal(g->disk->ops->read(g->disk, &all, 1, 0), 0);
    for (uint64_t n = 0; n < size; n += 512)
        if (memcmp(last + n, g->now + n, 512) && !(g->perhaps[n / 512] && is_zero(last + n, 512)))
            fail_msg("sector %llu of the disk is not what was written",
                     (unsigned long long)n / 512);
    free(last);
    free(g->then);
    free(g->now);
    free(g->got);
    free(g->perhaps);
}

/* The disks are closed. */
static void guests_at_work(struct block *disks[DISKS], uint64_t seed, uint64_t chunk_bytes)
{
    const struct cbw_options options = {.store_bytes = 4 * BLOCK, .wait_ns = FOR_EVER};
    struct guest guests[DISKS] = {0};
    atomic_bool readers_done = false;
    struct pool *pool;
    struct cbw *cbw;

    assert_int_equal(pool_create(3, &pool, NULL), 0);
    for (unsigned i = 0; i < DISKS; i++) {
        guests[i] = (struct guest){.disk = disks[i],
                                   .pool = pool,
                                   .seed = seed * DISKS + i + 1,
                                   .chunk_bytes = chunk_bytes,
                                   .readers_done = &readers_done};
        fill(&guests[i]);
    }
    assert_int_equal(cbw_create(disks, DISKS, &options, &cbw, NULL), 0);
    for (unsigned i = 0; i < DISKS; i++) {
        guests[i].filter = cbw_filter(cbw, i);
        guests[i].view = cbw_view(cbw, i);
        pthread_create(&guests[i].writer, NULL, write_on, &guests[i]);
    }
    for (unsigned i = 0; i < DISKS; i++)
        pthread_create(&guests[i].reader, NULL, read_view, &guests[i]);
    for (unsigned i = 0; i < DISKS; i++)
        pthread_join(guests[i].reader, NULL);
    readers_done = true;
    cbw_stop(cbw);
    for (unsigned i = 0; i < DISKS; i++)
        pthread_join(guests[i].writer, NULL);
    assert_int_equal(cbw_failure(cbw, NULL), -ECANCELED);
    assert_true(cbw_numbers(cbw).most_bytes <= 4 * BLOCK);
    cbw_destroy(cbw);
    for (unsigned i = 0; i < DISKS; i++) {
        check(&guests[i]);
        disks[i]->ops->close(disks[i]);
    }
    pool_destroy(pool);
}

static void test_memory_disks(void **state)
{
    static const uint64_t chunks[] = {4096, BLOCK, 4 * BLOCK};

    (void)state;
    for (unsigned round = 0; round < 12; round++) {
        struct block *disks[DISKS];
        for (unsigned i = 0; i < DISKS; i++)
            disks[i] = &memory_disk_new(DISK_BYTES - i * BLOCK / 2)->block;
        guests_at_work(disks, round, chunks[round % 3]);
    }
}

static void test_raw_files(void **state)
{
    char folder[] = "/tmp/ferry-cbw-XXXXXX", path[64];

    (void)state;
    assert_non_null(mkdtemp(folder));
    for (unsigned round = 0; round < 3; round++) {
        struct block *disks[DISKS];
        for (unsigned i = 0; i < DISKS; i++) {
            snprintf(path, sizeof(path), "%s/%u", folder, i);
            int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_TRUNC, 0600);
            assert_true(fd >= 0);
            assert_int_equal(ftruncate(fd, (off_t)DISK_BYTES), 0);
            close(fd);
            assert_int_equal(raw_file_open(path, false, 0, false, &disks[i], NULL), 0);
            assert_int_equal(disks[i]->ops->activate(disks[i], NULL), 0);
            unlink(path);
        }
        guests_at_work(disks, round, 4 * BLOCK);
    }
    assert_int_equal(rmdir(folder), 0);
}

static void test_image_disks(void **state)
{
    char folder[] = "/tmp/ferry-cbw-XXXXXX", path[64];
    struct sample sample = {0};
    struct block *disks[DISKS];

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/image", folder);
    snprintf(sample.manifest, sizeof(sample.manifest), "{}");
    sample_add(&sample, IMAGE_DISK, "vda", DISK_BYTES, 65536, 5);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(sample_write(&sample, fd, NULL, NULL, NULL), 0);
    close(fd);
    const struct image_disk_options options = {.image = path, .overlay = folder, .temporary = true};
    for (unsigned i = 0; i < DISKS; i++) {
        assert_int_equal(image_disk_open(&options, &disks[i], NULL), 0);
        assert_int_equal(disks[i]->ops->activate(disks[i], NULL), 0);
    }
    guests_at_work(disks, 7, 4 * BLOCK);
    sample_free(&sample);
    unlink(path);
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was),
        cmocka_unit_test(test_in_parts),
        cmocka_unit_test(test_too_many_parts),
        cmocka_unit_test(test_holes),
        cmocka_unit_test(test_discard_is_a_hint),
        cmocka_unit_test(test_stuck_reader),
        cmocka_unit_test(test_holes_in_a_full_store),
        cmocka_unit_test(test_failing_disk),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_full_store),
        cmocka_unit_test(test_stop_wakes_the_writer),
        cmocka_unit_test(test_memory_disks),
        cmocka_unit_test(test_raw_files),
        cmocka_unit_test(test_image_disks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
