/*
 * What the image reader must refuse: every bit flipped, every truncation, every record out of
 * place, with sums as found and with sums repaired.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <zstd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/format.h"
#include "tests/support/image_forge.h"
#include "tests/support/image_sample.h"

/* Each read of an image starts threads, which the sanitizers do slowly: under them a sample of the
 * bits is looked at.  The thread sanitizer's shadow is several times as large as the memory. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TSAN 1
#elif __has_feature(address_sanitizer)
#define ASAN 1
#endif
#elif defined(__SANITIZE_THREAD__)
#define TSAN 1
#elif defined(__SANITIZE_ADDRESS__)
#define ASAN 1
#endif
#ifdef TSAN
enum { BIT_STEP = 29, MEASURE_MEMORY = false };
#elif defined(ASAN)
enum { BIT_STEP = 29, MEASURE_MEMORY = true };
#else
enum { BIT_STEP = 1, MEASURE_MEMORY = true };
#endif

static uint8_t *small_image(size_t *size)
{
    struct sample sample;

    sample_small(&sample);
    uint8_t *image = sample_image(&sample, &(struct image_writer_options){.workers = 1}, size);
    sample_free(&sample);
    assert_non_null(image);
    assert_int_equal(sample_read_bytes(image, *size, NULL), 0);
    return image;
}

/* The bytes must be refused, with a message that contains what (NULL: any). */
static void refused(const uint8_t *image, size_t size, const char *what)
{
    struct ferry_error err = {0};
    int error = sample_read_bytes(image, size, &err);

    if (!error || err.kind != FERRY_REFUSED || (what && !strstr(err.message, what)))
        fail_msg("error %d, kind %d: '%s', wanted '%s'", error, (int)err.kind, err.message,
                 what ? what : "any");
}

static void test_every_bit(void **state)
{
    size_t size;
    CLEANUP_FREE uint8_t *image = small_image(&size);

    (void)state;
    for (size_t bit = 0; bit < 8 * size; bit += BIT_STEP) {
        image[bit / 8] ^= (uint8_t)(1u << bit % 8);
        refused(image, size, NULL);
        image[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static bool same_root(const uint8_t *one, const uint8_t *other, size_t size)
{
    struct image_summary summary[2];

    for (int i = 0; i < 2; i++) {
        CLEANUP_FD int fd = sample_fd(i ? one : other, size);
        if (image_read(fd, "image", NULL, 1, NULL, NULL, &summary[i], NULL))
            return false;
    }
    return !memcmp(summary[0].root, summary[1].root, SHA256_BYTES);
}

/*
 * One record changed and its sums made right again: the rest of the image disagrees.  Only a zstd
 * frame has more than one form for one content (an unused bit of its header, for one).
 */
static void test_every_bit_repaired(void **state)
{
    struct forge_record record;
    size_t size;
    CLEANUP_FREE uint8_t *image = small_image(&size);
    CLEANUP_FREE uint8_t *copy = malloc(size);

    (void)state;
    for (size_t at = 0; forge_record_at(image, size, at, &record);
         at += record.size + record.stored) {
        size_t end = record.size + record.stored;
        for (size_t bit = 64; bit < 8 * end; bit += BIT_STEP) {
            size_t byte = bit / 8;
            bool offset = byte >= 12 && byte < 20; /* repaired away */
            bool sum = byte >= record.size - RECORD_SUM_BYTES && byte < record.size;
            bool chunk_sum = record.stored && byte >= 44 && byte < 52;
            if (offset || sum || chunk_sum)
                continue;
            memcpy(copy, image, size);
            copy[at + byte] ^= (uint8_t)(1u << bit % 8);
            forge_repair(copy, &record);
            if (byte < record.size || !same_root(copy, image, size))
                refused(copy, size, NULL);
        }
    }
}

static void test_every_truncation(void **state)
{
    size_t size;
    CLEANUP_FREE uint8_t *image = small_image(&size);

    (void)state;
    for (size_t left = 0; left < size; left++)
        refused(image, left, "ends early");
}

static void test_trailing_bytes(void **state)
{
    size_t size;
    CLEANUP_FREE uint8_t *image = small_image(&size);
    CLEANUP_FREE uint8_t *longer = calloc(2, size);

    (void)state;
    memcpy(longer, image, size);
    refused(longer, size + 1, "behind its end");
    memcpy(longer + size, image, size);
    refused(longer, 2 * size, "behind its end");
}

/* Each damage is named. */
static void test_names(void **state)
{
    static const struct {
        const char *tag;
        unsigned nth;
        size_t at; /* within the record, from the start of what is behind it if behind */
        bool behind;
        const char *name;
    } cases[] = {
        {"HEAD", 0, 30, false, "the header is damaged"},
        {"MANI", 0, 30, false, "the manifest is damaged"},
        {"STAT", 0, 40, false, "section vcpu0 is damaged"},
        {"DATA", 0, 30, false, "the head of section ram is damaged"},
        {"CHNK", 0, 60, false, "the head of chunk 0 is damaged"},
        {"CHNK", 1, 20, true, "RAM at 0x2000 is damaged"},
        {"CHNK", 3, 20, true, "disk vda at 8.0 KiB (byte 8192) is damaged"},
        {"PAGE", 1, 40, false, "the index is damaged"},
        {"DEND", 0, 40, false, "the end of a section is damaged"},
        {"INDX", 0, 40, false, "the index is damaged"},
        {"ROOT", 0, 90, false, "the section table is damaged"},
        {"FOOT", 0, 60, false, "the footer is damaged"},
    };
    size_t size;
    CLEANUP_FREE uint8_t *image = small_image(&size);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct forge_record record;
        unsigned nth = 0;
        size_t at = 0;
        for (; forge_record_at(image, size, at, &record); at += record.size + record.stored)
            if (!strcmp(record.tag, cases[i].tag) && nth++ == cases[i].nth)
                break;
        at += cases[i].at + (cases[i].behind ? record.size : 0);
        image[at] ^= 4;
        refused(image, size, cases[i].name);
        image[at] ^= 4;
    }
}

/* Copies of records in other orders; offsets and sums are repaired, so only the order is wrong. */
static size_t arrange(uint8_t *out, const uint8_t *image, const struct forge_record *records,
                      const unsigned *order, unsigned count)
{
    size_t at = 0;

    for (unsigned i = 0; i < count; i++) {
        const struct forge_record *record = &records[order[i]];
        memcpy(out + at, image + record->start, record->size + record->stored);
        at += record->size + record->stored;
    }
    forge_repair_all(out, at);
    return at;
}

static void test_orders(void **state)
{
    enum { MOST = 64 };
    struct forge_record records[MOST];
    unsigned order[MOST + 1], count = 0;
    size_t size;
    CLEANUP_FREE uint8_t *image = small_image(&size);
    CLEANUP_FREE uint8_t *copy = malloc(2 * size);

    (void)state;
    for (size_t at = 0; count < MOST && forge_record_at(image, size, at, &records[count]); count++)
        at += records[count].size + records[count].stored;
    for (unsigned i = 0; i < count; i++) {
        for (unsigned j = i + 1; j < count; j++) { /* swapped */
            for (unsigned k = 0; k < count; k++)
                order[k] = k == i ? j : k == j ? i : k;
            refused(copy, arrange(copy, image, records, order, count), NULL);
        }
        for (unsigned k = 0; k <= count; k++) /* repeated */
            order[k] = k <= i ? k : k - 1;
        refused(copy, arrange(copy, image, records, order, count + 1), NULL);
        for (unsigned k = 0; k + 1 < count; k++) /* left out */
            order[k] = k < i ? k : k + 1;
        refused(copy, arrange(copy, image, records, order, count - 1), NULL);
    }
}

/* The peak of this process's memory over its size now, in bytes. */
static uint64_t status_bytes(const char *key)
{
    char text[8192];
    CLEANUP_FD int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t got = read(fd, text, sizeof(text) - 1);

    text[got > 0 ? got : 0] = 0;
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

/* 1 GiB of content in the largest chunks goes through writer and reader in bounded memory. */
static void test_bounded_memory(void **state)
{
    CLEANUP_FREE uint8_t *chunk = malloc(LIMIT_CHUNK_BYTES);
    CLEANUP_FD int fd = memfd_create("image", MFD_CLOEXEC);
    CLEANUP_FD int reset = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    struct image_writer *w;

    (void)state;
    memset(chunk, 'm', LIMIT_CHUNK_BYTES);
    if (!MEASURE_MEMORY || reset < 0 || write(reset, "5", 1) != 1) {
        print_message("SKIPPED: cannot reset the peak of memory here\n");
        skip();
    }
    uint64_t before = status_bytes("VmRSS:");
    assert_int_equal(
        image_writer_create(fd, &(struct image_writer_options){.workers = 16}, "", 0, &w, NULL), 0);
    assert_int_equal(image_writer_begin(w, IMAGE_DISK, "vda", GIB, LIMIT_CHUNK_BYTES, NULL), 0);
    for (unsigned i = 0; i < GIB / LIMIT_CHUNK_BYTES; i++)
        assert_int_equal(image_writer_chunk(w, i, chunk, NULL), 0);
    assert_int_equal(image_writer_end(w, NULL), 0);
    assert_int_equal(image_writer_finish(w, NULL, NULL), 0);
    image_writer_destroy(w);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(image_read(fd, "image", NULL, 16, NULL, NULL, NULL, NULL), 0);
    uint64_t peak = status_bytes("VmHWM:");
    assert_true(peak - before < LIMIT_IN_FLIGHT_BYTES + 64 * MIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_bit),
        cmocka_unit_test(test_every_bit_repaired),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_trailing_bytes),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_bounded_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
