/* Packing a disk: data is read once, holes never, and every chunk ends up where it belongs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "imagefmt/image.h"
#include "imagefmt/pack.h"
#include "tests/support/image_sample.h"

#define CHUNK  UINT64_C(16384)
#define CHUNKS 40
#define BYTES  (CHUNKS * CHUNK + 1000)

/* Runs of data that begin and end within chunks, some of them in one chunk. */
static const struct run {
    uint64_t start, end;
} runs[] = {
    {100, 200},
    {300, CHUNK + 1},
    {2 * CHUNK - 1, 2 * CHUNK},
    {5 * CHUNK, 9 * CHUNK},
    {9 * CHUNK + 5, 9 * CHUNK + 6},
    {9 * CHUNK + 8000, 12 * CHUNK + 1},
    {CHUNKS * CHUNK + 999, UINT64_MAX}, /* to the end, wherever it is */
};

struct disk {
    atomic_uint reads[CHUNKS + 1];
    unsigned asked;
    int fails;
    bool slow;        /* but for the chunk that fails */
    atomic_bool over; /* nobody may read any more */
};

static uint8_t content_at(uint64_t at)
{
    for (size_t i = 0; i < sizeof(runs) / sizeof(*runs); i++)
        if (at >= runs[i].start && at < runs[i].end)
            return (uint8_t)(1 + at % 251);
    return 0;
}

static int read_disk(void *opaque, uint64_t offset, void *data, size_t size)
{
    struct disk *disk = opaque;
    uint8_t *bytes = data;

    assert_true(offset % CHUNK == 0 && offset + size <= BYTES);
    if (disk->slow && offset)
        usleep(20000);
    assert_false(atomic_load(&disk->over));
    atomic_fetch_add(&disk->reads[offset / CHUNK], 1);
    for (size_t i = 0; i < size; i++)
        bytes[i] = content_at(offset + i);
    return offset ? 0 : disk->fails;
}

static int next_data(void *opaque, uint64_t *start, uint64_t *end)
{
    struct disk *disk = opaque;

    disk->asked++;
    for (size_t i = 0; i < sizeof(runs) / sizeof(*runs); i++)
        if (*start < runs[i].end) {
            *start = *start > runs[i].start ? *start : runs[i].start;
            *end = runs[i].end;
            return 1;
        }
    return 0;
}

static int pack(struct disk *disk, int fd, unsigned workers, struct ferry_error *err)
{
    const struct pack_source source = {.read = read_disk,
                                       .next_data = next_data,
                                       .opaque = disk,
                                       .size_bytes = BYTES,
                                       .about = "disk"};
    struct image_writer *w = NULL;

    int error = image_writer_create(fd, &(struct image_writer_options){.workers = workers}, "{}", 2,
                                    &w, err);
    if (!error)
        error = image_pack(w, IMAGE_DISK, "vda", CHUNK, &source, err);
    if (error)
        atomic_store(&disk->over, true);
    if (!error)
        error = image_writer_finish(w, NULL, err);
    image_writer_destroy(w);
    return error;
}

static void test_once(void **state)
{
    (void)state;
    for (unsigned workers = 1; workers < 9; workers++) {
        struct disk disk = {0};
        struct ferry_error err = {0};
        struct sample sample = {.manifest = "{}"};
        CLEANUP_FD int fd = sample_fd(NULL, 0);
        assert_int_equal(pack(&disk, fd, workers, &err), 0);
        for (unsigned i = 0; i <= CHUNKS; i++) {
            bool data = i <= 1 || (i >= 5 && i <= 12) || i == CHUNKS;
            assert_int_equal(disk.reads[i], data);
        }
        assert_in_range(disk.asked, 1, sizeof(runs) / sizeof(*runs) + 1);
        sample_add(&sample, IMAGE_DISK, "vda", BYTES, CHUNK, 1);
        for (size_t i = 0; i < BYTES; i++)
            sample.sections[0].content[i] = content_at(i);
        assert_int_equal(sample_access(&sample, fd, &err), 0);
        sample_free(&sample);
    }
}

static void test_read_error(void **state)
{
    struct disk disk = {.fails = -EIO};
    struct ferry_error err = {0};
    CLEANUP_FD int fd = sample_fd(NULL, 0);

    (void)state;
    assert_int_equal(pack(&disk, fd, 2, &err), -EIO);
    assert_int_equal(err.kind, FERRY_FAILED);
    assert_non_null(strstr(err.message, "cannot read at byte 0"));
}

/* The source belongs to its caller when packing has failed: no worker is still at it. */
static void test_nobody_reads_on(void **state)
{
    struct disk disk = {.fails = -EIO, .slow = true};
    CLEANUP_FD int fd = sample_fd(NULL, 0);

    (void)state;
    assert_int_equal(pack(&disk, fd, 8, NULL), -EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_once),
        cmocka_unit_test(test_read_error),
        cmocka_unit_test(test_nobody_reads_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
