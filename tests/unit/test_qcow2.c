/* qcow2: every field of the header and of its tables broken in turn. */
#include <endian.h>
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
#include "imagefmt/foreign/copy.h"
#include "imagefmt/foreign/sink.h"
#include "imagefmt/foreign/source.h"
#include "tests/support/image_sample.h"

#define DISK_BYTES    (1 * MIB)
#define CLUSTER_BYTES 4096u
#define L1_AT         CLUSTER_BYTES

static uint8_t content_at(size_t i)
{
    return i < DISK_BYTES / 2 ? (uint8_t)(i / 33 + i % 7 + 1) : 0;
}

/* A disk of text in its first half: header, L1, refcounts, then clusters and L2 tables. */
static uint8_t *sample(const char *codec, size_t *size)
{
    const struct disk_write_options write = {
        .size_bytes = DISK_BYTES, .codec = codec, .unit_bytes = CLUSTER_BYTES};
    const struct disk_copy_options options = {.workers = 1};
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP_FREE uint8_t *content = calloc(1, DISK_BYTES);
    struct disk_copy_result result;
    struct disk_writer *writer = NULL;
    struct disk *disk = NULL;
    struct fd_sink sink;
    struct stat st;
    CLEANUP_FD int fd = memfd_create("qcow2", MFD_CLOEXEC);

    for (size_t i = 0; i < DISK_BYTES; i++)
        content[i] = content_at(i);
    assert_int_equal(source_of_memory(content, DISK_BYTES, "content", &source, NULL), 0);
    assert_int_equal(disk_format_raw.open(source, NULL, &disk, NULL), 0);
    sink_of_fd(&sink, fd, "qcow2", false);
    assert_int_equal(disk_format_qcow2.create(&sink.sink, &write, &writer, NULL), 0);
    assert_int_equal(disk_copy(disk, writer, DISK_BYTES, &options, &result, NULL), 0);
    assert_true(result.content_bytes == DISK_BYTES / 2);
    disk_format_qcow2.destroy(writer);
    disk_format_raw.close(disk);
    assert_int_equal(fstat(fd, &st), 0);
    *size = (size_t)st.st_size;
    uint8_t *bytes = malloc(*size);
    assert_int_equal(pread_all(fd, bytes, *size, 0), 0);
    return bytes;
}

/* All of it, through every function: 0, or the first error. */
static int read_through(const uint8_t *bytes, size_t size, struct ferry_error *err)
{
    const struct disk_copy_options options = {.workers = 1};
    CLEANUP(source_cleanup) struct source *source = NULL;
    struct disk_copy_result result;
    struct disk *disk = NULL;

    memset(err, 0, sizeof(*err));
    assert_int_equal(source_of_memory(bytes, size, "forged", &source, NULL), 0);
    int error = disk_format_qcow2.open(source, NULL, &disk, err);
    if (error)
        return error;
    error = disk_digest(disk, disk->size_bytes, &options, &result, err);
    disk_format_qcow2.close(disk);
    return error;
}

static uint64_t get64(const uint8_t *bytes, uint64_t at)
{
    uint64_t value;

    memcpy(&value, bytes + at, sizeof(value));
    return be64toh(value);
}

static void put_at(uint8_t *bytes, size_t at, unsigned width, uint64_t value)
{
    uint64_t wire = htobe64(value);

    memcpy(bytes + at, (uint8_t *)&wire + 8 - width, width);
}

struct forgery {
    size_t at;
    unsigned width;
    uint64_t value;
    const char *says; /* NULL: fine */
};

static void expect_forged(const uint8_t *bytes, size_t size, const struct forgery *f)
{
    CLEANUP_FREE uint8_t *copy = malloc(size);
    struct ferry_error err;

    memcpy(copy, bytes, size);
    put_at(copy, f->at, f->width, f->value);
    int error = read_through(copy, size, &err);
    if (!f->says) {
        assert_int_equal(error, 0);
        return;
    }
    if (!error || err.kind != FERRY_REFUSED || !strstr(err.message, f->says))
        fail_msg("byte %zu = %llx: error %d, '%s', not '%s'", f->at, (unsigned long long)f->value,
                 error, err.message, f->says);
}

static void test_header_fields(void **state)
{
    static const struct forgery forgeries[] = {
        {0, 4, 0x514649fa, "is not a qcow2"},
        {4, 4, 1, "is not a qcow2"},
        {4, 4, 4, "is not a qcow2"},
        {8, 8, 5000, NULL},  /* a name of no bytes */
        {16, 4, 1024, NULL}, /* at no place */
        {20, 4, 8, "cluster size"},
        {20, 4, 22, "cluster size"},
        {20, 4, UINT32_MAX, "cluster size"},
        {24, 8, 4 * MIB, "too short for its size"},
        {24, 8, UINT64_MAX, "larger than a disk"},
        {24, 8, INT64_MAX, "larger than a disk"},
        {32, 4, 1, "encrypted (AES)"},
        {32, 4, 2, "encrypted (LUKS)"},
        {32, 4, 99, "encrypted (by an unknown method)"},
        {36, 4, 0, "too short for its size"},
        {36, 4, UINT32_MAX, "longer than 32 MiB"},
        {36, 4, 1 << 20, "L1 table lies past its end"},
        {40, 8, 0, "lies on its header"},
        {40, 8, L1_AT + 8, "between clusters"},
        {40, 8, UINT64_MAX - 4095, "past its end"},
        {60, 4, 1, "table of snapshots"},
        {60, 4, 65537, "more snapshots"},
        {72, 8, 1, NULL}, /* dirty: the refcounts may be wrong, which nobody reads */
        {72, 8, 2, "marked as corrupt"},
        {72, 8, 4, "in another file, '?'"},
        {72, 8, 8, "compression type 0"},
        {72, 8, 16, "too small for subclusters"},
        {72, 8, 32, "needs feature 5 (a newer one)"},
        {72, 8, UINT64_C(1) << 63, "needs feature 63"},
        {100, 4, 0, "wrong length"},
        {100, 4, 108, "wrong length"},
        {100, 4, 8192, "longer than a cluster"},
        {100, 4, UINT32_MAX - 7, "longer than a cluster"},
        {104, 1, 1, "compression type 1"},
    };
    size_t size;
    CLEANUP_FREE uint8_t *bytes = sample("zlib", &size);

    (void)state;
    for (size_t i = 0; i < sizeof(forgeries) / sizeof(*forgeries); i++)
        expect_forged(bytes, size, &forgeries[i]);
}

static void test_table_entries(void **state)
{
    size_t size;
    CLEANUP_FREE uint8_t *bytes = sample("none", &size);
    uint64_t l2 = get64(bytes, L1_AT) & ~(UINT64_C(1) << 63);
    uint64_t copied = UINT64_C(1) << 63, compressed = UINT64_C(1) << 62;
    const struct forgery forgeries[] = {
        {L1_AT, 8, (l2 + 512) | copied, "L2 table does not begin"},
        {L1_AT, 8, l2 | 1, "reserved bits of an L1"},
        {L1_AT, 8, l2 | UINT64_C(1) << 56, "reserved bits of an L1"},
        {L1_AT, 8, UINT64_C(1) << 40, "is cut short"},
        {L1_AT, 8, copied, NULL}, /* a flag of no table */
        {L1_AT, 8, 0, NULL},      /* nothing there: zeroes */
        {l2, 8, 0, NULL},
        {l2, 8, 1, NULL}, /* zero */
        {l2, 8, 3, "reserved bits of an L2"},
        {l2, 8, UINT64_C(1) << 57, "reserved bits of an L2"},
        {l2, 8, copied, "on the header"},
        {l2, 8, 4096 + 512, "does not begin where clusters do"},
        {l2, 8, UINT64_C(1) << 41, "past the end of the file"},
        {l2, 8, size & ~4095u, "past the end of the file"},
        {l2, 8, compressed | copied | 4096, "claims to be writable"},
        {l2, 8, compressed | UINT64_C(1) << 50, "past the end of the file"},
        {l2, 8, compressed | 4096, "cannot be inflated"},
        {l2, 8, compressed | (size - 1), "cannot be inflated"},
        {l2 + 8, 8, get64(bytes, l2), NULL}, /* two guest clusters in one: not nice, but readable */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(forgeries) / sizeof(*forgeries); i++)
        expect_forged(bytes, size, &forgeries[i]);
}

static void test_tables_that_name_themselves(void **state)
{
    size_t size;
    CLEANUP_FREE uint8_t *bytes = sample("none", &size);
    struct ferry_error err;

    (void)state;
    uint64_t l2 = get64(bytes, L1_AT) & ~(UINT64_C(1) << 63), cluster = get64(bytes, l2);
    put_at(bytes, l2, 8, l2);
    assert_int_equal(read_through(bytes, size, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "a cluster lies on a table"));
    put_at(bytes, l2, 8, L1_AT);
    assert_int_equal(read_through(bytes, size, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "a cluster lies on a table"));
    put_at(bytes, l2, 8, cluster);
    put_at(bytes, L1_AT, 8, L1_AT);
    put_at(bytes, L1_AT + 8, 8, 0);
    assert_int_equal(read_through(bytes, size, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "an L2 table lies on"));
}

static void test_damaged_and_short_files(void **state)
{
    size_t size;
    struct ferry_error err;

    (void)state;
    for (int k = 0; k < 2; k++) {
        CLEANUP_FREE uint8_t *bytes = sample(k ? "zstd" : "zlib", &size);
        uint64_t l2 = get64(bytes, L1_AT) & ~(UINT64_C(1) << 63);
        uint64_t data = get64(bytes, l2) & ((UINT64_C(1) << 50) - 1);
        assert_int_equal(read_through(bytes, size, &err), 0);
        for (size_t cut = 0; cut < size; cut += cut < 200 ? 7 : 999) {
            int error = read_through(bytes, cut, &err);
            if (cut < size - CLUSTER_BYTES) /* the last one is a refcount block */
                assert_int_equal(error, -EBADMSG);
        }
        memset(bytes + data, 0xff, 16);
        assert_int_equal(read_through(bytes, size, &err), -EBADMSG);
        assert_non_null(strstr(err.message, "at byte 0 of the disk"));
    }
}

static void test_reads_anywhere(void **state)
{
    static const char *const codecs[] = {"none", "zlib", "zstd"};
    static uint8_t got[20000];
    uint64_t seed = 1;

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        CLEANUP(source_cleanup) struct source *source = NULL;
        struct disk *disk = NULL;
        size_t size;
        CLEANUP_FREE uint8_t *bytes = sample(codecs[k], &size);
        assert_int_equal(source_of_memory(bytes, size, "any", &source, NULL), 0);
        assert_int_equal(disk_format_qcow2.open(source, NULL, &disk, NULL), 0);
        for (int i = 0; i < 200; i++) {
            uint64_t offset = sample_random(&seed) % (DISK_BYTES - sizeof(got));
            size_t part = sample_random(&seed) % sizeof(got);
            assert_int_equal(disk->format->read(disk, offset, got, part, NULL), 0);
            for (size_t at = 0; at < part; at++)
                if (got[at] != content_at(offset + at))
                    fail_msg("%s: byte %zu differs", codecs[k], (size_t)offset + at);
        }
        disk->format->close(disk);
    }
}

static void test_backing_needs_leave(void **state)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    struct ferry_error err = {0};
    struct disk *disk = NULL;
    size_t size;
    CLEANUP_FREE uint8_t *bytes = sample("none", &size);

    (void)state;
    static const char name[12] = {'j', 's', 'o', 'n', ':', 27, '[', '3', '1', 'm', '{', '}'};
    memcpy(bytes + 200, name, sizeof(name));
    put_at(bytes, 8, 8, 200);
    put_at(bytes, 16, 4, 12);
    assert_int_equal(source_of_memory(bytes, size, "child", &source, NULL), 0);
    assert_int_equal(disk_format_qcow2.open(source, NULL, &disk, &err), -EPERM);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_non_null(strstr(err.message, "'json:?[31m{}'")); /* nothing that a terminal obeys */
    put_at(bytes, 16, 4, 1024);
    assert_int_equal(disk_format_qcow2.open(source, NULL, &disk, &err), -EBADMSG);
    put_at(bytes, 16, 4, 12);
    put_at(bytes, 8, 8, UINT64_MAX - 3);
    assert_int_equal(disk_format_qcow2.open(source, NULL, &disk, &err), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header_fields),
        cmocka_unit_test(test_table_entries),
        cmocka_unit_test(test_tables_that_name_themselves),
        cmocka_unit_test(test_damaged_and_short_files),
        cmocka_unit_test(test_reads_anywhere),
        cmocka_unit_test(test_backing_needs_leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
