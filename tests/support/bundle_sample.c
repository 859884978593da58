#include "tests/support/bundle_sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/sink.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"
#include "tests/support/disk_sample.h"

static const char kernel_text[] = "a kernel of some bytes", initrd_text[] = "an initrd";
static uint8_t nvram_bytes[70000];

static const void *file_bytes(enum guest_file_kind kind, size_t *size)
{
    *size = kind == GUEST_KERNEL   ? sizeof(kernel_text)
            : kind == GUEST_INITRD ? sizeof(initrd_text)
                                   : sizeof(nvram_bytes);
    return kind == GUEST_KERNEL   ? (const void *)kernel_text
           : kind == GUEST_INITRD ? (const void *)initrd_text
                                  : nvram_bytes;
}

static void drop_disk(struct bundle_sample *s)
{
    if (s->disk)
        disk_format_raw.close(take_ptr(&s->disk));
    source_close(take_ptr(&s->raw_source));
}

static int give_disk(void *opaque, uint32_t index, struct disk **disk, struct ferry_error *err)
{
    struct bundle_sample *s = opaque;

    drop_disk(s);
    int error = source_of_fd(s->raw[index], "raw", &s->raw_source, err);
    if (!error)
        error = disk_format_raw.open(s->raw_source, NULL, &s->disk, err);
    *disk = s->disk;
    return error;
}

static void digest_disks(struct bundle_sample *s)
{
    const struct disk_copy_options options = {.workers = 1};
    struct disk_copy_result result;
    struct disk *disk;

    for (uint32_t i = 0; i < BUNDLE_SAMPLE_DISKS; i++) {
        assert_int_equal(give_disk(s, i, &disk, NULL), 0);
        s->size[i] = disk_whole_sectors(disk->size_bytes);
        assert_int_equal(disk_digest(disk, s->size[i], &options, &result, NULL), 0);
        memcpy(s->digest[i], result.digest, SHA256_BYTES);
    }
    drop_disk(s);
}

void bundle_sample_open(struct bundle_sample *s, bool kernel)
{
    static const uint64_t sizes[BUNDLE_SAMPLE_DISKS] = {5 * MIB + 100, 70 * MIB};

    *s = (struct bundle_sample){
        .content = {.guest = &s->guest, .disk = give_disk, .opaque = s, .reread = true},
        .guest = {.name = "sample",
                  .cpus = 3,
                  .memory_bytes = 768 * MIB,
                  .firmware = GUEST_FIRMWARE_EFI,
                  .disk_count = BUNDLE_SAMPLE_DISKS,
                  .nic_count = 1,
                  .nics = {{.mac = {0x52, 0x54, 0, 1, 2, 3}, .has_mac = true, .network = "lan"}}}};
    for (size_t i = 0; i < sizeof(nvram_bytes); i++)
        nvram_bytes[i] = (uint8_t)(i * 3 + i / 255);
    for (uint32_t i = 0; i < BUNDLE_SAMPLE_DISKS; i++) {
        s->raw[i] = disk_sample_raw(sizes[i]);
        s->guest.disks[i].size_bytes = sizes[i];
    }
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++) {
        size_t size;
        const void *data = file_bytes(kind, &size);
        if (kind == GUEST_NVRAM || kernel)
            assert_int_equal(source_of_memory(data, size, "file", &s->content.files[kind], NULL),
                             0);
    }
    if (kernel)
        s->guest.firmware = GUEST_FIRMWARE_NONE;
    digest_disks(s);
}

void bundle_sample_close(struct bundle_sample *s)
{
    drop_disk(s);
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        source_close(s->content.files[kind]);
    for (uint32_t i = 0; i < BUNDLE_SAMPLE_DISKS; i++)
        close(s->raw[i]);
}

int bundle_sample_write(struct bundle_sample *s, const struct bundle_format *format, int fd,
                        bool in_order, const struct bundle_write_options *options,
                        struct ferry_error *err)
{
    static const struct bundle_write_options usual = {.workers = 2};
    struct bundle_output output = {.folder_fd = format->folder ? fd : -1, .about = "bundle"};
    struct bundle_write_result result;
    struct fd_sink sink;

    if (!format->folder) {
        sink_of_fd(&sink, fd, "bundle", in_order);
        output.sink = &sink.sink;
    }
    int error = format->write(&output, &s->content, options ? options : &usual, &result, err);
    drop_disk(s);
    if (!error && !format->folder)
        assert_int_equal(lseek(fd, 0, SEEK_END), result.bytes);
    if (!error && options && options->digest) /* of whole sectors, but for raw disks */
        for (uint32_t i = 0; i < BUNDLE_SAMPLE_DISKS; i++)
            assert_memory_equal(result.digest[i], s->digest[i], SHA256_BYTES);
    return error;
}

/* ---- Reading ---- */

struct seen {
    uint8_t digest[LIMIT_DISKS][SHA256_BYTES];
    bool given[LIMIT_DISKS];
};

static int read_disks(struct bundle *bundle, struct seen *seen, struct ferry_error *err)
{
    const struct disk_copy_options options = {.workers = 2};
    struct disk_copy_result result;
    struct disk *disk;
    uint32_t index;
    int more;

    while ((more = bundle->format->next_disk(bundle, &index, &disk, err)) == 1) {
        assert_true(index < bundle->guest.disk_count && !seen->given[index]);
        assert_int_equal(bundle->guest.disks[index].size_bytes, disk->size_bytes);
        int error = disk_digest(disk, disk->size_bytes, &options, &result, err);
        if (error)
            return error;
        memcpy(seen->digest[index], result.digest, SHA256_BYTES);
        seen->given[index] = true;
    }
    return more;
}

static void compare(const struct bundle *bundle, const struct seen *seen,
                    const struct bundle_sample *expected)
{
    const struct guest *is = &bundle->guest, *was = &expected->guest;

    assert_string_equal(is->name, was->name);
    assert_int_equal(is->cpus, was->cpus);
    assert_int_equal(is->memory_bytes, was->memory_bytes);
    assert_int_equal(is->firmware, was->firmware);
    assert_int_equal(is->disk_count, was->disk_count);
    for (uint32_t i = 0; i < is->disk_count; i++) {
        assert_true(seen->given[i]);
        assert_int_equal(is->disks[i].size_bytes, expected->size[i]);
        assert_memory_equal(seen->digest[i], expected->digest[i], SHA256_BYTES);
    }
    assert_int_equal(is->nic_count, was->nic_count);
    assert_true(is->nics[0].has_mac);
    assert_memory_equal(is->nics[0].mac, was->nics[0].mac, 6);
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++) {
        size_t size;
        const void *data = file_bytes(kind, &size);
        assert_true(!bundle->files[kind].data == !expected->content.files[kind]);
        if (bundle->files[kind].data) {
            assert_int_equal(bundle->files[kind].size, size);
            assert_memory_equal(bundle->files[kind].data, data, size);
        }
    }
}

int bundle_sample_read(const struct bundle_format *format, int fd, enum bundle_sample_way way,
                       const struct bundle_sample *expected, json_t **notes,
                       struct ferry_error *err)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    struct bundle_input input = {.folder_fd = way == BUNDLE_FOLDER ? fd : -1, .about = "bundle"};
    struct bundle *bundle;
    struct seen seen = {.given = {false}};

    if (way == BUNDLE_AT_RANDOM) {
        assert_int_equal(source_of_fd(fd, "bundle", &source, NULL), 0);
    } else if (way == BUNDLE_IN_ORDER) {
        assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
        assert_int_equal(stream_of_fd(fd, "bundle", &stream, NULL), 0);
    }
    input.source = source;
    input.stream = stream;
    int error = format->open(&input, &bundle, err);
    if (error)
        return error;
    error = read_disks(bundle, &seen, err);
    if (!error)
        error = format->finish(bundle, err);
    if (!error && expected)
        compare(bundle, &seen, expected);
    if (notes)
        *notes = json_incref(bundle->notes);
    format->close(bundle);
    return error;
}

void bundle_sample_refuse(const struct bundle_format *format, int fd, enum bundle_sample_way way,
                          const char *says)
{
    struct ferry_error err = {.code = 0};

    int error = bundle_sample_read(format, fd, way, NULL, NULL, &err);
    if (error >= 0 || err.kind != FERRY_REFUSED || !strstr(err.message, says))
        fail_msg("way %d: %d, kind %d: '%s: %s' does not say '%s'", way, error, err.kind, err.about,
                 err.message, says);
}

bool bundle_sample_noted(const json_t *notes, const char *says)
{
    for (size_t i = 0; i < json_array_size(notes); i++)
        if (strstr(json_string_value(json_array_get(notes, i)), says))
            return true;
    return false;
}
