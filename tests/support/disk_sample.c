#include "tests/support/disk_sample.h"

#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/copy.h"
#include "imagefmt/foreign/sink.h"
#include "imagefmt/foreign/source.h"

#define TRIED_EXTENTS 200
#define RUNS_MAX      4096

static int new_file(void)
{
    int fd = memfd_create("disk", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

int disk_sample_raw(uint64_t size)
{
    static uint8_t bytes[300000];
    int fd = new_file();

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7 + i / 999 + 1);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(pwrite_all(fd, bytes, 70000, 100), 0);
    assert_int_equal(pwrite_all(fd, bytes, 200000, 2 * MIB - 70000), 0);
    assert_int_equal(pwrite_all(fd, bytes, 300, size - 300), 0);
    return fd;
}

int disk_sample_noise(uint64_t size)
{
    CLEANUP_FREE uint8_t *bytes = malloc(MIB);
    uint32_t seed = 1;
    int fd = new_file();

    assert_non_null(bytes);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    for (uint64_t at = 0; at + MIB <= size; at += MIB) {
        for (size_t i = 0; i < MIB; i++) {
            seed = seed * 1664525 + 1013904223;
            bool noise = (i / 50000 + at / MIB) % 3 == 0;
            bytes[i] = noise ? (uint8_t)(seed >> 24) : (uint8_t)("a guest's text "[i % 15]);
        }
        if (at / MIB % 4 != 3)
            assert_int_equal(pwrite_all(fd, bytes, 900000, at + 1000), 0);
    }
    assert_int_equal(pwrite_all(fd, "the end", 7, size - 7), 0);
    return fd;
}

static struct disk *open_disk(struct source *source, const struct disk_format *format)
{
    struct ferry_error err = {0};
    struct disk *disk = NULL;

    if (format->open(source, NULL, &disk, &err))
        fail_msg("%s: %s", err.about, err.message);
    return disk;
}

int disk_sample_write(int raw, const struct disk_format *format, const char *subformat,
                      bool in_order)
{
    struct ferry_error err = {0};
    CLEANUP(source_cleanup) struct source *source = NULL;
    const struct disk_copy_options options = {.workers = 2};
    struct disk_copy_result result;
    struct disk_writer *writer = NULL;
    struct fd_sink sink;
    int fd = new_file();

    assert_int_equal(source_of_fd(raw, "raw", &source, NULL), 0);
    struct disk *disk = open_disk(source, &disk_format_raw);
    const struct disk_write_options write = {
        .size_bytes = disk->size_bytes, .subformat = subformat, .identity = {1, 2, 3, 4, 5}};
    sink_of_fd(&sink, fd, "sample", in_order);
    if (format->create(&sink.sink, &write, &writer, &err) ||
        disk_copy(disk, writer, disk->size_bytes, &options, &result, &err))
        fail_msg("%s: %s", err.about, err.message);
    format->destroy(writer);
    disk_format_raw.close(disk);
    return fd;
}

void disk_sample_digest(int fd, const struct disk_format *format, uint64_t *size,
                        uint8_t digest[SHA256_BYTES])
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    const struct disk_copy_options options = {.workers = 2};
    struct disk_copy_result result;
    struct ferry_error err = {0};

    assert_int_equal(source_of_fd(fd, "sample", &source, NULL), 0);
    struct disk *disk = open_disk(source, format);
    if (disk_digest(disk, disk->size_bytes, &options, &result, &err))
        fail_msg("%s: %s", err.about, err.message);
    *size = disk->size_bytes;
    memcpy(digest, result.digest, SHA256_BYTES);
    format->close(disk);
}

uint64_t disk_sample_round_trip(uint64_t size, const struct disk_format *format,
                                const char *subformat, bool in_order)
{
    uint8_t before[SHA256_BYTES], after[SHA256_BYTES];
    uint64_t size_before, size_after;
    struct stat st;

    CLEANUP_FD int raw = disk_sample_raw(size);
    CLEANUP_FD int fd = disk_sample_write(raw, format, subformat, in_order);
    disk_sample_digest(raw, &disk_format_raw, &size_before, before);
    disk_sample_digest(fd, format, &size_after, after);
    assert_int_equal(size_before, size_after);
    assert_memory_equal(before, after, SHA256_BYTES);
    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* ---- Hostile ---- */

static int try_disk(struct disk *disk, struct ferry_error *err)
{
    static const uint64_t places[] = {0, 65536, 2 * MIB - 4096};
    const struct disk_format *format = disk->format;
    uint64_t at = 0;
    int error = 0;

    for (int i = 0; !error && i < TRIED_EXTENTS && at < disk->size_bytes; i++) {
        struct disk_extent extent = {0};
        error = format->extent(disk, at, &extent, err);
        if (!error)
            assert_in_range(extent.size_bytes, 1, disk->size_bytes - at);
        at += extent.size_bytes;
    }
    CLEANUP_FREE uint8_t *data = malloc(65536);
    for (size_t i = 0; i < 4; i++) {
        uint64_t size = disk->size_bytes < 65536 ? disk->size_bytes : 65536;
        uint64_t offset = i < 3 ? places[i] : disk->size_bytes - size;
        int failed = offset <= disk->size_bytes - size
                         ? format->read(disk, offset, data, size, error ? NULL : err)
                         : 0;
        error = error ? error : failed;
    }
    return error;
}

int disk_sample_try(struct source *source, const struct disk_format *format,
                    struct ferry_error *err)
{
    struct disk *disk = NULL;
    int error = format->open(source, NULL, &disk, err);

    if (error)
        return error;
    error = try_disk(disk, err);
    if (format->describe) {
        json_t *json = format->describe(disk);
        json_decref(json);
    }
    format->close(disk);
    return error;
}

int disk_sample_try_forged(int fd, const struct disk_format *format, uint64_t offset,
                           const void *bytes, size_t size, struct ferry_error *err)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP_FREE uint8_t *before = malloc(size + 1);

    assert_int_equal(source_of_fd(fd, "forged", &source, NULL), 0);
    assert_int_equal(pread_all(fd, before, size, offset), 0);
    assert_int_equal(pwrite_all(fd, bytes, size, offset), 0);
    int error = disk_sample_try(source, format, err);
    assert_int_equal(pwrite_all(fd, before, size, offset), 0);
    return error;
}

void disk_sample_sweep(int fd, const struct disk_format *format, uint64_t offset, size_t size)
{
    static const uint8_t masks[] = {0xff, 0x01, 0x80};

    for (size_t i = 0; i < size; i++) {
        for (size_t m = 0; m < 3; m++) {
            struct ferry_error err = {0};
            uint8_t byte;
            assert_int_equal(pread_all(fd, &byte, 1, offset + i), 0);
            byte ^= masks[m];
            if (disk_sample_try_forged(fd, format, offset + i, &byte, 1, &err))
                assert_true(err.message[0]);
        }
    }
}

/* ---- Runs ---- */

struct run {
    uint64_t offset;
    uint32_t size;
    const uint8_t *bytes;
};

struct runs {
    struct source source;
    size_t count;
    struct run runs[RUNS_MAX];
};

static int pread_runs(struct source *source, uint64_t offset, void *data, size_t size,
                      struct ferry_error *err)
{
    const struct runs *r = (const struct runs *)source;
    uint8_t *out = data;

    if (offset > source->size_bytes || size > source->size_bytes - offset)
        return ferry_refuse(err, -EBADMSG, source->about, "is cut short");
    memset(data, 0, size);
    for (size_t i = 0; i < r->count; i++) {
        const struct run *run = &r->runs[i];
        uint64_t from = run->offset > offset ? run->offset : offset;
        uint64_t end =
            run->offset + run->size < offset + size ? run->offset + run->size : offset + size;
        if (from < end)
            memcpy(out + (from - offset), run->bytes + (from - run->offset), end - from);
    }
    return 0;
}

static void close_runs(struct source *source)
{
    free(source);
}

int disk_sample_runs(const uint8_t *data, size_t size, struct source **out)
{
    struct reader r = reader_init(data, size);
    struct runs *runs = calloc(1, sizeof(*runs));

    if (!runs)
        return -ENOMEM;
    runs->source = (struct source){.pread = pread_runs,
                                   .close = close_runs,
                                   .size_bytes = reader_u64(&r) & INT64_MAX,
                                   .about = "runs"};
    while (runs->count < RUNS_MAX && reader_left(&r) > 12) {
        struct run *run = &runs->runs[runs->count];
        run->offset = reader_u64(&r);
        run->size = reader_u32(&r);
        if (run->size > reader_left(&r))
            run->size = (uint32_t)reader_left(&r);
        run->bytes = reader_take(&r, run->size);
        runs->count += run->offset < INT64_MAX;
    }
    *out = &runs->source;
    return 0;
}
