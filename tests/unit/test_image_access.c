/* Random access: the same content as in a sequential read, and refusals of a hostile index. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/content.h"
#include "imagefmt/format.h"
#include "tests/support/image_forge.h"
#include "tests/support/image_sample.h"

/* Each look at an image starts a thread or two, which the sanitizers do slowly: there, a sample. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SLOW 1
#endif
#elif defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLOW 1
#endif
#ifdef SLOW
enum { STEP = 101 };
#else
enum { STEP = 1 };
#endif

static void report(const struct ferry_error *err)
{
    char text[768];

    if (err->code)
        print_message("%s\n", ferry_error_text(err, text, sizeof(text)));
}

static void test_round_trip(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct sample sample;
        struct ferry_error err = {0};
        size_t size = 0;
        sample_fill(&sample, seed);
        CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
        CLEANUP_FD int fd = sample_fd(image, size);
        int error = sample_access(&sample, fd, &err);
        report(&err);
        assert_int_equal(error, 0);
        assert_int_equal(sample_access_bytes(image, size, NULL), 0);
        sample_free(&sample);
    }
}

/* Several pages, with holes between them and within them. */
static void many_pages(struct sample *sample)
{
    *sample = (struct sample){.manifest = "{}"};
    sample_add(sample, IMAGE_DISK, "vda", 6000 * UINT64_C(4096) + 5, 4096, 1);
    for (uint64_t i = 0; i < 6001; i++)
        memset(sample->sections[0].content + i * 4096, i % 7 && i / 1500 != 2 ? (int)i | 1 : 0,
               i == 6000 ? 5 : 4096);
    sample_add(sample, IMAGE_RAM, "ram", 4 * MIB, 4096, 1);
    memset(sample->sections[1].content, 3, sample->sections[1].size);
}

static void test_pages(void **state)
{
    struct sample sample;
    struct ferry_error err = {0};
    CLEANUP(image_cleanup) struct image *image = NULL;
    struct image_chunk chunk;
    size_t size = 0;

    (void)state;
    many_pages(&sample);
    CLEANUP_FREE uint8_t *bytes = sample_image(&sample, NULL, &size);
    CLEANUP_FD int fd = sample_fd(bytes, size);
    int error = sample_access(&sample, fd, &err);
    report(&err);
    assert_int_equal(error, 0);
    assert_int_equal(image_open(fd, "sample", NULL, &image, NULL), 0);
    for (uint64_t i = 0; i < 6001; i++) {
        bool stored = i % 7 && i / 1500 != 2;
        assert_int_equal(image_next_chunk(image, 0, i, &chunk, NULL), i < 6000 || stored);
        assert_true(stored ? chunk.index == i : i == 6000 || chunk.index > i);
    }
    assert_int_equal(image_next_chunk(image, 0, UINT64_MAX, &chunk, NULL), 0);
    /* the digest follows from the pages alone */
    struct content_tree tree = {0};
    uint8_t digest[SHA256_BYTES];
    for (uint64_t i = 0; image_next_chunk(image, 0, i, &chunk, NULL) > 0; i = chunk.index + 1)
        content_add(&tree, chunk.index, 0, chunk.digest);
    content_digest(&tree, sample.sections[0].size, digest);
    assert_memory_equal(digest, image_section(image, 0)->digest, SHA256_BYTES);
    sample_free(&sample);
}

static void test_usage(void **state)
{
    struct sample sample;
    CLEANUP(image_cleanup) struct image *image = NULL;
    uint8_t some[16], *data = NULL;
    size_t size = 0;
    int ends[2];

    (void)state;
    sample_small(&sample);
    CLEANUP_FREE uint8_t *bytes = sample_image(&sample, NULL, &size);
    CLEANUP_FD int fd = sample_fd(bytes, size);
    assert_int_equal(image_open(fd, "sample", NULL, &image, NULL), 0);
    assert_int_equal(image_sections(image), 3);
    assert_int_equal(image_find(image, IMAGE_DISK, "ram"), -1);
    assert_int_equal(image_pread(image, 0, 0, some, 1, NULL), -EINVAL);
    assert_int_equal(image_pread(image, 2, 8700, some, 5, NULL), -EINVAL);
    assert_int_equal(image_pread(image, 2, UINT64_MAX, some, 5, NULL), -EINVAL);
    assert_int_equal(image_pread(image, 2, 8704, some, 0, NULL), 0);
    assert_int_equal(image_state(image, 1, &data, NULL), -EINVAL);
    assert_int_equal(pipe(ends), 0);
    struct image *none = NULL;
    struct ferry_error err = {0};
    assert_int_equal(image_open(ends[0], "pipe", NULL, &none, &err), -ESPIPE);
    assert_int_equal(err.kind, FERRY_FAILED);
    close(ends[0]);
    close(ends[1]);
    sample_free(&sample);
}

/* Damaged bytes: refused, or in a place that random access does not look at: then all is right. */
static void refused_or_right(const struct sample *sample, const uint8_t *bytes, size_t size)
{
    struct ferry_error err = {0};
    CLEANUP_FD int fd = sample_fd(bytes, size);
    int error = sample_access(sample, fd, &err);

    if (error && err.kind != FERRY_REFUSED)
        fail_msg("error %d, kind %d: '%s'", error, (int)err.kind, err.message);
}

static void test_every_bit(void **state)
{
    struct forge_record record;
    struct sample sample;
    size_t size = 0;

    (void)state;
    sample_small(&sample);
    CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
    CLEANUP_FREE uint8_t *copy = malloc(size);
    for (size_t at = 0; forge_record_at(image, size, at, &record);
         at += record.size + record.stored)
        for (size_t bit = 8 * at; bit < 8 * (at + record.size + record.stored); bit += STEP) {
            memcpy(copy, image, size);
            copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
            refused_or_right(&sample, copy, size);
            bool counted = !strcmp(record.tag, "DEND") || !strcmp(record.tag, "DATA");
            struct ferry_error err = {0};
            if (!counted && (!sample_access_bytes(copy, size, &err) || err.kind != FERRY_REFUSED))
                fail_msg("bit %zu of %s was taken", bit - 8 * at, record.tag);
        }
    sample_free(&sample);
}

/* With all sums made right again whatever is read must still be what it was: either the place is
 * refused, or it is one that the root does not cover and nothing depends on. */
static void test_every_bit_repaired(void **state)
{
    struct forge_record record;
    struct sample sample;
    size_t size = 0;

    (void)state;
    sample_small(&sample);
    CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
    CLEANUP_FREE uint8_t *copy = malloc(size);
    for (size_t at = 0; forge_record_at(image, size, at, &record);
         at += record.size + record.stored)
        for (size_t byte = 8; byte < record.size + record.stored; byte += STEP) {
            memcpy(copy, image, size);
            copy[at + byte] ^= (uint8_t)(1u << byte % 8);
            forge_repair(copy, &record);
            refused_or_right(&sample, copy, size);
        }
    sample_free(&sample);
}

static void test_every_truncation(void **state)
{
    struct sample sample;
    size_t size = 0;

    (void)state;
    sample_small(&sample);
    CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
    for (size_t cut = 0; cut < size; cut++) {
        struct ferry_error err = {0};
        assert_true(sample_access_bytes(image, cut, &err) < 0);
        assert_int_equal(err.kind, FERRY_REFUSED);
    }
    sample_free(&sample);
}

static struct forge_record find_record(const uint8_t *image, size_t size, const char *tag)
{
    struct forge_record record;

    for (size_t at = 0; forge_record_at(image, size, at, &record);
         at += record.size + record.stored)
        if (!strcmp(record.tag, tag))
            return record;
    fail_msg("no record %s", tag);
    return record;
}

/* One number of the first record of a kind changed, its sums made right: refused for what it is. */
static void altered(const char *tag, size_t at, uint64_t value, size_t bytes, const char *what)
{
    struct ferry_error err = {0};
    struct sample sample;
    size_t size = 0;

    many_pages(&sample);
    CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
    struct forge_record record = find_record(image, size, tag);
    memcpy(image + record.start + RECORD_HEAD_BYTES + at, &value, bytes); /* x86: little-endian */
    forge_repair(image, &record);
    int error = sample_access_bytes(image, size, &err);
    if (!error || err.kind != FERRY_REFUSED || !strstr(err.message, what))
        fail_msg("%s %zu: error %d: '%s', wanted '%s'", tag, at, error, err.message, what);
    sample_free(&sample);
}

enum { PAGE_ENTRY_0 = 8, PAGE_ENTRY_1 = 64, INDEX_ENTRY_0 = 4, INDEX_ENTRY_1 = 28 };

static void test_hostile_page(void **state)
{
    static const uint64_t far[] = {0, 44, UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 100};

    (void)state;
    altered("PAGE", 0, 1, 4, "a page is not the one that belongs there");
    altered("PAGE", 4, 1023, 4, "a page is not the one that belongs there");
    altered("PAGE", 4, 1025, 4, "a page is not the one that belongs there");
    altered("PAGE", PAGE_ENTRY_0, 2, 8, "out of order"); /* equal to its neighbour */
    altered("PAGE", PAGE_ENTRY_1, 0, 8, "out of order");
    altered("PAGE", PAGE_ENTRY_1, UINT64_MAX, 8, "behind the end of its section");
    altered("PAGE", PAGE_ENTRY_1, 6001, 8, "behind the end of its section");
    for (size_t i = 0; i < sizeof(far) / sizeof(*far); i++)
        altered("PAGE", PAGE_ENTRY_1 + 8, far[i], 8, "overlap or lie outside");
    altered("PAGE", PAGE_ENTRY_1 + 16, 0, 4, "impossible size");
    altered("PAGE", PAGE_ENTRY_1 + 16, UINT32_MAX, 4, "impossible size");
    altered("PAGE", PAGE_ENTRY_1 + 16, 25, 4, "damaged");
    altered("PAGE", PAGE_ENTRY_1 + 20, 2, 1,
            "overlap or lie outside"); /* as an earlier one, here */
    altered("PAGE", PAGE_ENTRY_1 + 20, 0, 1, "unknown codec");
    altered("PAGE", PAGE_ENTRY_1 + 20, 3, 1, "a base that the image does not have");
    altered("PAGE", PAGE_ENTRY_1 + 20, 4, 1, "unknown codec");
    altered("PAGE", PAGE_ENTRY_1 + 21, 1, 1, "impossible level");
    altered("PAGE", PAGE_ENTRY_1 + 21, 255, 1, "");
    altered("PAGE", PAGE_ENTRY_1 + 22, 1, 2, "reserved bytes");
    altered("PAGE", PAGE_ENTRY_1 + 24, 1, 8, "the index speaks of another chunk");
}

static void test_hostile_index(void **state)
{
    static const uint64_t far[] = {0, 44, UINT64_C(1) << 63, UINT64_MAX};

    (void)state;
    altered("INDX", 0, 0, 4, "impossible length");
    altered("INDX", INDEX_ENTRY_0, 1, 4, "belongs to another section");
    altered("INDX", INDEX_ENTRY_0, UINT32_MAX, 4, "belongs to another section");
    altered("INDX", INDEX_ENTRY_0 + 4, 1, 4, "another number of chunks");
    altered("INDX", INDEX_ENTRY_0 + 8, UINT64_MAX, 8, "begins behind the end");
    altered("INDX", INDEX_ENTRY_1 + 8, 1, 8, "out of order");
    for (size_t i = 0; i < sizeof(far) / sizeof(*far); i++)
        altered("INDX", INDEX_ENTRY_1 + 16, far[i], 8, "lies outside its section");
    altered("INDX", INDEX_ENTRY_1 + 16, 300, 8, "out of order");
}

/* Footer and section table: numbers at their limits. */
static void test_hostile_table(void **state)
{
    static const uint64_t far[] = {UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 95};
    enum { SECTION_0 = 52, SIZE = SECTION_0 + 8, OFFSET = SECTION_0 + 16 + 3 + 32 };

    (void)state;
    for (size_t i = 0; i < sizeof(far) / sizeof(*far); i++) {
        altered("FOOT", 4, far[i], 8, "points out of the image");
        altered("FOOT", 20, far[i], 8, "points out of the image");
        altered("FOOT", 28, far[i], 8, "does not match the section table");
        altered("ROOT", SIZE, far[i], 8, "larger than a disk may be");
        altered("ROOT", OFFSET, far[i], 8, "out of its place");
        altered("ROOT", OFFSET + 8, far[i], 8, "impossible number of chunks");
        altered("ROOT", OFFSET + 16, far[i], 8, "impossible number of chunks");
        altered("ROOT", OFFSET + 24, far[i], 8, "impossible number of chunks");
        altered("ROOT", OFFSET + 32, far[i], 8, "do not follow each other");
        altered("ROOT", 0, far[i], 8, "impossible numbers");
    }
    altered("ROOT", 48, 1u << 31, 4, "impossible numbers");
    altered("ROOT", OFFSET, 0, 8, "out of its place");
    altered("ROOT", SECTION_0 + 16, 0, 1, "impossible name");
    altered("ROOT", SECTION_0 + 19, 0, 1, "does not match its root");
    altered("HEAD", 8, 2, 4, "newer than this ferry");
    altered("HEAD", 12, 4, 4, "no such version or features");
}

/* Two records change places: each still has a right sum, but neither lies where it says. */
static void test_swapped_chunks(void **state)
{
    struct sample sample;
    struct ferry_error err = {0};
    size_t size = 0;

    (void)state;
    many_pages(&sample);
    CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
    struct forge_record one = find_record(image, size, "CHNK"), other;
    size_t at = one.start + one.size + one.stored;
    for (; forge_record_at(image, size, at, &other) &&
           (other.size != one.size || other.stored != one.stored);
         at += other.size + other.stored)
        ;
    for (size_t i = 0; i < one.size + one.stored; i++) {
        uint8_t byte = image[one.start + i];
        image[one.start + i] = image[other.start + i];
        image[other.start + i] = byte;
    }
    assert_true(sample_access_bytes(image, size, &err) < 0);
    assert_int_equal(err.kind, FERRY_REFUSED);
    forge_repair(image, &one);
    forge_repair(image, &other);
    assert_true(sample_access_bytes(image, size, &err) < 0);
    assert_non_null(strstr(err.message, "speaks of another chunk"));
    sample_free(&sample);
}

/*
 * The index of a section with large chunks leads to the record of a small one, which is in the
 * cache already: what is there must not be taken for a large one.
 */
static void test_cache_of_another_section(void **state)
{
    struct sample sample = {.manifest = "{}"};
    struct forge_record record, chunk = {0};
    struct ferry_error err = {0};
    CLEANUP(image_cleanup) struct image *image = NULL;
    size_t size = 0, pages = 0;

    (void)state;
    sample_add(&sample, IMAGE_DISK, "vda", 4096, 4096, 1);
    sample_add(&sample, IMAGE_DISK, "vdb", MIB, MIB, 1);
    memset(sample.sections[0].content, 'a', 4096);
    memset(sample.sections[1].content, 'b', MIB);
    CLEANUP_FREE uint8_t *bytes = sample_image(&sample, NULL, &size);
    CLEANUP_FREE uint8_t *got = malloc(MIB);
    for (size_t at = 0; forge_record_at(bytes, size, at, &record);
         at += record.size + record.stored) {
        if (!strcmp(record.tag, "CHNK") && !chunk.size)
            chunk = record;
        if (strcmp(record.tag, "PAGE") || !pages++)
            continue;
        uint8_t *entry = bytes + at + RECORD_HEAD_BYTES + PAGE_ENTRY_0;
        memcpy(entry + 8, &chunk.start, 8);
        memcpy(entry + 16, &chunk.stored, 4);
        entry[20] = CODEC_SAME;
        forge_repair(bytes, &record);
    }
    CLEANUP_FD int fd = sample_fd(bytes, size);
    assert_int_equal(image_open(fd, "sample", NULL, &image, NULL), 0);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(image_check_pages(image, i, NULL), 0); /* they have the right digests */
    assert_int_equal(image_pread(image, 0, 0, got, 4096, NULL), 0);
    assert_int_equal(image_pread(image, 1, 0, got, MIB, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "disk vdb at 0"));
    sample_free(&sample);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_usage),
        cmocka_unit_test(test_every_bit),
        cmocka_unit_test(test_every_bit_repaired),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_hostile_page),
        cmocka_unit_test(test_hostile_index),
        cmocka_unit_test(test_hostile_table),
        cmocka_unit_test(test_swapped_chunks),
        cmocka_unit_test(test_cache_of_another_section),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
