/*
 * Copy before write: the steps one by one, and what happens when the store is full, when the reader
 * is stuck and when the disk fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "common/zero.h"
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

/* Is [first, last), in one run or several, what next_data says from *start on?  *start: last. */
static bool next_is(struct bench *b, uint64_t *start, uint64_t first, uint64_t last)
{
    uint64_t stop = 0;

    for (uint64_t at = first; at != last; at = stop) {
        if (b->view->ops->next_data(b->view, start, &stop) <= 0)
            return first == UINT64_MAX;
        if (*start != at || stop > last)
            return false;
        *start = stop;
    }
    return true;
}

/* What next_data says is what it was at T, whatever happens. */
static void test_holes(void **state)
{
    struct bench b;

    (void)state;
    begin(&b, 0, 0);
    for (unsigned round = 0; round < 4; round++) {
        uint64_t at = 0;
        for (uint64_t n = 0; n < 39; n += 3)
            assert_true(next_is(&b, &at, n * BLOCK, (n + 2) * BLOCK));
        assert_true(next_is(&b, &at, 39 * BLOCK, DISK_BYTES));
        assert_true(next_is(&b, &at, UINT64_MAX, 0));
        at = 7 * BLOCK + 512; /* from within a block, and from within a hole */
        assert_true(next_is(&b, &at, 7 * BLOCK + 512, 8 * BLOCK));
        at = 8 * BLOCK + 512;
        assert_true(next_is(&b, &at, 9 * BLOCK, 11 * BLOCK));
        if (round == 0) { /* holes get data */
            put(b.filter, 2 * BLOCK, BLOCK, 0xaa);
            put(b.filter, 5 * BLOCK, 512, 0xaa);
            put(b.filter, 11 * BLOCK + 512, 512, 0xaa);
            assert_int_equal(cbw_numbers(b.cbw).copied_bytes, 0);
        } else if (round == 1) { /* data becomes holes */
            assert_int_equal(b.filter->ops->write_zeroes(b.filter, 0, 10 * BLOCK, true), 0);
            assert_int_equal(b.filter->ops->write_zeroes(b.filter, 39 * BLOCK, BLOCK, true), 0);
            assert_false(b.disk->has_data[6]);
        } else if (round == 2) { /* all of it */
            assert_int_equal(b.filter->ops->write_zeroes(b.filter, 0, DISK_BYTES, true), 0);
            memset(b.disk->has_data, 0, 41 * sizeof(*b.disk->has_data));
        }
    }
    assert_int_equal(get(&b, 0, DISK_BYTES), 0);
    end(&b);
}

/* Zeroes that were no hole, and become one. */
static void test_zeroes(void **state)
{
    struct bench b;
    uint64_t at = 2 * BLOCK;

    (void)state;
    begin(&b, BLOCK, FOR_EVER);
    b.disk->has_data[2] = b.disk->has_data[5] = true;
    assert_int_equal(b.filter->ops->write_zeroes(b.filter, 2 * BLOCK, BLOCK, true), 0);
    put(b.filter, 5 * BLOCK, BLOCK, 0xaa);
    assert_false(b.disk->has_data[2]);
    assert_true(next_is(&b, &at, 2 * BLOCK, 3 * BLOCK));
    assert_true(next_is(&b, &at, 3 * BLOCK, 8 * BLOCK));
    assert_int_equal(cbw_numbers(b.cbw).copied_bytes, 0);
    assert_int_equal(get(&b, 0, 6 * BLOCK), 0);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was),       cmocka_unit_test(test_in_parts),
        cmocka_unit_test(test_too_many_parts), cmocka_unit_test(test_holes),
        cmocka_unit_test(test_zeroes),         cmocka_unit_test(test_discard_is_a_hint),
        cmocka_unit_test(test_stuck_reader),   cmocka_unit_test(test_holes_in_a_full_store),
        cmocka_unit_test(test_failing_disk),   cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_full_store),     cmocka_unit_test(test_stop_wakes_the_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
