#include "tests/support/machine_files.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/copy.h"
#include "imagefmt/foreign/sink.h"
#include "imagefmt/foreign/source.h"
#include "tests/support/disk_sample.h"

static const char *const file_content[GUEST_FILE_KINDS] = {"a kernel\n", "an initrd\n", "nvram\n"};

static int give_disk(void *opaque, uint32_t index, struct disk **disk, struct ferry_error *err)
{
    struct machine_files *s = opaque;

    if (s->disk)
        s->disk->format->close(take_ptr(&s->disk));
    int error = disk_format_raw.open(s->sources[index], NULL, &s->disk, err);
    *disk = s->disk;
    return error;
}

void machine_files_add(struct machine_files *s, int raw)
{
    uint32_t i = s->guest.disk_count++;

    s->raw[i] = raw;
    assert_int_equal(source_of_fd(raw, "raw", &s->sources[i], NULL), 0);
    s->guest.disks[i].size_bytes = s->sources[i]->size_bytes;
}

static void add_file(struct machine_files *s, enum guest_file_kind kind)
{
    const char *text = file_content[kind];

    assert_int_equal(source_of_memory(text, strlen(text), text, &s->files[kind], NULL), 0);
    s->content.files[kind] = s->files[kind];
    snprintf(s->guest.files[kind], sizeof(s->guest.files[kind]), "%s", guest_file_name(kind));
}

void machine_files_init(struct machine_files *s, bool kernel, bool sectors)
{
    *s = (struct machine_files){
        .guest =
            {
                .name = "Web-1",
                .os = "debian12",
                .uuid = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
                .cpus = 3,
                .memory_bytes = 768 * MIB,
                .firmware = kernel ? GUEST_FIRMWARE_NONE : GUEST_FIRMWARE_EFI_SECURE,
                .serial_console = true,
                .nic_count = 2,
                .nics = {{.mac = {0x52, 0x54, 0, 1, 2, 3}, .has_mac = true, .model = "virtio"},
                         {.network = "blue", .model = "virtio"}},
            },
        .content = {.disk = give_disk, .reread = true},
    };
    s->content.guest = &s->guest;
    s->content.opaque = s;
    machine_files_add(s, disk_sample_raw(sectors ? 9 * MIB + 512 : 9 * MIB + 777));
    machine_files_add(s, disk_sample_raw(70 * MIB));
    machine_files_add(s, disk_sample_raw(70 * MIB));
    snprintf(s->guest.disks[1].serial, sizeof(s->guest.disks[1].serial), "DATA-1");
    if (kernel) {
        add_file(s, GUEST_KERNEL);
        add_file(s, GUEST_INITRD);
        snprintf(s->guest.append, sizeof(s->guest.append), "console=ttyS0 root=/dev/vda");
    } else {
        add_file(s, GUEST_NVRAM);
    }
}

void machine_files_free(struct machine_files *s)
{
    if (s->disk)
        s->disk->format->close(s->disk);
    for (uint32_t i = 0; i < s->guest.disk_count; i++) {
        source_close(s->sources[i]);
        close(s->raw[i]);
    }
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        source_close(s->files[kind]);
}

/* ---- Writing ---- */

static void write_bundle(const struct machine_files *s, const struct bundle_format *format,
                         const struct bundle_write_options *options,
                         const struct bundle_output *output)
{
    struct bundle_write_result result;
    struct ferry_error err = {0};

    if (format->write(output, &s->content, options, &result, &err))
        fail_msg("%s: %s (%s)", err.about, err.message, err.cause);
    assert_true(result.content_bytes > 0);
    if (output->sink)
        assert_int_equal(result.bytes, output->sink->position);
}

int machine_files_to_file(const struct machine_files *s, const struct bundle_format *format,
                          const struct bundle_write_options *options, bool piped)
{
    int fd = memfd_create("bundle", MFD_CLOEXEC);
    struct fd_sink sink;

    assert_true(fd >= 0);
    sink_of_fd(&sink, fd, "bundle", piped);
    write_bundle(s, format, options,
                 &(struct bundle_output){.sink = &sink.sink, .folder_fd = -1, .about = "bundle"});
    return fd;
}

int machine_files_folder(char path[64])
{
    snprintf(path, 64, "/tmp/ferry-bundle-XXXXXX");
    assert_non_null(mkdtemp(path));
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

void machine_files_remove(const char *path)
{
    machine_files_run("rm -rf '%s'", path);
}

int machine_files_to_folder(const struct machine_files *s, const struct bundle_format *format,
                            const struct bundle_write_options *options, char path[64])
{
    int fd = machine_files_folder(path);

    write_bundle(s, format, options, &(struct bundle_output){.folder_fd = fd, .about = path});
    return fd;
}

/* ---- Reading ---- */

int machine_files_open_file(int fd, const struct bundle_format *format, struct source **source,
                            struct bundle **bundle, struct ferry_error *err)
{
    static struct bundle_input input;

    assert_int_equal(source_of_fd(fd, "bundle", source, NULL), 0);
    input = (struct bundle_input){.source = *source, .folder_fd = -1, .about = "bundle"};
    return format->open(&input, bundle, err);
}

int machine_files_open_folder(int fd, const struct bundle_format *format, struct bundle **bundle,
                              struct ferry_error *err)
{
    static struct bundle_input input;

    input = (struct bundle_input){.folder_fd = fd, .about = "bundle"};
    return format->open(&input, bundle, err);
}

static int compare_disk(const struct machine_files *s, uint32_t index, struct disk *disk,
                        struct ferry_error *err)
{
    const struct disk_copy_options options = {.workers = 2};
    struct disk_copy_result result;
    uint8_t before[SHA256_BYTES];
    uint64_t size;

    int error = disk_digest(disk, disk->size_bytes, &options, &result, err);
    if (error)
        return error;
    disk_sample_digest(s->raw[index], &disk_format_raw, &size, before);
    assert_int_equal(disk->size_bytes, size);
    assert_memory_equal(result.digest, before, SHA256_BYTES);
    return 0;
}

int machine_files_compare(const struct machine_files *s, struct bundle *bundle,
                          struct ferry_error *err)
{
    struct disk *disk;
    uint32_t index;
    int more = 1;

    assert_int_equal(bundle->guest.disk_count, s->guest.disk_count);
    for (uint32_t i = 0; more > 0; i++) {
        more = bundle->format->next_disk(bundle, &index, &disk, err);
        if (more <= 0)
            break;
        assert_int_equal(index, i);
        assert_true(bundle->guest.disks[i].size_bytes == disk->size_bytes);
        int error = compare_disk(s, index, disk, err);
        if (error)
            return error;
    }
    int error = more < 0 ? more : bundle->format->finish(bundle, err);
    for (int kind = 0; !error && kind < GUEST_FILE_KINDS; kind++) {
        assert_int_equal(bundle->files[kind].size, s->files[kind] ? s->files[kind]->size_bytes : 0);
        if (s->files[kind])
            assert_memory_equal(bundle->files[kind].data, file_content[kind],
                                bundle->files[kind].size);
    }
    return error;
}

int machine_files_drain(struct bundle *bundle, struct ferry_error *err)
{
    const struct disk_copy_options options = {.workers = 2};
    struct disk_copy_result result;
    struct disk *disk;
    uint32_t index;
    int more, error = 0;

    while (!error && (more = bundle->format->next_disk(bundle, &index, &disk, err)) != 0)
        error = more < 0 ? more : disk_digest(disk, disk->size_bytes, &options, &result, err);
    return error ? error : bundle->format->finish(bundle, err);
}

void machine_files_run(const char *fmt, ...)
{
    char command[2000];
    va_list args;

    va_start(args, fmt);
    int length = vsnprintf(command, sizeof(command), fmt, args);
    va_end(args);
    assert_true(length > 0 && (size_t)length < sizeof(command));
    if (system(command))
        fail_msg("failed: %s", command);
}
