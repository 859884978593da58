/* Disks of images that come in order: whole, cut short at each of many places, and given up. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/content.h"
#include "imagefmt/foreign/copy.h"
#include "imagefmt/foreign/image_section.h"
#include "tests/support/image_sample.h"

#define HEAD_BYTES 100

struct feed {
    int fd;
    const uint8_t *data;
    size_t size;
};

/* Into a pipe whose other end may be closed. */
static void *feed(void *opaque)
{
    struct feed *f = opaque;

    (void)!write_all(f->fd, f->data, f->size);
    close(f->fd);
    return NULL;
}

/* The first bytes at hand, the rest through a pipe. */
static int read_disk(const uint8_t *data, size_t size, const char *name, bool give_up,
                     struct disk_copy_result *result, struct ferry_error *err)
{
    const struct disk_copy_options copy = {.workers = 2};
    size_t head = size < HEAD_BYTES ? size : HEAD_BYTES;
    struct disk *disk = NULL;
    pthread_t thread;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    struct feed f = {.fd = fds[1], .data = data + head, .size = size - head};
    assert_int_equal(pthread_create(&thread, NULL, feed, &f), 0);
    int error = disk_of_image_stream(data, head, fds[0], "pipe", NULL, name, &disk, err);
    if (!error) {
        assert_true(disk->in_order);
        if (!give_up)
            error = disk_digest(disk, disk->size_bytes, &copy, result, err);
        disk->format->close(disk);
    }
    close(fds[0]);
    pthread_join(thread, NULL);
    return error;
}

static void compare(const struct sample *sample, const struct sample_section *section)
{
    struct disk_copy_result result = {0};
    struct ferry_error err = {0};
    uint8_t *data;
    size_t size;

    data = sample_image(sample, &(struct image_writer_options){.workers = 2}, &size);
    if (read_disk(data, size, section->name, false, &result, &err))
        fail_msg("%s: %s", err.about, err.message);
    assert_int_equal(result.size_bytes, section->size);
    uint8_t digest[SHA256_BYTES];
    struct content_tree tree = {0};
    for (uint64_t at = 0; at < section->size; at += MIB) {
        uint64_t part = section->size - at < MIB ? section->size - at : MIB;
        uint8_t node[SHA256_BYTES];
        content_node(section->content + at, part, content_level(MIB), node);
        content_add(&tree, at / MIB, content_level(MIB), node);
    }
    content_digest(&tree, section->size, digest);
    assert_memory_equal(result.digest, digest, SHA256_BYTES);
    free(data);
}

static void test_every_disk(void **state)
{
    struct sample sample = {0};

    (void)state;
    sample_add(&sample, IMAGE_RAM, "ram", 3 * MIB, 64 * KIB, 1);
    sample_add(&sample, IMAGE_DISK, "vda", 20 * MIB + 512, 64 * KIB, 2);
    sample_add(&sample, IMAGE_DISK, "vdb", 9 * MIB, LIMIT_CHUNK_BYTES, 3);
    sample_add(&sample, IMAGE_FILE, "kernel", 3 * MIB, 64 * KIB, 4);
    strcpy(sample.manifest, "{}");
    compare(&sample, &sample.sections[1]);
    compare(&sample, &sample.sections[2]);
    sample_free(&sample);
}

static void test_names(void **state)
{
    struct disk_copy_result result;
    struct sample sample = {0};
    struct ferry_error err = {0};
    size_t size;

    (void)state;
    strcpy(sample.manifest, "{}");
    sample_add(&sample, IMAGE_RAM, "ram", MIB, 64 * KIB, 1);
    uint8_t *data = sample_image(&sample, &(struct image_writer_options){0}, &size);
    assert_int_equal(read_disk(data, size, NULL, false, &result, &err), -EINVAL);
    assert_string_equal(err.message, "has no disk");
    free(data);
    sample_add(&sample, IMAGE_DISK, "vda", MIB, 64 * KIB, 1);
    data = sample_image(&sample, &(struct image_writer_options){0}, &size);
    assert_int_equal(read_disk(data, size, NULL, false, &result, &err), 0);
    assert_int_equal(read_disk(data, size, "ram", false, &result, &err), -EINVAL);
    assert_string_equal(err.message, "has no disk 'ram'");
    free(data);
    sample_add(&sample, IMAGE_DISK, "vdb", MIB, 64 * KIB, 1);
    data = sample_image(&sample, &(struct image_writer_options){0}, &size);
    assert_int_equal(read_disk(data, size, NULL, false, &result, &err), -EINVAL);
    assert_non_null(strstr(err.message, "--disk"));
    assert_int_equal(err.kind, FERRY_USAGE);
    free(data);
    sample_free(&sample);
}

/* Also behind the disk: its content is as good as the image. */
static void test_cut_short_and_damaged(void **state)
{
    struct disk_copy_result result;
    struct sample sample = {0};
    size_t size;

    (void)state;
    strcpy(sample.manifest, "{}");
    sample_add(&sample, IMAGE_DISK, "vda", 300 * KIB, 4 * KIB, 1);
    sample_add(&sample, IMAGE_RAM, "ram", 64 * KIB, 4 * KIB, 2);
    uint8_t *data = sample_image(&sample, &(struct image_writer_options){0}, &size);
    assert_int_equal(read_disk(data, size, NULL, false, &result, NULL), 0);
    for (size_t cut = 0; cut < size; cut += cut < 500 || size - cut < 500 ? 1 : 997) {
        struct ferry_error err = {0};
        assert_int_not_equal(read_disk(data, cut, NULL, false, &result, &err), 0);
        assert_int_equal(err.kind, FERRY_REFUSED);
    }
    for (size_t at = 0; at < size; at += 1009) {
        struct ferry_error err = {0};
        data[at] ^= 4;
        assert_int_not_equal(read_disk(data, size, NULL, false, &result, &err), 0);
        assert_int_equal(err.kind, FERRY_REFUSED);
        data[at] ^= 4;
    }
    free(data);
    sample_free(&sample);
}

/* Closed before its end: the thread ends, too. */
static void test_given_up(void **state)
{
    struct sample sample = {0};
    size_t size;

    (void)state;
    strcpy(sample.manifest, "{}");
    sample_add(&sample, IMAGE_DISK, "vda", 30 * MIB, 64 * KIB, 1);
    sample_add(&sample, IMAGE_RAM, "ram", MIB, 64 * KIB, 2);
    uint8_t *data = sample_image(&sample, &(struct image_writer_options){0}, &size);
    assert_int_equal(read_disk(data, size, NULL, true, NULL, NULL), 0);
    free(data);
    sample_free(&sample);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_disk),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_cut_short_and_damaged),
        cmocka_unit_test(test_given_up),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
