/*
 * Guests at work on disks that are read, of each kind: every byte read must be that of the instant
 * T, and every byte of the disk in the end the guest's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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
#define DISKS      3
#define STEPS      400

struct guest {
    struct block *disk, *filter, *view;
    struct pool *pool;
    uint64_t seed, chunk_bytes;
    uint8_t *then, *now, *got;
    bool then_data[DISK_BYTES / BLOCK + 1]; /* by block: no hole at T */
    bool *perhaps;                          /* by sector: discarded, so it may be zero as well */
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
        const struct iovec iov[] = {{at, size / 3}, {at + size / 3, size - size / 3}};
        assert_int_equal(g->filter->ops->write(g->filter, iov, 2, offset), 0);
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

/* No block of [first, end) was data at T, or all were. */
static void were_data(const struct guest *g, uint64_t first, uint64_t end, bool data)
{
    for (uint64_t n = first / BLOCK; first < end && n * BLOCK < end; n++)
        if (g->then_data[n] != data) {
            fprintf(stderr, "block %d was %s\n", (int)n, data ? "a hole" : "data");
            abort(); /* on a thread of its own */
        }
}

/* As image_pack does it. */
static void *read_view(void *opaque)
{
    struct guest *g = opaque;
    uint64_t size = g->view->size_bytes, start = 0, stop = 0, next = 0, last = 0;
    struct fetch *fetches = calloc(size / g->chunk_bytes + 1, sizeof(*fetches));
    int found;

    while ((found = g->view->ops->next_data(g->view, &start, &stop)) > 0) {
        uint64_t chunk = start / g->chunk_bytes;
        if (g->chunk_bytes <= BLOCK) { /* else some of it has been read already */
            were_data(g, last, start, false);
            were_data(g, start, stop, true);
        }
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
        start = last = stop;
    }
    assert_int_equal(found, 0);
    were_data(g, last, g->chunk_bytes <= BLOCK ? size : last, false);
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
    for (uint64_t start = 0, stop; disk->ops->next_data(disk, &start, &stop) > 0; start = stop)
        for (uint64_t n = start / BLOCK; n * BLOCK < stop; n++)
            g->then_data[n] = true;
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
        guests_at_work(disks, round, round == 1 ? 4 * BLOCK : BLOCK);
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
        cmocka_unit_test(test_memory_disks),
        cmocka_unit_test(test_raw_files),
        cmocka_unit_test(test_image_disks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
