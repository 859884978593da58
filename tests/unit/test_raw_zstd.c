/* Raw content in zstd frames: there and back, holes that cost nothing, and what is no such thing.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <zstd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/zero.h"
#include "imagefmt/foreign/copy.h"
#include "imagefmt/foreign/raw_zstd.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"
#include "tests/support/disk_sample.h"

#define ODD_BYTES (9 * MIB + 777)

static uint64_t file_bytes(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_size;
}

static struct disk *open_zstd(struct stream *stream, uint64_t size)
{
    const struct disk_open_options options = {.size_bytes = size};
    struct disk *disk = NULL;

    assert_int_equal(disk_format_raw_zstd.open_stream(stream, &options, &disk, NULL), 0);
    return disk;
}

/* All of disk is as raw has it, and what is told as zero is; returns the bytes read as data. */
static uint64_t compare(struct disk *disk, int raw, struct ferry_error *err)
{
    static uint8_t one[MIB], two[MIB];
    uint64_t data = 0;
    struct disk_extent extent;

    for (uint64_t at = 0; at < disk->size_bytes; at += extent.size_bytes) {
        if (disk->format->extent(disk, at, &extent, err))
            return UINT64_MAX;
        if (extent.kind == DISK_ZERO && disk->size_bytes > TIB)
            continue;
        for (uint64_t part, in = 0; in < extent.size_bytes; in += part) {
            part = extent.size_bytes - in < MIB ? extent.size_bytes - in : MIB;
            assert_int_equal(pread_all(raw, two, part, at + in), 0);
            if (extent.kind == DISK_ZERO) {
                assert_true(is_zero(two, part));
                continue;
            }
            data += part;
            if (disk->format->read(disk, at + in, one, part, err))
                return UINT64_MAX;
            assert_memory_equal(one, two, part);
        }
    }
    return disk->format->drain(disk, err) ? UINT64_MAX : data;
}

static void test_there_and_back(void **state)
{
    static const uint64_t sizes[] = {ODD_BYTES, 4 * MIB, 3 * GIB + 1, 5 * MIB + 131073};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        CLEANUP_FD int raw = disk_sample_raw(sizes[i]);
        CLEANUP_FD int fd = disk_sample_write(raw, &disk_format_raw_zstd, NULL, true);
        CLEANUP(source_cleanup) struct source *source = NULL;
        CLEANUP(stream_cleanup) struct stream *stream = NULL;
        assert_int_equal(source_of_fd(fd, "zstd", &source, NULL), 0);
        assert_int_equal(stream_of_source(source, &stream, NULL), 0);
        struct disk *disk = open_zstd(stream, sizes[i]);
        assert_true(disk->in_order);
        uint64_t data = compare(disk, raw, NULL);
        assert_true(data <= 4 * MIB + 1);
        disk->format->close(disk);
    }
}

/* Any zstd makes the disk of it. */
static void test_zstd_is_the_witness(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(ODD_BYTES + 200 * MIB);
    CLEANUP_FD int fd = disk_sample_write(raw, &disk_format_raw_zstd, NULL, true);
    char command[200];

    (void)state;
    snprintf(command, sizeof(command),
             "zstd -qt < /proc/%d/fd/%d && zstd -qdc < /proc/%d/fd/%d | cmp - /proc/%d/fd/%d",
             getpid(), fd, getpid(), fd, getpid(), raw);
    assert_int_equal(system(command), 0);
}

static void test_holes_cost_nothing(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(2 * TIB);
    CLEANUP_FD int fd = disk_sample_write(raw, &disk_format_raw_zstd, NULL, true);
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    uint64_t size;

    (void)state;
    assert_true(file_bytes(fd) < 66 * MIB); /* 4 bytes for 128 KiB */
    assert_int_equal(source_of_fd(fd, "zstd", &source, NULL), 0);
    assert_int_equal(stream_of_source(source, &stream, NULL), 0);
    assert_int_equal(raw_zstd_measure(stream, &size, NULL), 0);
    assert_true(size == 2 * TIB);
    stream_cleanup(&stream);
    assert_int_equal(stream_of_source(source, &stream, NULL), 0);
    struct disk *disk = open_zstd(stream, 2 * TIB);
    assert_true(compare(disk, raw, NULL) <= 4 * MIB);
    disk->format->close(disk);
}

static void refuse(const void *data, size_t bytes, uint64_t size, int raw, const char *says)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    struct ferry_error err = {0};

    assert_int_equal(source_of_memory(data, bytes, "bad", &source, NULL), 0);
    assert_int_equal(stream_of_source(source, &stream, NULL), 0);
    struct disk *disk = open_zstd(stream, size);
    assert_true(compare(disk, raw, &err) == UINT64_MAX);
    if (err.kind != FERRY_REFUSED || !strstr(err.message, says))
        fail_msg("kind %d: '%s' does not say '%s'", err.kind, err.message, says);
    disk->format->close(disk);
}

static void test_refused(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(ODD_BYTES);
    CLEANUP_FD int fd = disk_sample_write(raw, &disk_format_raw_zstd, NULL, true);
    size_t bytes = (size_t)file_bytes(fd);
    CLEANUP_FREE uint8_t *data = malloc(bytes);

    (void)state;
    assert_int_equal(pread_all(fd, data, bytes, 0), 0);
    assert_int_equal(ftruncate(raw, ODD_BYTES + 1), 0);
    refuse(data, bytes, ODD_BYTES - 1, raw, "holds more");
    refuse(data, bytes, ODD_BYTES + 1, raw, "is cut short: the disk has");
    refuse(data, bytes - 1, ODD_BYTES, raw, "is cut short within a frame");
    refuse(data, 0, ODD_BYTES, raw, "is cut short: the disk has");
    data[0] = 'X';
    refuse(data, bytes, ODD_BYTES, raw, "is damaged");
}

/* What looks like a frame of zeroes must be one in every bit. */
static void test_only_zeroes_are_zeroes(void **state)
{
    static const uint8_t good[] = {0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x38, 5, 0,    0, 0, 0,
                                   0,    0,    0,    0x08, 0,    0,    0, 0x23, 0, 0, 0};
    uint8_t bad[sizeof(good)];
    uint8_t out[64];
    size_t used = 0;

    (void)state;
    assert_int_equal(ZSTD_decompress(out, sizeof(out), good, sizeof(good)), 5);
    assert_int_equal(raw_zstd_zeroes(good, sizeof(good), &used), 5);
    assert_int_equal(used, sizeof(good));
    for (size_t i = 0; i < sizeof(good); i++) {
        assert_int_equal(raw_zstd_zeroes(good, i, &used), 0);
        for (int bit = 0; bit < 8; bit++) {
            memcpy(bad, good, sizeof(bad));
            bad[i] ^= (uint8_t)(1 << bit);
            uint64_t zeroes = raw_zstd_zeroes(bad, sizeof(bad), &used);
            size_t real = ZSTD_decompress(out, sizeof(out), bad, sizeof(bad));
            if (zeroes && (ZSTD_isError(real) || real != zeroes || !is_zero(out, zeroes)))
                fail_msg("byte %zu bit %d", i, bit);
        }
    }
}

/* A frame of anything else that inflates as well takes no memory, and no more than was declared. */
static void test_bomb(void **state)
{
    CLEANUP(writer_free) struct writer w = writer_init(MIB);
    CLEANUP_FD int raw = memfd_create("raw", MFD_CLOEXEC);
    static uint8_t ones[MIB];

    (void)state;
    memset(ones, 1, sizeof(ones));
    assert_int_equal(pwrite_all(raw, ones, sizeof(ones), 0), 0);
    writer_u32(&w, 0xfd2fb528);
    writer_u16(&w, 0x3800); /* no size, a window of 128 KiB */
    for (int i = 0; i < 1024; i++)
        writer_u32(&w, 1 << 24 | 0x20000 << 3 | 1 << 1);
    refuse(w.data, w.size, MIB, raw, "holds more");
    w.data[4] = 0;
    w.data[5] = 0xf8; /* a window of 2 TiB */
    refuse(w.data, w.size, MIB, raw, "is damaged");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),         cmocka_unit_test(test_zstd_is_the_witness),
        cmocka_unit_test(test_holes_cost_nothing),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_only_zeroes_are_zeroes), cmocka_unit_test(test_bomb),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
