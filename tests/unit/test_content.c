/* The identity of content: against a naive tree, and the same whoever computes it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/content.h"
#include "tests/support/image_sample.h"

/* FORMAT.md to the letter: the node of this level at byte `at`. */
static void naive_node(const uint8_t *data, uint64_t size, uint64_t at, unsigned level,
                       uint8_t node[SHA256_BYTES])
{
    uint8_t leaf[4096] = {0}, pair[64];
    static const uint8_t zero[4096];

    memset(node, 0, SHA256_BYTES);
    if (at >= size)
        return;
    if (!level) {
        memcpy(leaf, data + at, size - at < 4096 ? size - at : 4096);
        if (memcmp(leaf, zero, 4096))
            sha256(leaf, 4096, node);
        return;
    }
    naive_node(data, size, at, level - 1, pair);
    naive_node(data, size, at + (UINT64_C(2048) << level), level - 1, pair + 32);
    if (memcmp(pair, zero, 64))
        sha256(pair, 64, node);
}

static void naive_digest(const uint8_t *data, uint64_t size, uint8_t digest[SHA256_BYTES])
{
    uint8_t text[40];
    uint64_t wire = htole64(size);
    unsigned level = 10;

    while ((UINT64_C(4096) << level) < size)
        level++;
    memcpy(text, &wire, 8);
    naive_node(data, size, 0, level, text + 8);
    sha256(text, sizeof(text), digest);
}

static const uint64_t sizes[] = {0,         1,       511,     4096,    4097,         65535,  65536,
                                 65536 + 9, 3 * MIB, 4 * MIB, 4194305, 5 * MIB + 77, 9 * MIB};

static void test_sizes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        struct sample sample = {.manifest = "{}"};
        uint8_t want[SHA256_BYTES], got[SHA256_BYTES], node[SHA256_BYTES];
        sample_add(&sample, IMAGE_DISK, "vda", sizes[i], 65536, i + 1);
        const uint8_t *content = sample.sections[0].content;
        naive_digest(content, sizes[i], want);
        CLEANUP_FD int fd = sample_fd(content, sizes[i]);
        assert_int_equal(content_digest_file(fd, "x", sizes[i], 2, NULL, NULL, got, NULL), 0);
        assert_memory_equal(want, got, SHA256_BYTES);
        for (uint64_t chunk = LIMIT_CHUNK_MIN_BYTES; chunk <= LIMIT_CHUNK_BYTES; chunk *= 2) {
            struct content_tree tree = {0};
            for (uint64_t at = 0; at < sizes[i]; at += chunk) {
                uint64_t part = sizes[i] - at < chunk ? sizes[i] - at : chunk;
                content_node(content + at, part, content_level(chunk), node);
                if (!content_is_zero(node))
                    content_add(&tree, at / chunk, content_level(chunk), node);
            }
            content_digest(&tree, sizes[i], got);
            assert_memory_equal(want, got, SHA256_BYTES);
        }
        sample_free(&sample);
    }
}

/* Size, place and content all count. */
static void test_distinct(void **state)
{
    static uint8_t data[3 * 65536];
    uint8_t one[SHA256_BYTES], other[SHA256_BYTES];

    (void)state;
    naive_digest(data, 4096, one);
    naive_digest(data, 8192, other);
    assert_memory_not_equal(one, other, SHA256_BYTES);
    data[0] = 1;
    naive_digest(data, sizeof(data), one);
    data[0] = 0;
    data[65536] = 1;
    naive_digest(data, sizeof(data), other);
    assert_memory_not_equal(one, other, SHA256_BYTES);
}

/* Written in any chunk size and level: one digest, one root. */
static void test_chunk_size_does_not_matter(void **state)
{
    uint8_t roots[2][SHA256_BYTES], digest[SHA256_BYTES];
    static const uint32_t chunks[] = {4096, 8192, 65536, 262144, 4194304};

    (void)state;
    for (size_t i = 0; i < sizeof(chunks) / sizeof(*chunks); i++) {
        struct sample sample = {.manifest = "{}"};
        struct image_summary summary;
        CLEANUP_FD int fd = memfd_create("image", MFD_CLOEXEC);
        struct image_writer_options options = {.level = (int)i + 1};
        sample_add(&sample, IMAGE_DISK, "vda", 5 * MIB + 3, 65536, 8);
        sample.sections[0].chunk_bytes = chunks[i];
        assert_int_equal(sample_write(&sample, fd, &options, roots[!!i], NULL), 0);
        assert_memory_equal(roots[0], roots[!!i], SHA256_BYTES);
        assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
        assert_int_equal(sample_compare(&sample, fd, 2, &summary, NULL), 0);
        assert_memory_equal(roots[0], summary.root, SHA256_BYTES);
        naive_digest(sample.sections[0].content, sample.sections[0].size, digest);
        sample_free(&sample);
    }
}

/* 64 TiB of hole with data at both ends: nothing is read between them. */
static void test_hole(void **state)
{
    CLEANUP_FD int fd = memfd_create("disk", MFD_CLOEXEC);
    uint8_t got[SHA256_BYTES], want[SHA256_BYTES], node[SHA256_BYTES];
    struct content_tree tree = {0};
    uint64_t last = LIMIT_DISK_BYTES - 4096;

    (void)state;
    if (ftruncate(fd, (off_t)LIMIT_DISK_BYTES)) {
        print_message("SKIPPED: no sparse file of 64 TiB here\n");
        skip();
    }
    assert_int_equal(pwrite_all(fd, "a", 1, 0), 0);
    assert_int_equal(pwrite_all(fd, "z", 1, last), 0);
    assert_int_equal(content_digest_file(fd, "x", LIMIT_DISK_BYTES, 0, NULL, NULL, got, NULL), 0);
    content_node("a", 1, 0, node);
    content_add(&tree, 0, 0, node);
    content_node("z", 1, 0, node);
    content_add(&tree, last / 4096, 0, node);
    content_digest(&tree, LIMIT_DISK_BYTES, want);
    assert_memory_equal(want, got, SHA256_BYTES);
    assert_int_equal(content_digest_file(fd, "x", LIMIT_DISK_BYTES + 1, 0, NULL, NULL, got, NULL),
                     -EFBIG);
}

static int stop(void *opaque, uint64_t done, struct ferry_error *err)
{
    (void)opaque;
    (void)done;
    return ferry_fail(err, -ECANCELED, NULL, "stopped");
}

static void test_report_stops(void **state)
{
    static uint8_t data[3 * MIB];
    uint8_t got[SHA256_BYTES];

    (void)state;
    memset(data, 1, sizeof(data));
    CLEANUP_FD int fd = sample_fd(data, sizeof(data));
    assert_int_equal(content_digest_file(fd, "x", sizeof(data), 1, stop, NULL, got, NULL),
                     -ECANCELED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_distinct),
        cmocka_unit_test(test_chunk_size_does_not_matter),
        cmocka_unit_test(test_hole),
        cmocka_unit_test(test_report_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
