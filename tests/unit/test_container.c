/*
 * Containers: what is written is read by GNU tar and by us, what GNU tar writes in each of its
 * formats is read by us, at random and in order, and what must not be in one is refused.
 */
#include <errno.h>
#include <fcntl.h>
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
#include "imagefmt/foreign/container.h"
#include "imagefmt/foreign/sink.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"
#include "tests/support/test_folder.h"

#define BIG_BYTES (9 * GIB + 77)

static void ok(int result, const struct ferry_error *err)
{
    if (result)
        fail_msg("%d: %s: %s (%s)", result, err->about, err->message, err->cause);
}

static struct stream *stream_of(int fd)
{
    struct stream *stream;

    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(stream_of_fd(fd, "stream", &stream, NULL), 0);
    return stream;
}

/* ---- Writing ---- */

static const char small[] = "some text, twenty-six bytes";

static void add_members(struct container *c, uint8_t sums[3][SHA256_BYTES])
{
    static uint8_t bytes[100000];
    struct ferry_error err = {0};
    struct sink *sink = NULL;
    uint64_t size = 0;

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 11 + i / 251);
    ok(container_add(c, "first.txt", small, sizeof(small), sums[0], &err), &err);
    ok(container_begin(c, "deep/er/second", sizeof(bytes), &sink, &err), &err);
    ok(sink->write(sink, bytes, 1000, &err), &err);
    ok(sink->write(sink, bytes + 1000, sizeof(bytes) - 1000, &err), &err);
    ok(container_end(c, sums[1], &size, &err), &err);
    assert_int_equal(size, sizeof(bytes));
    ok(container_add(c, "empty", "", 0, sums[2], &err), &err);
}

static void assert_sha256sum(const char *file, const uint8_t sum[SHA256_BYTES])
{
    char hex[2 * SHA256_BYTES + 1];

    assert_int_equal(
        shell("echo '%s  %s' | sha256sum -c --quiet", hex_encode(sum, SHA256_BYTES, hex), file), 0);
}

static void assert_members(const char *under, uint8_t sums[3][SHA256_BYTES])
{
    char name[100];

    snprintf(name, sizeof(name), "%s/first.txt", under);
    assert_sha256sum(name, sums[0]);
    snprintf(name, sizeof(name), "%s/deep/er/second", under);
    assert_sha256sum(name, sums[1]);
    snprintf(name, sizeof(name), "%s/empty", under);
    assert_sha256sum(name, sums[2]);
}

static void write_tar(const char *name, bool in_order, uint8_t sums[3][SHA256_BYTES])
{
    CLEANUP_FD int fd = test_folder_open(name, O_CREAT | O_RDWR);
    struct ferry_error err = {0};
    struct container *c = NULL;
    struct fd_sink sink;
    uint64_t bytes = 0;

    sink_of_fd(&sink, fd, "tar", in_order);
    ok(container_create_tar(&sink.sink, &c, &err), &err);
    assert_true(container_can_patch(c) == !in_order);
    add_members(c, sums);
    ok(container_finish(c, &bytes, &err), &err);
    container_destroy(c);
    assert_int_equal(lseek(fd, 0, SEEK_END), bytes);
}

static void test_tar_is_read_by_tar(void **state)
{
    uint8_t sums[3][SHA256_BYTES];

    (void)state;
    write_tar("file.tar", false, sums);
    write_tar("pipe.tar", true, sums);
    assert_int_equal(
        shell("cmp file.tar pipe.tar && mkdir out && tar -C out -xf file.tar 2> errors "
              "&& ! test -s errors && test $(find out -type f | wc -l) = 3"),
        0);
    assert_members("out", sums);
    assert_int_equal(shell("tar --numeric-owner -tvf file.tar | grep -c '^-rw-r--r-- 0/0 .* "
                           "1970-01-01' | grep -qx 3"),
                     0);
}

static void test_folder(void **state)
{
    struct ferry_error err = {0};
    struct container *c = NULL;
    uint8_t sums[3][SHA256_BYTES];
    uint64_t bytes;

    (void)state;
    assert_int_equal(shell("mkdir out"), 0);
    CLEANUP_FD int fd = test_folder_open("out", O_RDONLY | O_DIRECTORY);
    ok(container_create_folder(fd, "out", &c, &err), &err);
    assert_true(container_can_patch(c));
    add_members(c, sums);
    assert_members("out", sums);
    assert_int_equal(container_add(c, "first.txt", "x", 1, NULL, &err), -EEXIST);
    ok(container_finish(c, &bytes, &err), &err);
    assert_int_equal(bytes, sizeof(small) + 100000);
    container_destroy(c);
}

/* Written at random, with a hole; what is not in order is read back for its sum. */
static void test_folder_at_random(void **state)
{
    struct ferry_error err = {0};
    struct container *c = NULL;
    struct sink *sink = NULL;
    uint8_t sum[SHA256_BYTES];
    uint64_t bytes;

    (void)state;
    CLEANUP_FD int fd = test_folder_open(".", O_RDONLY | O_DIRECTORY);
    ok(container_create_folder(fd, "out", &c, &err), &err);
    ok(container_begin(c, "sparse", CONTAINER_UNKNOWN, &sink, &err), &err);
    ok(sink->write(sink, "start", 5, &err), &err);
    ok(sink->extend(sink, 3 * MIB, &err), &err);
    ok(sink->pwrite(sink, MIB, "middle", 6, &err), &err);
    ok(container_end(c, sum, &bytes, &err), &err);
    assert_int_equal(bytes, 3 * MIB);
    assert_sha256sum("sparse", sum);
    ok(container_begin(c, "short", 10, &sink, &err), &err);
    ok(sink->write(sink, "start", 5, &err), &err);
    assert_int_equal(container_end(c, NULL, NULL, &err), -EINVAL);
    container_destroy(c);
}

/* Sizes, names and content that are known afterwards only. */
static void patch_members(struct container *c)
{
    struct ferry_error err = {0};
    struct sink *sink = NULL;
    uint8_t sum[SHA256_BYTES], expected[SHA256_BYTES];

    ok(container_add(c, "description", "not known yet", 13, NULL, &err), &err);
    ok(container_begin(c, "disk", CONTAINER_UNKNOWN, &sink, &err), &err);
    ok(sink->write(sink, small, sizeof(small), &err), &err);
    ok(container_end(c, NULL, NULL, &err), &err);
    ok(container_rename(c, "blobs/disk-of-27", &err), &err);
    ok(container_add(c, "last", "end", 3, NULL, &err), &err);
    ok(container_replace(c, "description", "all is known.", 13, sum, &err), &err);
    sha256("all is known.", 13, expected);
    assert_memory_equal(sum, expected, SHA256_BYTES);
    assert_int_equal(container_replace(c, "description", "short", 5, NULL, &err), -EINVAL);
    assert_int_equal(container_replace(c, "disk", small, sizeof(small), NULL, &err), -EINVAL);
    ok(container_finish(c, NULL, &err), &err);
    container_destroy(c);
}

static void test_patches(void **state)
{
    struct ferry_error err = {0};
    struct container *c = NULL;
    struct fd_sink sink;

    (void)state;
    CLEANUP_FD int fd = test_folder_open("a.tar", O_CREAT | O_RDWR);
    sink_of_fd(&sink, fd, "tar", false);
    ok(container_create_tar(&sink.sink, &c, &err), &err);
    patch_members(c);
    assert_int_equal(shell("mkdir from-tar folder && tar -C from-tar -xf a.tar"), 0);
    CLEANUP_FD int folder_fd = test_folder_open("folder", O_RDONLY | O_DIRECTORY);
    ok(container_create_folder(folder_fd, "folder", &c, &err), &err);
    patch_members(c);
    assert_int_equal(
        shell("diff -r from-tar folder && test -f folder/blobs/disk-of-27 && ! test -e "
              "folder/disk && grep -qx 'all is known.' folder/description"),
        0);
}

static void test_misuse(void **state)
{
    struct ferry_error err = {0};
    struct container *c = NULL;
    struct sink *member = NULL;
    struct fd_sink sink;
    char name[LIMIT_MEMBER_NAME_BYTES + 2];

    (void)state;
    CLEANUP_FD int fd = test_folder_open("a.tar", O_CREAT | O_RDWR);
    sink_of_fd(&sink, fd, "tar", true);
    ok(container_create_tar(&sink.sink, &c, &err), &err);
    assert_int_equal(container_begin(c, "disk", CONTAINER_UNKNOWN, &member, &err), -EINVAL);
    assert_int_equal(container_add(c, "/etc/passwd", "", 0, NULL, &err), -EINVAL);
    assert_int_equal(container_add(c, "a/../../b", "", 0, NULL, &err), -EINVAL);
    assert_int_equal(container_add(c, "a//b", "", 0, NULL, &err), -EINVAL);
    assert_int_equal(container_add(c, "", "", 0, NULL, &err), -EINVAL);
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    assert_int_equal(container_add(c, name, "", 0, NULL, &err), -ENAMETOOLONG);
    ok(container_add(c, "first", "", 0, NULL, &err), &err);
    assert_int_equal(container_rename(c, "other", &err), -EINVAL);
    assert_int_equal(container_replace(c, "first", "", 0, NULL, &err), -EINVAL);
    ok(container_begin(c, "disk", 10, &member, &err), &err);
    assert_int_equal(member->write(member, "eleven byte", 11, &err), -EINVAL);
    assert_int_equal(container_finish(c, NULL, &err), -EINVAL);
    ok(member->write(member, "nine byte", 9, &err), &err);
    assert_int_equal(container_end(c, NULL, NULL, &err), -EINVAL);
    container_destroy(c);
}

/* ---- Reading ---- */

/* Members and their content, in order, as one sum. */
static void sum_index(int fd, bool is_folder, uint8_t sum[SHA256_BYTES], uint64_t *count)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    struct container_index *index = NULL;
    struct ferry_error err = {0};
    struct sha256 *hash = sha256_new();

    if (!is_folder)
        ok(source_of_fd(fd, "tar", &source, &err), &err);
    ok(is_folder ? container_index_folder(fd, "folder", 100, &index, &err)
                 : container_index_tar(source, 100, &index, &err),
       &err);
    *count = container_members(index);
    for (uint64_t i = 0; i < *count; i++) {
        const struct container_member *m = container_member(index, i);
        uint8_t *data = NULL;
        size_t size = 0;
        assert_ptr_equal(container_find(index, m->name), m);
        ok(container_load(index, m, MIB, &data, &size, &err), &err);
        assert_int_equal(size, m->size_bytes);
        sha256_update(hash, m->name, strlen(m->name) + 1);
        sha256_update(hash, data, size);
        free(data);
        if (m->size_bytes)
            assert_int_equal(container_load(index, m, size - 1, &data, &size, &err), -EFBIG);
    }
    assert_null(container_find(index, "no such"));
    container_index_close(index);
    sha256_final(hash, sum);
}

static void sum_stream(int fd, uint8_t sum[SHA256_BYTES], uint64_t *count)
{
    CLEANUP(stream_cleanup) struct stream *file = stream_of(fd);
    struct container_stream *s = NULL;
    struct container_member m;
    struct ferry_error err = {0};
    struct sha256 *hash = sha256_new();
    uint8_t data[777];
    int more;

    ok(container_stream_open(file, 100, &s, &err), &err);
    for (*count = 0; (more = container_stream_next(s, &m, &err)) == 1; (*count)++) {
        struct stream *content = container_stream_content(s);
        size_t got;
        sha256_update(hash, m.name, strlen(m.name) + 1);
        do {
            ok(content->read(content, data, sizeof(data), &got, &err), &err);
            sha256_update(hash, data, got);
        } while (got);
    }
    ok(more, &err);
    container_stream_close(s);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), lseek(fd, 0, SEEK_END));
    sha256_final(hash, sum);
}

static void test_formats_of_tar(void **state)
{
    static const char *const formats[] = {
        "ustar", "gnu", "oldgnu",
        "v7",    "pax", "pax --pax-option=globexthdr.name=g,comment:=yes,foo=bar"};
    uint8_t expected[SHA256_BYTES], sum[SHA256_BYTES];
    uint64_t expected_count, count;

    (void)state;
    assert_int_equal(
        shell("mkdir -p in/sub/$(printf 'l%%.0s' $(seq 90)) && seq 100 > in/a && : > in/empty && "
              "seq 9999 > in/sub/b && head -c 512 /dev/zero > in/sub/c && "
              "seq 3 > in/sub/$(printf 'l%%.0s' $(seq 90))/d && touch -d '@1.5' in/a"),
        0);
    CLEANUP_FD int in = test_folder_open("in", O_RDONLY | O_DIRECTORY);
    sum_index(in, true, expected, &expected_count);
    assert_int_equal(expected_count, 5);
    for (size_t i = 0; i < sizeof(formats) / sizeof(*formats); i++) {
        /* in the order in which the folder was walked */
        assert_int_equal(shell("rm -f a.tar; cd in; tar --format=%s -cf ../a.tar .", formats[i]),
                         0);
        CLEANUP_FD int tar = test_folder_open("a.tar", O_RDONLY);
        sum_index(tar, false, sum, &count);
        assert_int_equal(count, expected_count);
        sum_stream(tar, expected, &count);
        assert_int_equal(count, expected_count);
        assert_memory_equal(sum, expected, SHA256_BYTES);
    }
    /* and the content is that of the files */
    assert_int_equal(
        shell("cd in; find . -type f | LC_ALL=C sort | sed 's,^./,,' | tar --format=gnu "
              "-cf ../a.tar -T -"),
        0);
    static const char *const names[] = {"a", "empty", "sub/b", "sub/c"};
    CLEANUP_FD int tar = test_folder_open("a.tar", O_RDONLY);
    CLEANUP(source_cleanup) struct source *source = NULL;
    struct container_index *index = NULL;
    assert_int_equal(source_of_fd(tar, "tar", &source, NULL), 0);
    assert_int_equal(container_index_tar(source, 5, &index, NULL), 0);
    for (size_t i = 0; i < 4; i++) {
        const struct container_member *m = container_find(index, names[i]);
        uint8_t *data;
        size_t size;
        char path[100];
        assert_non_null(m);
        assert_int_equal(container_load(index, m, MIB, &data, &size, NULL), 0);
        sha256(data, size, sum);
        free(data);
        snprintf(path, sizeof(path), "in/%s", names[i]);
        assert_sha256sum(path, sum);
    }
    container_index_close(index);
}

static void test_sums_of_a_stream(void **state)
{
    uint8_t sum[DIGEST_MAX_BYTES], data[10];
    char hex[2 * DIGEST_MAX_BYTES + 1];
    struct container_stream *s = NULL;
    struct container_member m;
    size_t got;

    (void)state;
    assert_int_equal(shell("seq 99999 > a; seq 5 > b; seq 7 > c; tar -cf a.tar a b c"), 0);
    CLEANUP_FD int fd = test_folder_open("a.tar", O_RDONLY);
    CLEANUP(stream_cleanup) struct stream *file = stream_of(fd);
    assert_int_equal(container_stream_open(file, 3, &s, NULL), 0);
    assert_int_equal(container_stream_next(s, &m, NULL), 1);
    struct stream *content = container_stream_content(s);
    assert_int_equal(content->read(content, data, sizeof(data), &got, NULL), 0);
    assert_memory_equal(data, "1\n2\n3\n4\n5\n", 10);
    assert_int_equal(container_stream_sum(s, DIGEST_SHA256, sum, NULL), 0);
    assert_sha256sum("a", sum);
    assert_int_equal(container_stream_sum(s, DIGEST_SHA1, sum, NULL), 0);
    assert_int_equal(shell("echo '%s  a' | sha1sum -c --quiet", hex_encode(sum, 20, hex)), 0);
    assert_int_equal(container_stream_sum(s, DIGEST_SHA512, sum, NULL), -EINVAL);
    container_stream_want(s, 1u << DIGEST_SHA512);
    assert_int_equal(container_stream_next(s, &m, NULL), 1);
    assert_string_equal(m.name, "b");
    assert_int_equal(container_stream_sum(s, DIGEST_SHA512, sum, NULL), 0);
    assert_int_equal(shell("echo '%s  b' | sha512sum -c --quiet", hex_encode(sum, 64, hex)), 0);
    assert_int_equal(container_stream_next(s, &m, NULL), 1);
    assert_int_equal(container_stream_next(s, &m, NULL), 0);
    container_stream_close(s);
}

/* ---- Over 8 GiB ---- */

static uint8_t zeroes[4 * MIB];

/* A file in which the zeroes of this test become holes. */
static int write_sparse(struct sink *sink, const void *data, size_t size, struct ferry_error *err)
{
    struct fd_sink *s = (struct fd_sink *)sink;

    (void)err;
    if (data != zeroes)
        assert_int_equal(pwrite_all(s->fd, data, size, sink->position), 0);
    sink->position += size;
    return 0;
}

static void test_large_member(void **state)
{
    struct ferry_error err = {0};
    struct container *c = NULL;
    struct container_index *index = NULL;
    struct fd_sink sink;
    struct sink *member = NULL;

    (void)state;
    CLEANUP_FD int fd = test_folder_open("a.tar", O_CREAT | O_RDWR);
    sink_of_fd(&sink, fd, "tar", false);
    sink.sink.write = write_sparse;
    ok(container_create_tar(&sink.sink, &c, &err), &err);
    container_want_sums(c, false);
    for (int known = 0; known < 2; known++) {
        uint64_t left = BIG_BYTES;
        ok(container_begin(c, known ? "known" : "big", known ? left : CONTAINER_UNKNOWN, &member,
                           &err),
           &err);
        for (; left > 77; left -= left < sizeof(zeroes) ? left - 77 : sizeof(zeroes))
            ok(member->write(member, zeroes, left < sizeof(zeroes) ? left - 77 : sizeof(zeroes),
                             &err),
               &err);
        for (unsigned i = 0; i < 7; i++)
            ok(member->write(member, "eleven byte", 11, &err), &err);
        ok(container_end(c, NULL, NULL, &err), &err);
    }
    ok(container_finish(c, NULL, &err), &err);
    container_destroy(c);
    assert_int_equal(shell("tar -tvf a.tar | grep -c ' 9663676493 ' | grep -qx 2"), 0);

    CLEANUP(source_cleanup) struct source *source = NULL;
    ok(source_of_fd(fd, "tar", &source, &err), &err);
    ok(container_index_tar(source, 4, &index, &err), &err);
    const struct container_member *m = container_find(index, "known");
    CLEANUP(source_cleanup) struct source *content = NULL;
    char tail[11];
    assert_int_equal(m->size_bytes, BIG_BYTES);
    ok(container_source(index, m, &content, &err), &err);
    ok(content->pread(content, BIG_BYTES - 11, tail, 11, &err), &err);
    assert_memory_equal(tail, "eleven byte", 11);
    container_index_close(index);
    /* and one that says to be larger than the file */
    assert_int_equal(ftruncate(fd, (off_t)(9 * GIB)), 0);
    source_close(take_ptr(&content));
    source_close(take_ptr(&source));
    ok(source_of_fd(fd, "tar", &source, &err), &err);
    assert_int_equal(container_index_tar(source, 4, &index, &err), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_IN_FOLDER(test_tar_is_read_by_tar),
        TEST_IN_FOLDER(test_folder),
        TEST_IN_FOLDER(test_folder_at_random),
        TEST_IN_FOLDER(test_patches),
        TEST_IN_FOLDER(test_misuse),
        TEST_IN_FOLDER(test_formats_of_tar),
        TEST_IN_FOLDER(test_sums_of_a_stream),
        TEST_IN_FOLDER(test_large_member),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
