/* A disk on an image, through the block interface: files, locks, content, and what is data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snapshot/image_disk.h"
#include "tests/support/image_sample.h"

#define DISK_BYTES (3 * MIB + 1536)

struct bench {
    char folder[64], image[96], overlay[96];
    struct sample sample;
    uint8_t *content; /* as the guest should see it */
};

static void setup_bench(struct bench *b)
{
    memset(b, 0, sizeof(*b));
    snprintf(b->folder, sizeof(b->folder), "/tmp/ferry-image-disk.XXXXXX");
    assert_non_null(mkdtemp(b->folder));
    snprintf(b->image, sizeof(b->image), "%s/a.ferry", b->folder);
    snprintf(b->overlay, sizeof(b->overlay), "%s/a.overlay", b->folder);
    snprintf(b->sample.manifest, sizeof(b->sample.manifest), "{}");
    sample_add(&b->sample, IMAGE_DISK, "vda", DISK_BYTES, 65536, 5);
    int fd = open(b->image, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(sample_write(&b->sample, fd, NULL, NULL, NULL), 0);
    close(fd);
    assert_non_null(b->content = malloc(DISK_BYTES));
    memcpy(b->content, b->sample.sections[0].content, DISK_BYTES);
}

static void teardown_bench(struct bench *b)
{
    unlink(b->image);
    unlink(b->overlay);
    assert_int_equal(rmdir(b->folder), 0); /* nothing else was left there */
    sample_free(&b->sample);
    free(b->content);
}

static struct block *open_disk(const struct bench *b, bool readonly, bool temporary)
{
    const struct image_disk_options options = {.image = b->image,
                                               .overlay = temporary ? b->folder : b->overlay,
                                               .readonly = readonly,
                                               .temporary = temporary};
    struct ferry_error err = {0};
    struct block *block;

    if (image_disk_open(&options, &block, &err))
        fail_msg("%s: %s", err.about, err.message);
    assert_int_equal(block->size_bytes, DISK_BYTES);
    return block;
}

static struct block *active_disk(const struct bench *b, bool readonly, bool temporary)
{
    struct block *block = open_disk(b, readonly, temporary);

    assert_int_equal(block->ops->activate(block, NULL), 0);
    return block;
}

static void expect_content(struct block *block, const struct bench *b)
{
    uint8_t *got = malloc(DISK_BYTES);
    struct iovec iov[] = {{got, 1000}, {got + 1000, 70000}, {got + 71000, DISK_BYTES - 71000}};

    assert_non_null(got);
    assert_int_equal(block->ops->read(block, iov, 3, 0), 0);
    assert_memory_equal(got, b->content, DISK_BYTES);
    free(got);
}

static void put(struct block *block, struct bench *b, uint64_t offset, int byte, size_t size)
{
    memset(b->content + offset, byte, size);
    struct iovec iov[] = {{b->content + offset, size / 2},
                          {b->content + offset + size / 2, size - size / 2}};
    assert_int_equal(block->ops->write(block, iov, 2, offset), 0);
}

/* All that reads as something is said to be data. */
static void expect_data_runs(struct block *block, const struct bench *b)
{
    uint64_t start = 0, end = 0, at = 0;
    int found;

    while ((found = block->ops->next_data(block, &start, &end)) > 0) {
        assert_true(start >= at && end > start && end <= DISK_BYTES);
        for (; at < start; at++)
            assert_int_equal(b->content[at], 0);
        at = start = end;
    }
    assert_int_equal(found, 0);
    for (; at < DISK_BYTES; at++)
        assert_int_equal(b->content[at], 0);
}

static void test_changes_stay(void **state)
{
    (void)state;
    struct bench b;
    setup_bench(&b);
    struct block *block = active_disk(&b, false, false);

    expect_content(block, &b);
    put(block, &b, 512, 0x11, 1024);
    put(block, &b, 65536 - 512, 0x22, 200000);
    put(block, &b, DISK_BYTES - 512, 0x33, 512);
    assert_int_equal(block->ops->discard(block, 1 * MIB, 100 * KIB), 0);
    memset(b.content + 1 * MIB, 0, 100 * KIB);
    assert_int_equal(block->ops->write_zeroes(block, 2 * MIB, 512, true), 0);
    memset(b.content + 2 * MIB, 0, 512);
    expect_content(block, &b);
    expect_data_runs(block, &b);
    assert_int_equal(block->ops->flush(block), 0);
    block->ops->close(block); /* as a crash would: no release */

    block = active_disk(&b, false, false);
    expect_content(block, &b);
    assert_int_equal(block->ops->release(block, NULL), 0);
    assert_false(block->active);
    assert_int_equal(block->ops->activate(block, NULL), 0);
    expect_content(block, &b);
    block->ops->close(block);

    /* The image itself has not changed. */
    int fd = open(b.image, O_RDONLY);
    assert_int_equal(sample_compare(&b.sample, fd, 1, NULL, NULL), 0);
    close(fd);
    teardown_bench(&b);
}

static void test_readonly_and_temporary(void **state)
{
    (void)state;
    struct bench b;
    setup_bench(&b);
    struct block *reader = active_disk(&b, true, false), *other = active_disk(&b, true, false);
    struct iovec iov = {b.content, 512};
    struct ferry_error err;

    expect_content(reader, &b);
    assert_int_equal(reader->ops->write(reader, &iov, 1, 0), -EROFS);
    assert_int_equal(reader->ops->discard(reader, 0, 512), -EROFS);
    assert_int_equal(access(b.overlay, F_OK), -1);
    other->ops->close(other);
    struct block *brief = active_disk(&b, false, true);
    uint8_t before = b.content[0];
    put(brief, &b, 0, 0x44, 4096);
    expect_content(brief, &b);
    assert_int_equal(brief->ops->flush(brief), 0);
    assert_int_equal(brief->ops->release(brief, &err), -ENOTSUP);
    brief->ops->close(brief);
    memcpy(b.content, b.sample.sections[0].content, 4096);
    assert_int_equal(b.content[0], before);
    expect_content(reader, &b);
    reader->ops->close(reader);
    teardown_bench(&b);
}

static void test_refusals(void **state)
{
    (void)state;
    struct bench b;
    setup_bench(&b);
    struct block *first = active_disk(&b, false, false), *second = open_disk(&b, false, false);
    struct iovec iov = {b.content, 1024};
    struct ferry_error err;

    assert_int_equal(second->ops->activate(second, &err), -EBUSY);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_int_equal(second->ops->read(second, &iov, 1, 0), -EBADF);
    assert_int_equal(first->ops->read(first, &iov, 1, DISK_BYTES - 512), -EINVAL);
    assert_int_equal(first->ops->write(first, &iov, 1, UINT64_MAX - 511), -EINVAL);
    assert_int_equal(first->ops->discard(first, DISK_BYTES, 512), -EINVAL);
    first->ops->close(first);
    assert_int_equal(second->ops->activate(second, &err), 0);
    second->ops->close(second);

    /* Something else has the overlay's name. */
    unlink(b.overlay);
    assert_int_equal(symlink("/dev/null", b.overlay), 0);
    second = open_disk(&b, false, false);
    assert_true(second->ops->activate(second, &err) < 0);
    second->ops->close(second);
    unlink(b.overlay);
    int fd = open(b.overlay, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "hello", 5), 5);
    close(fd);
    second = open_disk(&b, false, false);
    assert_int_equal(second->ops->activate(second, &err), -EBADMSG);
    assert_int_equal(err.kind, FERRY_REFUSED);
    second->ops->close(second);

    const struct image_disk_options nobody = {
        .image = b.image, .section = "vdb", .overlay = b.overlay};
    assert_true(image_disk_open(&nobody, &second, &err) < 0);
    assert_int_equal(err.kind, FERRY_USAGE);
    teardown_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes_stay),
        cmocka_unit_test(test_readonly_and_temporary),
        cmocka_unit_test(test_refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
