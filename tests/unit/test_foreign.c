/* Foreign disks: sources, raw, and the pipeline from disk to writer. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/content.h"
#include "imagefmt/foreign/codec.h"
#include "imagefmt/foreign/copy.h"
#include "imagefmt/foreign/sink.h"
#include "imagefmt/foreign/source.h"

#define DISK_BYTES (5 * MIB + 1000)

static int new_file(void)
{
    int fd = memfd_create("disk", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

/* Data at the start, across pieces, zeroes that are data, a hole, and a last odd part. */
static int sample_disk(void)
{
    static uint8_t bytes[300000];
    int fd = new_file();

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7 + i / 999 + 1);
    memset(bytes + 40960, 0, 65536);
    assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
    assert_int_equal(pwrite_all(fd, bytes, 200000, 100), 0);
    assert_int_equal(pwrite_all(fd, bytes, sizeof(bytes), 2 * MIB - 70000), 0);
    assert_int_equal(pwrite_all(fd, bytes, 999, DISK_BYTES - 999), 0);
    return fd;
}

static void copy_raw(int from, int to, bool in_order, struct disk_copy_result *result)
{
    const struct disk_copy_options options = {.workers = 2, .digest = true};
    const struct disk_write_options write = {.size_bytes = DISK_BYTES};
    CLEANUP(source_cleanup) struct source *source = NULL;
    struct disk_writer *writer = NULL;
    struct disk *disk = NULL;
    struct fd_sink sink;

    assert_int_equal(source_of_fd(from, "from", &source, NULL), 0);
    assert_int_equal(disk_format_raw.open(source, NULL, &disk, NULL), 0);
    sink_of_fd(&sink, to, "to", in_order);
    assert_int_equal(disk_format_raw.create(&sink.sink, &write, &writer, NULL), 0);
    assert_int_equal(disk_copy(disk, writer, DISK_BYTES, &options, result, NULL), 0);
    disk_format_raw.destroy(writer);
    disk_format_raw.close(disk);
}

static void assert_same(int a, int b)
{
    static uint8_t one[DISK_BYTES], other[DISK_BYTES];
    struct stat st;

    assert_int_equal(fstat(b, &st), 0);
    assert_int_equal(st.st_size, DISK_BYTES);
    assert_int_equal(pread_all(a, one, DISK_BYTES, 0), 0);
    assert_int_equal(pread_all(b, other, DISK_BYTES, 0), 0);
    assert_memory_equal(one, other, DISK_BYTES);
}

static void test_raw_round_trip(void **state)
{
    uint8_t digest[SHA256_BYTES];
    CLEANUP_FD int from = sample_disk();

    (void)state;
    assert_int_equal(content_digest_file(from, "from", DISK_BYTES, 1, NULL, NULL, digest, NULL), 0);
    for (int in_order = 0; in_order < 2; in_order++) {
        struct disk_copy_result result;
        CLEANUP_FD int to = new_file();
        copy_raw(from, to, in_order, &result);
        assert_same(from, to);
        assert_memory_equal(result.digest, digest, SHA256_BYTES);
        assert_true(result.content_bytes < 600000);
        struct stat st;
        assert_int_equal(fstat(to, &st), 0);
        if (!in_order)
            assert_true((uint64_t)st.st_blocks * 512 < 600000);
    }
}

static void test_sources_stay_within_their_size(void **state)
{
    CLEANUP(source_cleanup) struct source *memory = NULL;
    CLEANUP(source_cleanup) struct source *part = NULL;
    CLEANUP(source_cleanup) struct source *none = NULL;
    struct ferry_error err = {0};
    uint8_t bytes[8];

    (void)state;
    assert_int_equal(source_of_memory("0123456789", 10, "ten", &memory, &err), 0);
    assert_int_equal(source_of_part(memory, 2, 6, &part, &err), 0);
    assert_int_equal(part->pread(part, 1, bytes, 5, &err), 0);
    assert_memory_equal(bytes, "34567", 5);
    assert_int_equal(part->pread(part, 1, bytes, 6, &err), -EBADMSG);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_int_equal(part->pread(part, UINT64_MAX, bytes, 2, &err), -EBADMSG);
    assert_int_equal(memory->pread(memory, 10, bytes, 0, &err), 0);
    assert_int_equal(source_of_part(memory, 5, 6, &none, &err), -EBADMSG);
}

static void test_a_failed_read_ends_the_copy(void **state)
{
    const struct disk_copy_options options = {.workers = 2};
    struct disk_copy_result result;
    struct ferry_error err = {0};
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP_FD int from = sample_disk();
    struct disk *disk = NULL;

    (void)state;
    assert_int_equal(source_of_fd(from, "from", &source, NULL), 0);
    assert_int_equal(disk_format_raw.open(source, NULL, &disk, NULL), 0);
    assert_int_equal(ftruncate(from, 100000), 0);
    assert_int_equal(disk_digest(disk, DISK_BYTES, &options, &result, &err), -ENODATA);
    assert_string_equal(err.about, "from");
    struct progress progress = {.cancelled = true};
    const struct disk_copy_options cancelled = {.progress = &progress};
    assert_int_equal(ftruncate(from, DISK_BYTES), 0);
    assert_int_equal(disk_digest(disk, DISK_BYTES, &cancelled, &result, &err), -ECANCELED);
    disk_format_raw.close(disk);
}

static void test_codecs(void **state)
{
    static const enum codec_kind kinds[] = {CODEC_DEFLATE, CODEC_ZLIB, CODEC_ZSTD};
    uint8_t content[4096], stored[8192], back[4097];
    struct codec *codec;

    (void)state;
    for (size_t i = 0; i < sizeof(content); i++)
        content[i] = (uint8_t)(i / 64);
    for (size_t k = 0; k < 3; k++) {
        size_t used = 0;
        assert_int_equal(codec_create(kinds[k], 0, &codec, NULL), 0);
        size_t size = codec_compress(codec, content, sizeof(content), stored,
                                     codec_bound(codec, sizeof(content)));
        assert_in_range(size, 1, 1000);
        memset(stored + size, 0xa5, 100); /* what follows does not matter */
        assert_int_equal(codec_decompress(codec, stored, size + 100, back, sizeof(content), &used),
                         0);
        assert_int_equal(used, size);
        assert_memory_equal(back, content, sizeof(content));
        /* one byte less, one more, cut short */
        assert_int_equal(codec_decompress(codec, stored, size, back, 4095, NULL), -EBADMSG);
        assert_int_equal(codec_decompress(codec, stored, size, back, 4097, NULL), -EBADMSG);
        assert_int_equal(codec_decompress(codec, stored, size - 1, back, 4096, NULL), -EBADMSG);
        assert_int_equal(codec_compress(codec, content, sizeof(content), stored, 8), 0);
        codec_destroy(codec);
        assert_int_equal(codec_create(kinds[k], 20, &codec, NULL), -EINVAL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_raw_round_trip),
        cmocka_unit_test(test_sources_stay_within_their_size),
        cmocka_unit_test(test_a_failed_read_ends_the_copy),
        cmocka_unit_test(test_codecs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
