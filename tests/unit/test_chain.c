/* Images that build on others: what a child stores, what is read through it, and what is refused.
 */
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
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/chain.h"
#include "imagefmt/rewrite.h"
#include "tests/support/image_forge.h"
#include "tests/support/image_sample.h"

#define CHUNK  ((size_t)16384)
#define CHUNKS ((size_t)300)
#define SMALL  ((size_t)4096) /* other chunks */
#define BYTES  (CHUNKS * CHUNK + 5000)

struct bench {
    char folder[64];
    const char *manifest;
    uint8_t *content;
};

static void setup(struct bench *b)
{
    uint64_t seed = 11;

    b->manifest = "{}";
    snprintf(b->folder, sizeof(b->folder), "/tmp/ferry-chain.XXXXXX");
    assert_non_null(mkdtemp(b->folder));
    assert_non_null(b->content = calloc(1, 2 * BYTES));
    for (size_t i = 0; i < BYTES; i++) /* a third of the chunks is zero */
        b->content[i] = i / CHUNK % 3 ? (uint8_t)sample_random(&seed) : 0;
}

static void teardown(const struct bench *b)
{
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    char path[128];

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        snprintf(path, sizeof(path), "%s/%s.ferry", b->folder, names[i]);
        unlink(path);
        snprintf(path, sizeof(path), "%s/%s.image", b->folder, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(b->folder), 0);
    free(b->content);
}

static const char *path_of(const struct bench *b, const char *name, char path[128])
{
    snprintf(path, 128, "%s/%s", b->folder, name);
    return path;
}

/* One disk with the first size bytes of the content, into file `name`. */
static void write_image(const struct bench *b, const char *name, const char *base_name, size_t size,
                        uint32_t chunk, unsigned workers)
{
    char path[128];
    struct ferry_error err = {0};
    CLEANUP(image_cleanup) struct image *base = NULL;
    struct image_writer *w;

    if (base_name)
        assert_int_equal(image_open_path(path_of(b, base_name, path), NULL, &base, &err), 0);
    const struct image_writer_options options = {.base = base, .workers = workers};
    int fd = open(path_of(b, name, path), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(image_writer_create(fd, &options, b->manifest, strlen(b->manifest), &w, &err),
                     0);
    assert_int_equal(image_writer_begin(w, IMAGE_DISK, "vda", size, chunk, &err), 0);
    for (uint64_t i = 0; i * chunk < size; i++)
        assert_int_equal(image_writer_chunk(w, i, b->content + i * chunk, &err), 0);
    assert_int_equal(image_writer_end(w, &err), 0);
    assert_int_equal(image_writer_finish(w, NULL, &err), 0);
    image_writer_destroy(w);
    close(fd);
}

static size_t size_of(const struct bench *b, const char *name)
{
    char path[128];
    struct stat st;

    assert_int_equal(stat(path_of(b, name, path), &st), 0);
    return (size_t)st.st_size;
}

struct sums {
    uint8_t *content;
    uint64_t next;
};

static int take(void *opaque, const struct image_section *section, uint64_t offset,
                const uint8_t *data, size_t size, struct ferry_error *err)
{
    struct sums *s = opaque;

    (void)err;
    assert_true(offset >= s->next && offset + size <= section->size);
    memcpy(s->content + offset, data, size);
    s->next = offset + 1;
    return 0;
}

/* All ways of reading give these bytes. */
static void expect_content(const struct bench *b, const char *name, size_t size)
{
    static const struct image_visitor visitor = {.chunk = take};
    char path[128];
    struct ferry_error err = {0};
    CLEANUP(image_cleanup) struct image *image = NULL;
    uint8_t *got = calloc(1, size);
    struct sums sums = {.content = got};

    assert_non_null(got);
    if (image_open_path(path_of(b, name, path), NULL, &image, &err))
        fail_msg("%s: %s (%s)", err.about, err.message, err.cause);
    if (image_check_pages(image, 0, &err))
        fail_msg("%s: %s", err.about, err.message);
    assert_int_equal(image_pread(image, 0, 0, got, size, &err), 0);
    assert_memory_equal(got, b->content, size);
    memset(got, 0, size);
    assert_int_equal(image_walk(image, 0, 2, take, &sums, &err), 0);
    assert_memory_equal(got, b->content, size);
    memset(got, 0, size);
    sums.next = 0;
    int fd = open(path, O_RDONLY);
    struct image_summary summary;
    if (image_read(fd, path, NULL, 2, &visitor, &sums, &summary, &err))
        fail_msg("%s: %s", err.about, err.message);
    assert_memory_equal(got, b->content, size);
    assert_memory_equal(summary.root, image_summary(image)->root, SHA256_BYTES);
    close(fd);
    free(got);
}

static void test_little_is_stored(void **state)
{
    (void)state;
    struct bench b;
    setup(&b);
    write_image(&b, "a.ferry", NULL, BYTES, CHUNK, 1);
    write_image(&b, "b.ferry", "a.ferry", BYTES, CHUNK, 1);
    assert_in_range(size_of(&b, "b.ferry"), 1, 3000); /* a few nodes */
    expect_content(&b, "b.ferry", BYTES);

    /* Changed, turned to zero, from zero, at both ends; on top of a child. */
    b.content[0] = 1;
    memset(b.content + 100 * CHUNK, 0, CHUNK);
    memset(b.content + 150 * CHUNK, 7, CHUNK);
    b.content[BYTES - 1] ^= 1;
    write_image(&b, "c.ferry", "b.ferry", BYTES, CHUNK, 1);
    assert_in_range(size_of(&b, "c.ferry"), 1, CHUNK + 5000 + 8000);
    expect_content(&b, "c.ferry", BYTES);

    /* The same bytes whatever the number of workers. */
    write_image(&b, "d.ferry", "b.ferry", BYTES, CHUNK, 3);
    assert_int_equal(size_of(&b, "c.ferry"), size_of(&b, "d.ferry"));
    teardown(&b);
}

static void test_random_changes(void **state)
{
    (void)state;
    struct bench b;
    uint64_t seed = 5;
    setup(&b);
    write_image(&b, "a.ferry", NULL, BYTES, CHUNK, 0);
    for (int round = 0; round < 30; round++) {
        for (uint64_t n = sample_random(&seed) % 40; n; n--) {
            size_t at = sample_random(&seed) % (CHUNKS + 1) * CHUNK;
            size_t size = BYTES - at < CHUNK ? BYTES - at : CHUNK;
            memset(b.content + at, (int)(sample_random(&seed) % 3), size);
        }
        write_image(&b, "b.ferry", "a.ferry", BYTES, CHUNK, 0);
        expect_content(&b, "b.ferry", BYTES);
    }
    teardown(&b);
}

static void test_other_sizes(void **state)
{
    (void)state;
    struct bench b;
    setup(&b);
    write_image(&b, "a.ferry", NULL, BYTES, CHUNK, 0);
    /* Grown: zeroes follow where the old disk ended. */
    write_image(&b, "b.ferry", "a.ferry", 2 * BYTES, CHUNK, 0);
    assert_in_range(size_of(&b, "b.ferry"), 1, 4000);
    expect_content(&b, "b.ferry", 2 * BYTES);
    /* Shrunk: to the middle of a chunk that ends with zeroes. */
    memset(b.content + 100 * CHUNK + 512, 0, CHUNK - 512);
    write_image(&b, "c.ferry", "b.ferry", 100 * CHUNK + 1024, CHUNK, 0);
    expect_content(&b, "c.ferry", 100 * CHUNK + 1024);
    write_image(&b, "d.ferry", "c.ferry", 100 * CHUNK + 512, CHUNK, 0);
    assert_in_range(size_of(&b, "d.ferry"), 1, 4000);
    expect_content(&b, "d.ferry", 100 * CHUNK + 512);
    /* Other chunks: all is stored again. */
    write_image(&b, "e.ferry", "a.ferry", BYTES, 4096, 0);
    assert_true(size_of(&b, "e.ferry") > BYTES / 2);
    expect_content(&b, "e.ferry", BYTES);
    teardown(&b);
}

static void test_flatten_and_rebase(void **state)
{
    (void)state;
    struct bench b;
    char path[128];
    struct ferry_error err = {0};
    uint8_t root[SHA256_BYTES];
    uint64_t bytes;
    setup(&b);
    write_image(&b, "a.ferry", NULL, BYTES, CHUNK, 0);
    b.content[7 * CHUNK] ^= 1;
    write_image(&b, "b.ferry", "a.ferry", BYTES, CHUNK, 0);
    b.content[8 * CHUNK] ^= 1;
    write_image(&b, "c.ferry", "b.ferry", BYTES, CHUNK, 0);

    CLEANUP(image_cleanup) struct image *from = NULL, *base = NULL;
    assert_int_equal(image_open_path(path_of(&b, "c.ferry", path), NULL, &from, &err), 0);
    struct rewrite_options options = {0};
    int fd = open(path_of(&b, "d.ferry", path), O_WRONLY | O_CREAT, 0600);
    assert_int_equal(image_rewrite(from, fd, &options, root, &bytes, &err), 0);
    close(fd);
    assert_int_equal(bytes, size_of(&b, "d.ferry"));
    assert_memory_equal(root, image_summary(from)->root, SHA256_BYTES);

    assert_int_equal(image_open_path(path_of(&b, "a.ferry", path), NULL, &base, &err), 0);
    options.writer.base = base;
    fd = open(path_of(&b, "e.ferry", path), O_WRONLY | O_CREAT, 0600);
    assert_int_equal(image_rewrite(from, fd, &options, root, &bytes, &err), 0);
    close(fd);
    assert_true(bytes < 3 * CHUNK);
    unlink(path_of(&b, "b.ferry", path));
    unlink(path_of(&b, "c.ferry", path));
    expect_content(&b, "e.ferry", BYTES);
    unlink(path_of(&b, "a.ferry", path));
    expect_content(&b, "d.ferry", BYTES);
    teardown(&b);
}

static void expect_refused(const struct bench *b, const char *name, const char *why)
{
    char path[128], text[1024];
    struct ferry_error err = {0};
    CLEANUP(image_cleanup) struct image *image = NULL;

    int error = image_open_path(path_of(b, name, path), NULL, &image, &err);
    if (!error)
        error = image_check_pages(image, 0, &err);
    assert_true(error < 0);
    ferry_error_text(&err, text, sizeof(text));
    assert_int_equal(err.kind, FERRY_REFUSED);
    if (!strstr(text, why))
        fail_msg("'%s', wanted '%s'", text, why);
    int fd = open(path, O_RDONLY);
    assert_true(image_read(fd, path, NULL, 1, NULL, NULL, NULL, &err) < 0);
    assert_int_equal(err.kind, FERRY_REFUSED);
    close(fd);
}

static void test_missing_and_wrong_bases(void **state)
{
    (void)state;
    struct bench b;
    char path[128], other[128];
    struct ferry_error err = {0};
    setup(&b);
    write_image(&b, "a.ferry", NULL, BYTES, CHUNK, 0);
    b.content[9 * CHUNK] ^= 1;
    write_image(&b, "b.ferry", "a.ferry", BYTES, CHUNK, 0);
    rename(path_of(&b, "a.ferry", path), path_of(&b, "a.image", other));
    expect_refused(&b, "b.ferry", "neither beside it nor in --search-path");
    /* It can still be looked at. */
    CLEANUP(image_cleanup) struct image *image = NULL;
    struct image *base;
    assert_int_equal(image_open_path(path_of(&b, "b.ferry", path), NULL, &image, &err), 0);
    assert_true(image_summary(image)->child);
    assert_true(image_base(image, &base, &err) < 0);
    /* Another image in its place is not taken. */
    write_image(&b, "a.ferry", NULL, BYTES, CHUNK, 0);
    expect_refused(&b, "b.ferry", "neither beside it");
    /* A damaged one is named. */
    rename(path_of(&b, "a.image", other), path_of(&b, "a.ferry", path));
    expect_content(&b, "b.ferry", BYTES);
    int fd = open(path, O_RDWR);
    uint8_t byte;
    assert_int_equal(pread_all(fd, &byte, 1, 100), 0);
    byte ^= 1;
    assert_int_equal(pwrite_all(fd, &byte, 1, 30), 0);
    close(fd);
    expect_refused(&b, "b.ferry", "that one is no good");
    /* Equal content: a child has the root of its base, and does not take itself for it. */
    write_image(&b, "c.ferry", NULL, BYTES, CHUNK, 0);
    write_image(&b, "d.ferry", "c.ferry", BYTES, CHUNK, 0);
    expect_content(&b, "d.ferry", BYTES);
    unlink(path_of(&b, "c.ferry", path));
    unlink(path_of(&b, "b.ferry", path)); /* which has this root, too */
    expect_refused(&b, "d.ferry", "neither beside it");
    teardown(&b);
}

/*
 * As many images as a chain may have, beside as many others: each of them looks through the folder.
 * One more is refused.
 */
static void test_longest_chain(void **state)
{
    enum { FILES = 2 * LIMIT_CHAIN };
    struct bench b;
    char name[32], before[32], path[128], manifest[32];
    struct ferry_error err = {0};
    struct image *base = NULL;
    uint8_t byte;

    (void)state;
    setup(&b);
    b.manifest = manifest;
    for (unsigned i = 0; i < FILES; i++) {
        snprintf(manifest, sizeof(manifest), "{\"n\": %u}", i);
        snprintf(name, sizeof(name), "n%u.ferry", i);
        snprintf(before, sizeof(before), "n%u.ferry", i - 1);
        b.content[0] = (uint8_t)i;
        write_image(&b, name, i && i <= LIMIT_CHAIN + 1 ? before : NULL, 3 * CHUNK, CHUNK, 1);
    }
    for (unsigned i = LIMIT_CHAIN; i <= LIMIT_CHAIN + 1; i++) {
        CLEANUP(image_cleanup) struct image *image = NULL;
        snprintf(name, sizeof(name), "n%u.ferry", i);
        assert_int_equal(image_open_path(path_of(&b, name, path), NULL, &image, &err), 0);
        assert_int_equal(image_base(image, &base, &err), i == LIMIT_CHAIN ? 0 : -ELOOP);
        if (i == LIMIT_CHAIN)
            assert_int_equal(image_pread(image, 0, CHUNK, &byte, 1, &err), 0);
    }
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_non_null(strstr(err.message, "too many images"));
    for (unsigned i = 0; i < FILES; i++) {
        snprintf(name, sizeof(name), "n%u.ferry", i);
        unlink(path_of(&b, name, path));
    }
    teardown(&b);
}

/* Copies the record with this tag; to where its body goes. */
static size_t copy_record(struct forge *f, const uint8_t *bytes, size_t size, const char *tag)
{
    struct forge_record record;
    size_t at = 0, body = f->out.size + 20;

    while (forge_record_at(bytes, size, at, &record) > 0 && strcmp(record.tag, tag))
        at += record.size + record.stored;
    assert_string_equal(record.tag, tag);
    forge_begin(f, tag);
    writer_copy(&f->out, bytes + at + 20, record.size - 28);
    forge_end(f);
    return body;
}

/* A base that claims the digests of what it once held, and holds nothing: the table says so, and
 * only a look at all pages tells. */
static void empty_image(const struct bench *b, const char *name)
{
    enum { ENTRY = 52 + 16 + 3 + 32 }; /* ROOT: where the section's own numbers begin */
    struct forge f = forge_new();
    char path[128];
    struct ferry_error err = {0};
    uint8_t *bytes;
    size_t size = 0;

    assert_int_equal(file_read(path_of(b, name, path), 64 << 20, &bytes, &size, &err), 0);
    copy_record(&f, bytes, size, "HEAD");
    copy_record(&f, bytes, size, "MANI");
    copy_record(&f, bytes, size, "DATA");
    copy_record(&f, bytes, size, "DEND");
    uint64_t root_at = f.out.size;
    size_t root = copy_record(&f, bytes, size, "ROOT");
    memset(f.out.data + root + ENTRY + 8, 0, 32); /* chunks, their bytes, first page */
    size_t foot = copy_record(&f, bytes, size, "FOOT");
    uint64_t numbers[] = {root_at, 0, root_at, f.out.size}; /* x86: little-endian */
    memcpy(f.out.data + foot + 4, numbers, sizeof(numbers));
    forge_repair_all(f.out.data, f.out.size);
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write_all(fd, f.out.data, f.out.size), 0);
    close(fd);
    forge_free(&f);
    free(bytes);
}

/* The child is made one of another base. */
static void put_base(const struct bench *b, const char *name, const char *base_name)
{
    char path[128];
    struct ferry_error err = {0};
    CLEANUP(image_cleanup) struct image *base = NULL;
    struct forge_record record = {0};
    uint8_t *bytes;
    size_t size = 0;

    assert_int_equal(image_open_path(path_of(b, base_name, path), NULL, &base, &err), 0);
    assert_int_equal(file_read(path_of(b, name, path), 64 << 20, &bytes, &size, &err), 0);
    for (size_t at = 0; strcmp(record.tag, "BASE"); at += record.size + record.stored)
        assert_int_equal(forge_record_at(bytes, size, at, &record), 1);
    memcpy(bytes + record.start + 20, image_summary(base)->root, SHA256_BYTES);
    forge_repair(bytes, &record);
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write_all(fd, bytes, size), 0);
    close(fd);
    free(bytes);
}

/*
 * A child whose table, root and pages all speak of one content, over a base that has another one:
 * so somebody else's signature could be made to vouch for it.
 */
static void test_right_digests_of_another_base(void **state)
{
    struct bench b;

    (void)state;
    setup(&b);
    write_image(&b, "a.ferry", NULL, BYTES, CHUNK, 1);
    write_image(&b, "c.ferry", "a.ferry", BYTES, CHUNK, 1);
    expect_content(&b, "c.ferry", BYTES);
    b.content[9 * CHUNK] ^= 1;
    write_image(&b, "b.ferry", NULL, BYTES, CHUNK, 1);
    put_base(&b, "c.ferry", "b.ferry");
    expect_refused(&b, "c.ferry", "damaged");
    teardown(&b);
}

/*
 * Thousands of single nodes kept of a child that keeps them of a child that keeps them of nothing:
 * if each asked the one below for more than its own span, no time would be enough for the fourth.
 */
static void test_long_ways_to_nothing(void **state)
{
    static const char *const names[] = {"a.ferry", "b.ferry", "c.ferry", "d.ferry", "e.ferry"};
    struct bench b;
    struct ferry_error err = {0};
    char path[128], manifest[16];

    (void)state;
    setup(&b);
    memset(b.content, 1, BYTES);
    write_image(&b, names[0], NULL, BYTES, SMALL, 1);
    for (size_t at = 0; at + SMALL < BYTES; at += 2 * SMALL)
        memset(b.content + at, 0, SMALL);
    for (unsigned i = 1; i < 5; i++) {
        snprintf(manifest, sizeof(manifest), "{\"n\": %u}", i);
        b.manifest = manifest;
        write_image(&b, names[i], names[0], BYTES, SMALL, 1);
        put_base(&b, names[i], names[i - 1]);
    }
    expect_content(&b, names[4], BYTES);
    empty_image(&b, names[0]);
    CLEANUP(image_cleanup) struct image *image = NULL;
    assert_int_equal(image_open_path(path_of(&b, names[4], path), NULL, &image, &err), 0);
    assert_int_equal(image_check_pages(image, 0, &err), -EBADMSG);
    assert_int_equal(err.kind, FERRY_REFUSED);
    teardown(&b);
}

/* Every record of a child with one byte of its body changed and its sum made right. */
static void test_forged(void **state)
{
    (void)state;
    struct bench b;
    char path[128];
    struct ferry_error err = {0};
    size_t size = 0;
    uint8_t *bytes, *copy;
    struct forge_record record;
    setup(&b);
    write_image(&b, "a.ferry", NULL, BYTES, CHUNK, 0);
    b.content[9 * CHUNK] ^= 1;
    write_image(&b, "b.ferry", "a.ferry", BYTES, CHUNK, 0);
    assert_int_equal(file_read(path_of(&b, "b.ferry", path), 1 << 20, &bytes, &size, &err), 0);
    assert_non_null(copy = malloc(size));
    for (size_t at = 0; forge_record_at(bytes, size, at, &record) > 0;
         at += record.size + record.stored) {
        for (size_t i = 20; i<record.size - 8; i += record.size> 400 ? 7 : 1) {
            memcpy(copy, bytes, size);
            copy[at + i] ^= 0x40;
            forge_repair(copy, &record);
            if (!memcmp(copy, bytes, size))
                continue; /* it was the sum of what is stored */
            int fd = open(path_of(&b, "c.ferry", path), O_RDWR | O_CREAT | O_TRUNC, 0600);
            assert_int_equal(write_all(fd, copy, size), 0);
            assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
            if (image_read(fd, path, NULL, 1, NULL, NULL, NULL, &err) == 0)
                fail_msg("%s: byte %zu of the body was taken", record.tag, i - 20);
            assert_int_equal(err.kind, FERRY_REFUSED);
            struct image *image = NULL;
            int error = image_open(fd, path, NULL, &image, &err);
            if (!error && !image_check_pages(image, 0, &err)) {
                struct sums sums = {.content = copy};
                uint8_t *got = calloc(1, BYTES);
                sums.content = got;
                if (!image_walk(image, 0, 1, take, &sums, &err))
                    assert_memory_equal(got, b.content, BYTES); /* DATA, DEND: not looked at */
                free(got);
            }
            image_close(image);
            close(fd);
        }
    }
    free(bytes);
    free(copy);
    teardown(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_little_is_stored),
        cmocka_unit_test(test_random_changes),
        cmocka_unit_test(test_other_sizes),
        cmocka_unit_test(test_flatten_and_rebase),
        cmocka_unit_test(test_missing_and_wrong_bases),
        cmocka_unit_test(test_longest_chain),
        cmocka_unit_test(test_right_digests_of_another_base),
        cmocka_unit_test(test_long_ways_to_nothing),
        cmocka_unit_test(test_forged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
