/* Wraps: there and back, in several members, cut short at every byte, and damaged in every byte. */
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

#include "common/cleanup.h"
#include "common/file.h"
#include "common/zero.h"
#include "imagefmt/foreign/sink.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"
#include "imagefmt/foreign/wrap.h"

static const enum wrap_kind kinds[] = {WRAP_GZIP, WRAP_XZ, WRAP_ZSTD, WRAP_BZIP2};

#define KINDS (sizeof(kinds) / sizeof(*kinds))

struct bytes {
    uint8_t *data;
    size_t size;
};

static void free_bytes(struct bytes *bytes)
{
    free(bytes->data);
}

static struct bytes load(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    struct bytes bytes = {.size = (size_t)st.st_size, .data = malloc((size_t)st.st_size + 100)};
    assert_int_equal(pread_all(fd, bytes.data, bytes.size, 0), 0);
    return bytes;
}

static int in_wrap(int fd, enum wrap_kind kind, int level, unsigned workers, struct sink **out,
                   struct fd_sink *below)
{
    const struct wrap_options options = {.level = level, .workers = workers};

    sink_of_fd(below, fd, "wrap", true);
    return sink_wrap(&below->sink, kind, &options, out, NULL);
}

static struct bytes wrap(enum wrap_kind kind, const void *data, size_t size, unsigned workers)
{
    CLEANUP_FD int fd = memfd_create("wrap", MFD_CLOEXEC);
    struct sink *sink;
    struct fd_sink below;

    assert_int_equal(in_wrap(fd, kind, 0, workers, &sink, &below), 0);
    for (size_t at = 0; at < size; at += 70000)
        assert_int_equal(sink->write(sink, (const uint8_t *)data + at,
                                     size - at < 70000 ? size - at : 70000, NULL),
                         0);
    assert_int_equal(sink->position, size);
    assert_int_equal(sink_wrap_finish(sink, NULL), 0);
    sink_wrap_destroy(sink);
    return load(fd);
}

/* What is in it, up to room; the error that was met. */
static int unwrap(enum wrap_kind kind, const struct bytes *in, void *out, size_t room, size_t *got,
                  struct ferry_error *err)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(stream_cleanup) struct stream *below = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;

    *got = 0;
    assert_int_equal(source_of_memory(in->data, in->size, "wrap", &source, NULL), 0);
    assert_int_equal(stream_of_source(source, &below, NULL), 0);
    assert_int_equal(stream_unwrap(below, kind, &stream, NULL), 0);
    int error = stream->read(stream, out, room, got, err);
    if (error) {
        size_t none;
        assert_int_not_equal(stream->read(stream, out, room, &none, NULL), 0); /* it stays failed */
    }
    return error;
}

static void fill(uint8_t *data, size_t size)
{
    uint64_t seed = 88172645463325252u;

    for (size_t i = 0; i < size; i++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        data[i] = (uint8_t)(i / 3000 % 3 == 0 ? 0 : i / 3000 % 3 == 1 ? i / 7 : seed);
    }
}

static void expect(enum wrap_kind kind, const struct bytes *in, const uint8_t *data, size_t size)
{
    CLEANUP_FREE uint8_t *out = malloc(size + 1);
    struct ferry_error err = {0};
    size_t got;

    if (unwrap(kind, in, out, size + 1, &got, &err))
        fail_msg("%s: %s", wrap_name(kind), err.message);
    assert_int_equal(got, size);
    assert_memory_equal(out, data, size);
}

static void test_round_trips(void **state)
{
    const size_t size = 3 * MIB + 5;
    CLEANUP_FREE uint8_t *data = malloc(size);

    (void)state;
    fill(data, size);
    for (size_t k = 0; k < KINDS; k++) {
        CLEANUP(free_bytes) struct bytes all = wrap(kinds[k], data, size, 1);
        CLEANUP(free_bytes) struct bytes again = wrap(kinds[k], data, size, 5);
        assert_int_equal(wrap_by_magic(all.data, all.size), kinds[k]);
        assert_int_equal(all.size, again.size);
        assert_memory_equal(all.data, again.data, all.size);
        expect(kinds[k], &all, data, size);
        CLEANUP(free_bytes) struct bytes nothing = wrap(kinds[k], data, 0, 1);
        assert_true(nothing.size > 0);
        expect(kinds[k], &nothing, data, 0);
    }
}

/* Members of odd sizes, one of them of nothing. */
static void test_members(void **state)
{
    static uint8_t data[400000], whole[800000];

    (void)state;
    fill(data, sizeof(data));
    for (size_t k = 0; k < KINDS; k++) {
        CLEANUP(free_bytes) struct bytes a = wrap(kinds[k], data, 150001, 1);
        CLEANUP(free_bytes) struct bytes b = wrap(kinds[k], data, 0, 1);
        CLEANUP(free_bytes)
        struct bytes c = wrap(kinds[k], data + 150001, sizeof(data) - 150001, 1);
        struct bytes all = {whole, a.size + b.size + c.size};
        memcpy(whole, a.data, a.size);
        memcpy(whole + a.size, b.data, b.size);
        memcpy(whole + a.size + b.size, c.data, c.size);
        expect(kinds[k], &all, data, sizeof(data));
    }
}

/* Only at the end of a member may a file end: cut short it is refused, and so is what follows. */
static void test_cut_short(void **state)
{
    static uint8_t data[20000], out[50000];

    (void)state;
    fill(data, sizeof(data));
    for (size_t k = 0; k < KINDS; k++) {
        CLEANUP(free_bytes) struct bytes one = wrap(kinds[k], data, sizeof(data), 1);
        struct bytes two = {malloc(2 * one.size), 2 * one.size};
        memcpy(two.data, one.data, one.size);
        memcpy(two.data + one.size, one.data, one.size);
        for (size_t size = 0; size < two.size; size++) {
            struct bytes cut = {two.data, size};
            struct ferry_error err = {0};
            size_t got;
            int error = unwrap(kinds[k], &cut, out, sizeof(out), &got, &err);
            assert_int_equal(error, size == one.size ? 0 : -EBADMSG);
            if (error) {
                assert_int_equal(err.kind, FERRY_REFUSED);
                assert_non_null(strstr(err.message, "is cut short"));
            }
        }
        free_bytes(&two);
    }
}

static void test_something_behind(void **state)
{
    static const char *const tails[] = {"x",
                                        "\0",
                                        "\0\0\0\0\0\0\0\0",
                                        "garbage behind the end",
                                        "\x1f\x8b\x08\x00 and on",
                                        "BZh9 and on and on"};
    static const size_t sizes[] = {1, 1, 8, 22, 11, 18};
    static uint8_t data[5000], out[50000];

    (void)state;
    fill(data, sizeof(data));
    for (size_t k = 0; k < KINDS; k++) {
        CLEANUP(free_bytes) struct bytes one = wrap(kinds[k], data, sizeof(data), 1);
        for (size_t t = 0; t < sizeof(tails) / sizeof(*tails); t++) {
            struct bytes more = {one.data, one.size + sizes[t]};
            struct ferry_error err = {0};
            size_t got;
            memcpy(one.data + one.size, tails[t], sizes[t]);
            int error = unwrap(kinds[k], &more, out, sizeof(out), &got, &err);
            bool padding = kinds[k] == WRAP_XZ && t == 2; /* xz has it between streams */
            if (error != (padding ? 0 : -EBADMSG))
                fail_msg("%s with tail %zu: %d", wrap_name(kinds[k]), t, error);
            if (t == 3 && kinds[k] != WRAP_XZ)
                assert_non_null(strstr(err.message, "has something else behind the end"));
        }
    }
}

/* Another content is never handed out as if it were whole. */
static void test_damaged(void **state)
{
    static uint8_t data[3000], out[50000];

    (void)state;
    fill(data, sizeof(data));
    for (size_t k = 0; k < KINDS; k++) {
        CLEANUP(free_bytes) struct bytes one = wrap(kinds[k], data, sizeof(data), 1);
        unsigned refused = 0;
        for (size_t at = 0; at < one.size; at++) {
            size_t got;
            one.data[at] ^= (uint8_t)(1u << (at % 8));
            int error = unwrap(kinds[k], &one, out, sizeof(out), &got, NULL);
            one.data[at] ^= (uint8_t)(1u << (at % 8));
            refused += error != 0;
            if (!error && (got != sizeof(data) || memcmp(out, data, got) != 0))
                fail_msg("%s, byte %zu: taken with other content", wrap_name(kinds[k]), at);
        }
        assert_true(refused + 10 > one.size); /* a header has a few bytes that say nothing */
    }
}

/* A frame that wants a window of 1 GiB. */
static void test_large_window(void **state)
{
    uint8_t frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 0x0b, 0, 0, 'x'};
    const struct bytes in = {frame, sizeof(frame)};
    struct ferry_error err = {0};
    uint8_t out[10];
    size_t got;

    (void)state;
    assert_int_equal(unwrap(WRAP_ZSTD, &in, out, sizeof(out), &got, &err), -EFBIG);
    assert_int_equal(err.kind, FERRY_REFUSED);
    frame[5] = 17 << 3; /* 128 MiB; a block of one byte, repeated once */
    assert_int_equal(unwrap(WRAP_ZSTD, &in, out, sizeof(out), &got, NULL), 0);
    assert_int_equal(got, 1);
}

/* A long run of zeroes is a few frames, whatever lies around it. */
static void test_zeroes(void **state)
{
    const uint64_t run = 2 * GIB + 12345;
    static uint8_t part[1 << 20];

    (void)state;
    CLEANUP_FD int fd = memfd_create("wrap", MFD_CLOEXEC);
    struct sink *sink;
    struct fd_sink below;
    assert_int_equal(in_wrap(fd, WRAP_ZSTD, 0, 2, &sink, &below), 0);
    assert_int_equal(sink->write(sink, "start", 5, NULL), 0);
    assert_int_equal(sink_zeroes(sink, run, NULL), 0);
    assert_int_equal(sink->write(sink, "end", 3, NULL), 0);
    assert_int_equal(sink_zeroes(sink, 16 * MIB, NULL), 0);
    assert_int_equal(sink->position, run + 8 + 16 * MIB);
    assert_int_equal(sink_wrap_finish(sink, NULL), 0);
    sink_wrap_destroy(sink);
    CLEANUP(free_bytes) struct bytes file = load(fd);
    assert_true(file.size < 200000);

    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(stream_cleanup) struct stream *raw = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    assert_int_equal(source_of_memory(file.data, file.size, "wrap", &source, NULL), 0);
    assert_int_equal(stream_of_source(source, &raw, NULL), 0);
    assert_int_equal(stream_unwrap(raw, WRAP_ZSTD, &stream, NULL), 0);
    assert_int_equal(stream_read(stream, part, 5, NULL), 0);
    assert_memory_equal(part, "start", 5);
    for (uint64_t at = 0; at < run; at += sizeof(part)) {
        size_t size = run - at < sizeof(part) ? (size_t)(run - at) : sizeof(part);
        assert_int_equal(stream_read(stream, part, size, NULL), 0);
        assert_true(is_zero(part, size));
    }
    assert_int_equal(stream_read(stream, part, 3, NULL), 0);
    assert_memory_equal(part, "end", 3);
    assert_int_equal(stream_skip(stream, 16 * MIB, NULL), 0);
    assert_int_equal(stream_expect_end(stream, NULL), 0);
}

static void test_names_and_levels(void **state)
{
    struct sink *sink;
    struct fd_sink below;
    size_t length;

    (void)state;
    assert_int_equal(wrap_by_extension("a/disk.raw.zst", &length), WRAP_ZSTD);
    assert_int_equal(length, 10);
    assert_int_equal(wrap_by_extension("disk.raw", &length), WRAP_NONE);
    assert_int_equal(wrap_by_extension(".gz", &length), WRAP_NONE);
    for (size_t k = 0; k < KINDS; k++)
        assert_int_equal(wrap_by_name(wrap_name(kinds[k])), kinds[k]);
    assert_int_equal(wrap_by_name("lz4"), WRAP_NONE);
    assert_int_equal(in_wrap(-1, WRAP_GZIP, 10, 1, &sink, &below), -EINVAL);
    assert_int_equal(in_wrap(-1, WRAP_ZSTD, 20, 1, &sink, &below), -EINVAL);
    assert_int_equal(in_wrap(-1, WRAP_ZSTD, 19, 1, &sink, &below), 0);
    assert_int_equal(sink->write(sink, "x", 1, NULL), 0); /* not put out yet */
    assert_int_equal(sink_wrap_finish(sink, NULL), -EBADF);
    sink_wrap_destroy(sink);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips), cmocka_unit_test(test_members),
        cmocka_unit_test(test_cut_short),   cmocka_unit_test(test_something_behind),
        cmocka_unit_test(test_damaged),     cmocka_unit_test(test_large_window),
        cmocka_unit_test(test_zeroes),      cmocka_unit_test(test_names_and_levels),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
