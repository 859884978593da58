/* The image as a whole: what is written is what is read, whatever carries it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "tests/support/image_sample.h"

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
        struct image_summary summary;
        size_t size = 0;

        sample_fill(&sample, seed);
        CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
        assert_non_null(image);
        CLEANUP_FD int fd = sample_fd(image, size);
        int error = sample_compare(&sample, fd, 0, &summary, &err);
        report(&err);
        assert_int_equal(error, 0);
        assert_int_equal(summary.bytes, size);
        assert_int_equal(summary.version, IMAGE_VERSION);
        sample_free(&sample);
    }
}

struct feed {
    int fd;
    const uint8_t *data;
    size_t size;
};

static void *feed_pipe(void *opaque)
{
    struct feed *feed = opaque;

    /* Odd pieces, so that every kind of record is split somewhere. */
    for (size_t at = 0; at < feed->size;) {
        size_t part = feed->size - at < 1009 ? feed->size - at : 1009;
        if (write_all(feed->fd, feed->data + at, part))
            break;
        at += part;
    }
    close(feed->fd);
    return NULL;
}

static void test_pipe(void **state)
{
    struct sample sample;
    struct ferry_error err = {0};
    size_t size = 0;
    int ends[2];
    pthread_t thread;

    (void)state;
    sample_fill(&sample, 99);
    CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
    assert_int_equal(pipe(ends), 0);
    struct feed feed = {ends[1], image, size};
    assert_int_equal(pthread_create(&thread, NULL, feed_pipe, &feed), 0);
    int error = sample_compare(&sample, ends[0], 2, NULL, &err);
    report(&err);
    assert_int_equal(error, 0);
    pthread_join(thread, NULL);
    close(ends[0]);
    sample_free(&sample);
}

static void test_deterministic(void **state)
{
    struct sample sample;
    size_t size = 0;

    (void)state;
    sample_fill(&sample, 7);
    CLEANUP_FREE uint8_t *one =
        sample_image(&sample, &(struct image_writer_options){.workers = 1}, &size);
    for (unsigned workers = 2; workers <= 7; workers++) {
        size_t other_size = 0;
        CLEANUP_FREE uint8_t *other =
            sample_image(&sample, &(struct image_writer_options){.workers = workers}, &other_size);
        assert_int_equal(size, other_size);
        assert_memory_equal(one, other, size);
    }
    sample_free(&sample);
}

static void root_of(const struct sample *sample, int level, uint8_t root[SHA256_BYTES])
{
    CLEANUP_FD int fd = memfd_create("image", MFD_CLOEXEC);
    struct image_writer_options options = {.level = level, .workers = 2};
    struct image_summary summary;

    assert_int_equal(sample_write(sample, fd, &options, root, NULL), 0);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(image_read(fd, "image", NULL, 2, NULL, NULL, &summary, NULL), 0);
    assert_memory_equal(root, summary.root, SHA256_BYTES);
}

static void test_root(void **state)
{
    struct sample sample;
    uint8_t one[SHA256_BYTES], other[SHA256_BYTES];

    (void)state;
    sample_fill(&sample, 3);
    root_of(&sample, 1, one);
    for (int level = -3; level <= 12; level += 5) {
        root_of(&sample, level, other);
        assert_memory_equal(one, other, SHA256_BYTES); /* not of the compression */
    }
    for (unsigned i = 0; i < sample.count; i++) {
        struct sample_section *section = &sample.sections[i];
        if (!section->size)
            continue;
        section->content[section->size - 1] ^= 1;
        root_of(&sample, 1, other);
        assert_memory_not_equal(one, other, SHA256_BYTES);
        section->content[section->size - 1] ^= 1;
        section->name[0] ^= 1;
        root_of(&sample, 1, other);
        assert_memory_not_equal(one, other, SHA256_BYTES);
        section->name[0] ^= 1;
    }
    sample.manifest[2] ^= 1;
    root_of(&sample, 1, other);
    assert_memory_not_equal(one, other, SHA256_BYTES);
    sample_free(&sample);
}

/* A hole costs no bytes: neither chunks left out nor chunks of zeroes. */
static void test_zero_is_free(void **state)
{
    CLEANUP_FREE uint8_t *zero = calloc(1, 65536);
    uint8_t roots[2][SHA256_BYTES];
    off_t sizes[2];

    (void)state;
    for (int given = 0; given < 2; given++) {
        CLEANUP_FD int fd = memfd_create("image", MFD_CLOEXEC);
        struct image_writer *w = NULL;
        assert_int_equal(image_writer_create(fd, NULL, "{}", 2, &w, NULL), 0);
        assert_int_equal(image_writer_begin(w, IMAGE_RAM, "ram", GIB, 65536, NULL), 0);
        for (unsigned i = 0; given && i < 100; i++)
            assert_int_equal(image_writer_chunk(w, UINT64_C(3) * i, zero, NULL), 0);
        assert_int_equal(image_writer_end(w, NULL), 0);
        assert_int_equal(image_writer_finish(w, roots[given], NULL), 0);
        assert_int_equal(image_writer_content_bytes(w), 0);
        sizes[given] = lseek(fd, 0, SEEK_CUR);
        assert_int_equal(image_writer_bytes(w), sizes[given]);
        image_writer_destroy(w);
    }
    assert_int_equal(sizes[0], sizes[1]);
    assert_true(sizes[0] < 1024);
    assert_memory_equal(roots[0], roots[1], SHA256_BYTES);
}

/* More than one page and more than one index record. */
static void test_many_chunks(void **state)
{
    struct sample sample = {.manifest = "{}"};
    struct image_summary summary;
    struct ferry_error err = {0};
    size_t size = 0;

    (void)state;
    sample_add(&sample, IMAGE_DISK, "vda", 2100 * UINT64_C(4096) + 5, 4096, 1);
    for (uint64_t i = 0; i < sample.sections[0].size; i += 64)
        sample.sections[0].content[i] |= 1;
    sample_add(&sample, IMAGE_DISK, "vdb", 4 * MIB, 4096, 1);
    memset(sample.sections[1].content, 3, sample.sections[1].size);
    CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
    CLEANUP_FD int fd = sample_fd(image, size);
    int error = sample_compare(&sample, fd, 2, &summary, &err);
    report(&err);
    assert_int_equal(error, 0);
    assert_int_equal(summary.chunks, 2101 + 1024);
    assert_int_equal(summary.content_bytes, 2100 * 4096 + 5 + 1024 * 4096);
    sample_free(&sample);
}

/* Equal chunks are stored once, across pages and sections of one chunk size, as far as reach goes.
 */
static void test_equal_chunks(void **state)
{
    struct sample sample = {.manifest = "{}"};
    struct image_summary summary;
    struct ferry_error err = {0};
    uint64_t seed = 4;
    size_t size = 0, far = 40 * MIB;

    (void)state;
    sample_add(&sample, IMAGE_RAM, "ram", 2100 * UINT64_C(65536), 65536, 1);
    uint8_t *ram = sample.sections[0].content;
    for (size_t i = 0; i < sample.sections[0].size; i++)
        ram[i] = (uint8_t)(i % 65536 / 256 + 1);
    sample_add(&sample, IMAGE_DISK, "vda", far + 65536 + 100, 65536, 1);
    uint8_t *disk = sample.sections[1].content;
    memcpy(disk, ram, 65536);
    for (size_t i = 65536; i < far; i += 8) {
        uint64_t number = sample_random(&seed);
        memcpy(disk + i, &number, 8);
    }
    memcpy(disk + far, ram, 65536);
    memcpy(disk + far + 65536, ram, 100);
    CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
    CLEANUP_FD int fd = sample_fd(image, size);
    int error = sample_compare(&sample, fd, 2, &summary, &err);
    if (!error)
        error = sample_access(&sample, fd, &err);
    report(&err);
    assert_int_equal(error, 0);
    assert_int_equal(summary.chunks, 2100 + far / 65536 + 2);
    /* stored: the first one, the random ones, the first again out of reach, and the short one */
    assert_in_range(summary.stored_bytes, far - 65536, far + 65536);
    CLEANUP(image_cleanup) struct image *open = NULL;
    struct image_chunk chunk;
    assert_int_equal(image_open(fd, "sample", NULL, &open, NULL), 0);
    for (uint64_t i = 0; i < 2100; i++) {
        assert_int_equal(image_next_chunk(open, 0, i, &chunk, NULL), 1);
        assert_int_equal(chunk.same, i > 0);
    }
    assert_int_equal(image_next_chunk(open, 1, 0, &chunk, NULL), 1);
    assert_true(chunk.same);
    assert_int_equal(image_next_chunk(open, 1, far / 65536, &chunk, NULL), 1);
    assert_false(chunk.same);
    assert_int_equal(image_next_chunk(open, 1, far / 65536 + 1, &chunk, NULL), 1);
    assert_false(chunk.same);
    sample_free(&sample);
}

static int run(const char *command)
{
    int status = system(command);

    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Has this content come before, in a chunk of the same size?  Then it is not stored again. */
static bool stored_before(const struct sample *sample, unsigned number, uint64_t offset,
                          size_t size)
{
    const struct sample_section *own = &sample->sections[number];

    for (unsigned i = 0; i <= number; i++) {
        const struct sample_section *section = &sample->sections[i];
        uint64_t end = i == number ? offset : section->size;
        if (section->chunk_bytes != own->chunk_bytes)
            continue;
        for (uint64_t at = 0; at < end && section->size - at >= size; at += own->chunk_bytes)
            if ((size == own->chunk_bytes || section->size - at == size) &&
                !memcmp(section->content + at, own->content + offset, size))
                return true;
    }
    return false;
}

/* The zstd of Debian as an independent witness of the container and of every chunk. */
static void test_zstd_reads_it(void **state)
{
    struct sample sample;
    char path[] = "/tmp/ferry-test-XXXXXX", command[256], plain[64];
    size_t size = 0;

    (void)state;
    if (run("zstd --version >/dev/null 2>&1")) {
        print_message("SKIPPED: no zstd program (package zstd)\n");
        skip();
    }
    CLEANUP_FD int fd = mkstemp(path);
    assert_true(fd >= 0);
    sample_fill(&sample, 21);
    CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
    assert_int_equal(write_all(fd, image, size), 0);
    snprintf(command, sizeof(command), "zstd -q -t < %s", path);
    assert_int_equal(run(command), 0);
    snprintf(command, sizeof(command), "zstd -l %s > /dev/null", path);
    assert_int_equal(run(command), 0);
    snprintf(plain, sizeof(plain), "%s.plain", path);
    snprintf(command, sizeof(command), "zstd -q -dc < %s > %s", path, plain);
    assert_int_equal(run(command), 0);

    uint8_t *data = NULL;
    size_t data_size = 0, at = 0;
    assert_int_equal(file_read(plain, GIB, &data, &data_size, NULL), 0);
    for (unsigned i = 0; i < sample.count; i++) {
        const struct sample_section *section = &sample.sections[i];
        for (uint64_t o = 0; section->chunk_bytes && o < section->size; o += section->chunk_bytes) {
            uint64_t left = section->size - o;
            size_t part = left < section->chunk_bytes ? left : section->chunk_bytes;
            bool zero = !section->content[o] &&
                        !memcmp(section->content + o, section->content + o + 1, part - 1);
            if (zero || stored_before(&sample, i, o, part))
                continue;
            assert_true(at + part <= data_size);
            assert_memory_equal(data + at, section->content + o, part);
            at += part;
        }
    }
    assert_int_equal(at, data_size);
    free(data);
    unlink(path);
    unlink(plain);
    sample_free(&sample);
}

static void test_writer_usage(void **state)
{
    CLEANUP_FD int fd = memfd_create("image", MFD_CLOEXEC);
    static const struct {
        const char *name;
        enum image_section_kind kind;
        uint64_t size;
        uint32_t chunk;
    } bad[] = {
        {"", IMAGE_RAM, 4096, 4096},
        {"a/b", IMAGE_RAM, 4096, 4096},
        {"0123456789012345678901234567890123456789012345678901234567890123", IMAGE_RAM, 1, 4096},
        {"ram", IMAGE_RAM, 4096, 2048},
        {"ram", IMAGE_RAM, 4096, 12288},
        {"ram", IMAGE_RAM, 4096, 8u << 20},
        {"ram", IMAGE_RAM, 2 * TIB, 65536},
        {"vda", IMAGE_DISK, UINT64_C(1) << 63, 65536},
        {"vda", IMAGE_STATE, 4096, 4096},
        {"vda", (enum image_section_kind)9, 4096, 4096},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct image_writer *w = NULL;
        struct ferry_error err = {0};
        assert_int_equal(image_writer_create(fd, NULL, "", 0, &w, NULL), 0);
        assert_int_equal(
            image_writer_begin(w, bad[i].kind, bad[i].name, bad[i].size, bad[i].chunk, &err),
            -EINVAL);
        assert_int_equal(err.kind, FERRY_USAGE);
        assert_int_equal(image_writer_finish(w, NULL, NULL), -EINVAL); /* broken from now on */
        image_writer_destroy(w);
    }
    struct image_writer *w = NULL;
    assert_int_equal(image_writer_create(fd, NULL, "", 0, &w, NULL), 0);
    assert_int_equal(image_writer_begin(w, IMAGE_RAM, "ram", 8192, 4096, NULL), 0);
    uint8_t chunk[4096] = {1};
    assert_int_equal(image_writer_chunk(w, 1, chunk, NULL), 0);
    assert_int_equal(image_writer_chunk(w, 1, chunk, NULL), -EINVAL); /* not ascending */
    image_writer_destroy(w);
    assert_int_equal(
        image_writer_create(fd, &(struct image_writer_options){.level = 20}, "", 0, &w, NULL),
        -EINVAL);
}

/* A full disk is the caller's error, not a bad image. */
static void test_write_error(void **state)
{
    struct sample sample;
    struct ferry_error err = {0};
    CLEANUP_FD int fd = memfd_create("image", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    (void)state;
    assert_int_equal(ftruncate(fd, 2000), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
    sample_fill(&sample, 5);
    assert_true(sample_write(&sample, fd, NULL, NULL, &err) < 0);
    assert_int_equal(err.kind, FERRY_FAILED);
    sample_free(&sample);
}

/* The bytes of FORMAT.md's worked example: lines of an address and up to 16 bytes. */
static size_t example_bytes(uint8_t *image, size_t room)
{
    CLEANUP_FREE uint8_t *text = NULL;
    size_t text_size, size = 0;

    assert_int_equal(file_read("imagefmt/FORMAT.md", MIB, &text, &text_size, NULL), 0);
    for (char *line = strtok((char *)text, "\n"); line; line = strtok(NULL, "\n")) {
        char *end;
        if (strncmp(line, "    0000", 8) || strlen(line) < 15)
            continue;
        assert_int_equal(strtoul(line, &end, 16), size);
        for (; *end == ' ' && size < room; size++)
            image[size] = (uint8_t)strtoul(end, &end, 16);
    }
    return size;
}

static void test_worked_example(void **state)
{
    uint8_t documented[4096];
    struct sample sample;
    size_t size = 0, documented_size = example_bytes(documented, sizeof(documented));

    (void)state;
    sample_example(&sample);
    CLEANUP_FD int fd = sample_fd(documented, documented_size);
    assert_int_equal(sample_compare(&sample, fd, 1, NULL, NULL), 0);
    CLEANUP_FREE uint8_t *image = sample_image(&sample, NULL, &size);
    assert_int_equal(size, documented_size);
    assert_memory_equal(image, documented, size);
    sample_free(&sample);
}

/* An image written when this version of the format was made (with zstd 1.5.4) is read for ever. */
static void test_golden(void **state)
{
    struct sample sample;
    CLEANUP_FREE uint8_t *image = NULL;
    struct image_summary summary;
    uint8_t root[SHA256_BYTES];
    size_t size;

    (void)state;
    sample_small(&sample);
    assert_int_equal(file_read("tests/fuzz/corpus/image/small", MIB, &image, &size, NULL), 0);
    CLEANUP_FD int fd = sample_fd(image, size);
    assert_int_equal(sample_compare(&sample, fd, 1, &summary, NULL), 0);
    CLEANUP_FD int other = memfd_create("image", MFD_CLOEXEC);
    assert_int_equal(sample_write(&sample, other, NULL, root, NULL), 0);
    assert_memory_equal(root, summary.root, SHA256_BYTES);
    sample_free(&sample);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_deterministic), cmocka_unit_test(test_root),
        cmocka_unit_test(test_zero_is_free),  cmocka_unit_test(test_many_chunks),
        cmocka_unit_test(test_zstd_reads_it), cmocka_unit_test(test_writer_usage),
        cmocka_unit_test(test_write_error),   cmocka_unit_test(test_worked_example),
        cmocka_unit_test(test_golden),        cmocka_unit_test(test_equal_chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
