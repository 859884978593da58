/* Disks in order: streams, and formats that are read from them, whole, cut short and damaged. */
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/copy.h"
#include "imagefmt/foreign/formats.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"
#include "imagefmt/foreign/vhd.h"
#include "imagefmt/foreign/vmdk.h"
#include "tests/support/disk_sample.h"

#define SAMPLE_BYTES (40 * MIB + 512) /* two grain tables, a last grain of one sector */

/* ---- Streams ---- */

static void *write_in_parts(void *opaque)
{
    int fd = *(int *)opaque;

    for (int i = 0; i < 100; i++) {
        uint8_t part[100];
        memset(part, i, sizeof(part));
        assert_int_equal(write_all(fd, part, sizeof(part)), 0);
    }
    close(fd);
    return NULL;
}

static void test_pipe_is_read_in_full(void **state)
{
    CLEANUP(stream_cleanup) struct stream *below = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    struct ferry_error err = {0};
    struct stream_head head;
    uint8_t data[8000];
    pthread_t thread;
    int fds[2];
    size_t got;

    (void)state;
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(pthread_create(&thread, NULL, write_in_parts, &fds[1]), 0);
    assert_int_equal(stream_of_fd(fds[0], "pipe", &below, NULL), 0);
    assert_int_equal(stream_peek(below, 250, &stream, &head, NULL), 0);
    assert_int_equal(head.size, 250);
    assert_int_equal(head.bytes[249], 2);
    assert_int_equal(stream->read(stream, data, sizeof(data), &got, NULL), 0);
    assert_int_equal(got, sizeof(data));
    for (size_t i = 0; i < sizeof(data); i++)
        assert_int_equal(data[i], i / 100);
    assert_int_equal(stream_skip(stream, 1900, NULL), 0);
    assert_int_equal(stream_expect_end(stream, &err), -EBADMSG);
    assert_int_equal(stream->read(stream, data, sizeof(data), &got, NULL), 0);
    assert_int_equal(got, 99);
    assert_int_equal(stream->read(stream, data, sizeof(data), &got, NULL), 0);
    assert_int_equal(got, 0);
    assert_int_equal(stream_expect_end(stream, NULL), 0);
    assert_int_equal(stream_read(stream, data, 1, &err), -EBADMSG);
    assert_int_equal(err.kind, FERRY_REFUSED);
    pthread_join(thread, NULL);
    close(fds[0]);
}

static void test_peek_at_less(void **state)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(stream_cleanup) struct stream *below = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    struct stream_head head;
    char data[10];
    size_t got;

    (void)state;
    assert_int_equal(source_of_memory("abc", 3, "memory", &source, NULL), 0);
    assert_int_equal(stream_of_source(source, &below, NULL), 0);
    assert_int_equal(stream_peek(below, 4096, &stream, &head, NULL), 0);
    assert_int_equal(head.size, 3);
    assert_int_equal(stream_read(stream, data, 2, NULL), 0);
    assert_int_equal(stream->read(stream, data + 2, 8, &got, NULL), 0);
    assert_int_equal(got, 1);
    assert_memory_equal(data, "abc", 3);
    struct stream_cursor cursor = {.stream = stream, .position = 3};
    assert_int_equal(stream_seek(&cursor, 2, NULL), -ESPIPE);
}

/* ---- Disks ---- */

struct file {
    uint8_t *bytes;
    size_t size;
};

static void free_file(struct file *file)
{
    free(file->bytes);
}

static struct file load(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    struct file file = {.size = (size_t)st.st_size, .bytes = malloc((size_t)st.st_size)};
    assert_int_equal(pread_all(fd, file.bytes, file.size, 0), 0);
    return file;
}

/* The disk in these bytes, in order; what opening or reading it to its end returned. */
static int digest_stream(const struct file *file, const struct disk_format *format,
                         const struct disk_open_options *options, uint8_t digest[SHA256_BYTES],
                         struct ferry_error *err)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    const struct disk_copy_options copy = {.workers = 2};
    struct disk_copy_result result;
    struct disk *disk = NULL;

    assert_int_equal(source_of_memory(file->bytes, file->size, "sample", &source, NULL), 0);
    assert_int_equal(stream_of_source(source, &stream, NULL), 0);
    int error = format->open_stream(stream, options, &disk, err);
    if (error)
        return error;
    assert_true(disk->in_order);
    assert_string_equal(disk->format->name, format->name);
    error = disk_digest(disk, disk->size_bytes, &copy, &result, err);
    if (!error)
        memcpy(digest, result.digest, SHA256_BYTES);
    disk->format->close(disk);
    return error;
}

static void expect_refusal(const struct file *file, const struct disk_format *format,
                           const struct disk_open_options *options, const char *says)
{
    struct ferry_error err = {0};
    uint8_t digest[SHA256_BYTES];

    if (!digest_stream(file, format, options, digest, &err))
        fail_msg("taken, where '%s' was expected", says);
    if (!strstr(err.message, says))
        fail_msg("'%s' does not say '%s'", err.message, says);
}

static void round_trip(const struct disk_format *format, const char *subformat,
                       struct disk_open_options options)
{
    uint8_t before[SHA256_BYTES], after[SHA256_BYTES];
    struct ferry_error err = {0};
    uint64_t size;

    CLEANUP_FD int raw = disk_sample_raw(SAMPLE_BYTES);
    CLEANUP_FD int fd = disk_sample_write(raw, format, subformat, true);
    CLEANUP(free_file) struct file file = load(fd);
    disk_sample_digest(raw, &disk_format_raw, &size, before);
    if (digest_stream(&file, format, &options, after, &err))
        fail_msg("%s: %s", err.about, err.message);
    assert_memory_equal(before, after, SHA256_BYTES);
    file.size -= 1;
    expect_refusal(&file, format, &options, "");
    if (options.stream_bytes)
        return;
    file.size -= 600;
    expect_refusal(&file, format, &options, "");
}

static void test_round_trips(void **state)
{
    (void)state;
    round_trip(&disk_format_raw, NULL, (struct disk_open_options){.size_bytes = SAMPLE_BYTES});
    round_trip(&disk_format_raw, NULL, (struct disk_open_options){.stream_bytes = SAMPLE_BYTES});
    round_trip(&disk_format_vmdk, NULL, (struct disk_open_options){0});
}

static void test_sizes_that_are_wrong(void **state)
{
    static uint8_t bytes[5000];
    const struct file file = {bytes, sizeof(bytes)};

    (void)state;
    expect_refusal(&file, &disk_format_raw, &(struct disk_open_options){0}, "--size");
    expect_refusal(&file, &disk_format_raw, &(struct disk_open_options){.size_bytes = 5001},
                   "cut short");
    expect_refusal(&file, &disk_format_raw, &(struct disk_open_options){.size_bytes = 4999},
                   "goes on behind its end");
    expect_refusal(&file, &disk_format_raw,
                   &(struct disk_open_options){.size_bytes = LIMIT_DISK_BYTES + 512}, "larger");
    expect_refusal(&file, &disk_format_vhd, &(struct disk_open_options){.size_bytes = 4096},
                   "no footer");
    expect_refusal(&file, &disk_format_vhd, &(struct disk_open_options){0}, "--size");
}

/* Places that are skipped, and reads that cross the bounds of grains. */
static void test_skips(void **state)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    CLEANUP_FD int raw = disk_sample_raw(SAMPLE_BYTES);
    CLEANUP_FD int fd = disk_sample_write(raw, &disk_format_vmdk, NULL, true);
    static uint8_t expected[200000], found[200000];
    struct disk_extent extent;
    struct disk *disk;

    (void)state;
    assert_int_equal(source_of_fd(fd, "sample", &source, NULL), 0);
    assert_int_equal(stream_of_source(source, &stream, NULL), 0);
    assert_int_equal(
        disk_format_vmdk.open_stream(stream, &(struct disk_open_options){0}, &disk, NULL), 0);
    assert_int_equal(disk->format->extent(disk, 80000, &extent, NULL), 0);
    assert_int_equal(extent.kind, DISK_DATA);
    assert_int_equal(extent.size_bytes, 2 * 65536 - 80000);
    assert_int_equal(disk->format->extent(disk, 131072, &extent, NULL), 0);
    assert_int_equal(extent.kind, DISK_ZERO);
    uint64_t offset = 2 * MIB - 100000;
    assert_int_equal(disk->format->read(disk, offset, found, sizeof(found), NULL), 0);
    assert_int_equal(pread_all(raw, expected, sizeof(expected), offset), 0);
    assert_memory_equal(found, expected, sizeof(found));
    assert_int_equal(disk->format->drain(disk, NULL), 0);
    disk->format->close(disk);
}

/* ---- Damage ---- */

/* Every sector's start that is cut off, and a bit in every byte of what is not data of grains. */
static void test_vmdk_cut_short(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(SAMPLE_BYTES);
    CLEANUP_FD int fd = disk_sample_write(raw, &disk_format_vmdk, NULL, true);
    CLEANUP(free_file) struct file file = load(fd);
    const struct disk_open_options options = {0};
    size_t whole = file.size;

    (void)state;
    for (size_t size = whole - 512; size; size -= 512) {
        file.size = size;
        expect_refusal(&file, &disk_format_vmdk, &options, "cut short");
    }
    file.size = whole;
}

static void flip(struct file *file, size_t at, const char *says)
{
    const struct disk_open_options options = {0};

    file->bytes[at] ^= 0x11;
    expect_refusal(file, &disk_format_vmdk, &options, says);
    file->bytes[at] ^= 0x11;
}

static uint64_t u32_at(const uint8_t *bytes)
{
    return bytes[0] | (uint64_t)bytes[1] << 8 | (uint64_t)bytes[2] << 16 | (uint64_t)bytes[3] << 24;
}

static void test_vmdk_damaged(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(SAMPLE_BYTES);
    CLEANUP_FD int fd = disk_sample_write(raw, &disk_format_vmdk, NULL, true);
    CLEANUP(free_file) struct file file = load(fd);
    size_t end = file.size, footer = end - 1024, directory = footer - 1024;

    (void)state;
    size_t table = u32_at(file.bytes + directory) * 512, first = 65536;
    flip(&file, 0, "magic");
    flip(&file, 16, "");                          /* the descriptor disagrees */
    flip(&file, first, "marker of a grain");      /* LBA */
    flip(&file, first + 2, "marker of a grain");  /* beyond the disk */
    flip(&file, first + 10, "marker of a grain"); /* size */
    flip(&file, first + 20, "cannot be inflated");
    flip(&file, table, "tables do not name the grains");
    flip(&file, table + 2047, "tables do not name the grains");
    flip(&file, table - 512, "another size");
    flip(&file, directory, "does not name the tables");
    flip(&file, directory + 4, "directory does not name");
    flip(&file, footer, "magic");
    file.bytes[footer - 512 + 12] = VMDK_MARKER_END;
    expect_refusal(&file, &disk_format_vmdk, &(struct disk_open_options){0}, "without a footer");
    file.bytes[footer - 512 + 12] = VMDK_MARKER_FOOTER;
    flip(&file, footer + 12, "differ");
    flip(&file, footer + 57, "footer does not name");
    flip(&file, end - 512 + 8, "");
    flip(&file, end - 512 + 12, "");
}

/* A file of another order than that of the disk. */
static void test_vmdk_descending(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(SAMPLE_BYTES);
    CLEANUP_FD int fd = disk_sample_write(raw, &disk_format_vmdk, NULL, true);
    CLEANUP(free_file) struct file file = load(fd);
    const struct disk_open_options options = {0};
    uint8_t *first = file.bytes + (size_t)128 * 512;

    (void)state;
    size_t stored = u32_at(first + 8), step = (12 + stored + 511) / 512 * 512;
    first[1] = 2; /* the LBA of the second one is 128 */
    expect_refusal(&file, &disk_format_vmdk, &options, "ascending");
    first[1] = 0;
    first[0] = 128;
    expect_refusal(&file, &disk_format_vmdk, &options, "ascending");
    first[0] = 0;
    first[step] = 0;
    expect_refusal(&file, &disk_format_vmdk, &options, "ascending");
}

static void test_vmdk_goes_on(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(SAMPLE_BYTES);
    CLEANUP_FD int fd = disk_sample_write(raw, &disk_format_vmdk, NULL, true);
    const struct disk_open_options options = {0};
    struct stat st;

    (void)state;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(pwrite_all(fd, "x", 1, (uint64_t)st.st_size), 0);
    CLEANUP(free_file) struct file file = load(fd);
    expect_refusal(&file, &disk_format_vmdk, &options, "goes on behind its end");
}

static void test_formats_at_random(void **state)
{
    const struct disk_open_options options = {.size_bytes = SAMPLE_BYTES};
    CLEANUP_FD int raw = disk_sample_raw(SAMPLE_BYTES);

    (void)state;
    CLEANUP_FD int vhd = disk_sample_write(raw, &disk_format_vhd, NULL, false);
    CLEANUP(free_file) struct file dynamic = load(vhd);
    expect_refusal(&dynamic, &disk_format_vhd, &options, "needs a file: it is read at random");
    CLEANUP_FD int vmdk = disk_sample_write(raw, &disk_format_vmdk, "monolithicSparse", false);
    CLEANUP(free_file) struct file sparse = load(vmdk);
    expect_refusal(&sparse, &disk_format_vmdk, &options, "needs a file: it is read at random");
}

/* A byte of the footer set, and its sum right again. */
static void forge_footer(uint8_t footer[VHD_FOOTER_BYTES], size_t at, uint8_t value)
{
    footer[at] = value;
    uint32_t sum = vhd_sum(footer, VHD_FOOTER_BYTES, 64);
    for (int i = 0; i < 4; i++)
        footer[64 + i] = (uint8_t)(sum >> (24 - 8 * i));
}

static void test_vhd_fixed(void **state)
{
    const uint64_t size = 8 * MIB;
    struct disk_open_options options = {.size_bytes = size};
    uint8_t before[SHA256_BYTES], after[SHA256_BYTES];
    CLEANUP_FD int raw = disk_sample_raw(size);
    CLEANUP_FD int fd = disk_sample_write(raw, &disk_format_vhd, "fixed", true);
    CLEANUP(free_file) struct file file = load(fd);
    uint64_t found;

    (void)state;
    disk_sample_digest(raw, &disk_format_raw, &found, before);
    assert_int_equal(digest_stream(&file, &disk_format_vhd, &options, after, NULL), 0);
    assert_memory_equal(before, after, SHA256_BYTES);
    options = (struct disk_open_options){.stream_bytes = file.size};
    assert_int_equal(digest_stream(&file, &disk_format_vhd, &options, after, NULL), 0);
    assert_memory_equal(before, after, SHA256_BYTES);
    options = (struct disk_open_options){.size_bytes = size - 512};
    expect_refusal(&file, &disk_format_vhd, &options, "no footer");
    options.size_bytes = size;
    file.bytes[size + 70] ^= 1;
    expect_refusal(&file, &disk_format_vhd, &options, "no footer");
    file.bytes[size + 70] ^= 1;
    forge_footer(file.bytes + size, 63, VHD_DYNAMIC);
    expect_refusal(&file, &disk_format_vhd, &options, "no footer");
    forge_footer(file.bytes + size, 63, VHD_FIXED);
    forge_footer(file.bytes + size, 54, 2); /* of the size: 8 MiB and 512 bytes */
    expect_refusal(&file, &disk_format_vhd, &options, "by its footer, 8388608 were stated");
    forge_footer(file.bytes + size, 54, 0);
    file.size -= 1;
    expect_refusal(&file, &disk_format_vhd, &options, "cut short");
}

/* A writer that must know beforehand what comes. */
static void test_no_plan_of_a_stream(void **state)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    const struct disk_open_options options = {.size_bytes = MIB};
    const struct disk_copy_options copy = {.workers = 1};
    struct disk_copy_result result;
    static uint8_t bytes[MIB];
    struct ferry_error err = {0};
    struct disk *disk;
    struct disk_writer writer = {
        .format = &disk_format_vhd, .unit_bytes = 4096, .plan = DISK_PLAN_PLACES};

    (void)state;
    assert_int_equal(source_of_memory(bytes, sizeof(bytes), "sample", &source, NULL), 0);
    assert_int_equal(stream_of_source(source, &stream, NULL), 0);
    assert_int_equal(disk_format_raw.open_stream(stream, &options, &disk, NULL), 0);
    assert_int_equal(disk_copy(disk, &writer, MIB, &copy, &result, &err), -EINVAL);
    assert_non_null(strstr(err.message, "write to a plain file"));
    disk->format->close(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pipe_is_read_in_full),
        cmocka_unit_test(test_peek_at_less),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_sizes_that_are_wrong),
        cmocka_unit_test(test_skips),
        cmocka_unit_test(test_vmdk_cut_short),
        cmocka_unit_test(test_vmdk_damaged),
        cmocka_unit_test(test_vmdk_descending),
        cmocka_unit_test(test_vmdk_goes_on),
        cmocka_unit_test(test_formats_at_random),
        cmocka_unit_test(test_vhd_fixed),
        cmocka_unit_test(test_no_plan_of_a_stream),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
