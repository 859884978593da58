/* image_diff against a naive comparison, whatever the two chunk sizes; pages that lie. */
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
#include "imagefmt/diff.h"
#include "imagefmt/extract.h"
#include "imagefmt/format.h"
#include "tests/support/image_forge.h"
#include "tests/support/image_sample.h"

struct met {
    uint64_t end;
    uint8_t *marks; /* one for each 4 KiB */
};

static int mark(void *opaque, uint64_t offset, uint64_t size, struct ferry_error *err)
{
    struct met *met = opaque;

    (void)err;
    assert_true(size > 0 && (offset > met->end || !met->end)); /* ascending, and not touching */
    met->end = offset + size;
    for (uint64_t at = offset; at < met->end; at += 4096)
        met->marks[at / 4096] = 1;
    return 0;
}

static int write_image(const struct sample *sample)
{
    int fd = memfd_create("image", MFD_CLOEXEC);

    assert_int_equal(sample_write(sample, fd, NULL, NULL, NULL), 0);
    return fd;
}

static uint8_t byte_of(const struct sample *sample, uint64_t at)
{
    return at < sample->sections[0].size ? sample->sections[0].content[at] : 0;
}

static void compare(const struct sample *one, const struct sample *other, uint32_t chunk)
{
    CLEANUP_FD int fd = write_image(one);
    CLEANUP_FD int other_fd = write_image(other);
    CLEANUP(image_cleanup) struct image *a = NULL;
    CLEANUP(image_cleanup) struct image *b = NULL;
    uint64_t size = one->sections[0].size > other->sections[0].size ? one->sections[0].size
                                                                    : other->sections[0].size;
    struct met met = {.marks = calloc(1, size / 4096 + 2)};

    assert_int_equal(image_open(fd, "a", NULL, &a, NULL), 0);
    assert_int_equal(image_open(other_fd, "b", NULL, &b, NULL), 0);
    assert_int_equal(image_diff(a, 0, b, 0, mark, &met, NULL), 0);
    for (uint64_t at = 0; at < size; at += chunk) {
        bool differ = false;
        uint64_t end = at + chunk < size ? at + chunk : size;
        for (uint64_t i = at; i < end && !differ; i++)
            differ = byte_of(one, i) != byte_of(other, i);
        for (uint64_t i = at; i < end; i += 4096)
            assert_int_equal(met.marks[i / 4096], differ);
    }
    free(met.marks);
}

static void test_chunk_sizes(void **state)
{
    static const uint32_t chunks[] = {4096, 16384, 65536};
    uint64_t seed = 17;

    (void)state;
    for (int round = 0; round < 9; round++) {
        uint32_t left = chunks[round % 3], right = chunks[round / 3];
        struct sample one = {.manifest = "{}"}, other = {.manifest = "{}"};
        uint64_t size = 3000000 + (uint64_t)round;
        sample_add(&one, IMAGE_DISK, "vda", size, left, 5);
        sample_add(&other, IMAGE_DISK, "vda", size + (round % 2 ? 0 : 100000), right, 6);
        memcpy(other.sections[0].content, one.sections[0].content, size);
        for (int i = 0; i < round; i++)
            other.sections[0].content[sample_random(&seed) % size] ^= 1;
        compare(&one, &other, left > right ? left : right);
        compare(&other, &one, left > right ? left : right);
        sample_free(&one);
        sample_free(&other);
    }
}

/* A page with right sums that is not the one of the root: found before anything is done with it. */
static void test_pages_must_add_up(void **state)
{
    struct forge_record record;
    struct sample sample;
    struct extract_result result;
    struct ferry_error err = {0};
    size_t size = 0, at = 0;

    (void)state;
    sample_small(&sample);
    CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
    for (; forge_record_at(image, size, at, &record) && strcmp(record.tag, "PAGE");
         at += record.size + record.stored)
        ;
    image[at + RECORD_HEAD_BYTES + 8 + 24] ^= 1;
    forge_repair(image, &record);
    CLEANUP_FD int fd = sample_fd(image, size);
    CLEANUP_FD int out = memfd_create("out", MFD_CLOEXEC);
    const struct extract_options options = {.name = "ram", .sparse = true};
    assert_int_equal(image_extract(fd, "image", NULL, out, &options, &result, &err), -EBADMSG);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_non_null(strstr(err.message, "do not add up"));
    sample_free(&sample);
}

/* Each way of extracting gives the content; a lost tail gives what was before it. */
static void test_extract(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct sample sample;
        size_t size = 0;
        sample_fill(&sample, seed);
        CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
        for (unsigned i = 0; i < 2 * sample.count; i++) {
            const struct sample_section *section = &sample.sections[i / 2];
            struct extract_options options = {.name = section->name,
                                              .kind = section->kind,
                                              .sparse = i % 2 && section->kind != IMAGE_STATE};
            struct extract_result result;
            CLEANUP_FD int out = memfd_create("out", MFD_CLOEXEC);
            CLEANUP_FREE uint8_t *got = calloc(1, section->size + 1);
            CLEANUP_FD int fd = sample_fd(image, size);
            assert_int_equal(image_extract(fd, "image", NULL, out, &options, &result, NULL), 0);
            assert_int_equal(lseek(out, 0, SEEK_END), section->size);
            assert_int_equal(pread(out, got, section->size, 0), section->size);
            assert_memory_equal(got, section->content, section->size);
            CLEANUP_FD int cut = sample_fd(image, size * 3 / 4);
            CLEANUP_FD int part = memfd_create("out", MFD_CLOEXEC);
            options.salvage = true;
            int error = image_extract(cut, "image", NULL, part, &options, &result, NULL);
            if (error)
                continue; /* the section began behind the cut */
            assert_int_equal(result.damage.kind, FERRY_REFUSED);
            assert_true(result.whole_bytes <= section->size);
            memset(got, 0, section->size);
            assert_true(pread(part, got, section->size, 0) >= (ssize_t)result.whole_bytes);
            assert_memory_equal(got, section->content, result.whole_bytes);
        }
        sample_free(&sample);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunk_sizes),
        cmocka_unit_test(test_pages_must_add_up),
        cmocka_unit_test(test_extract),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
