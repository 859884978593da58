/* Machines from elsewhere: what becomes of their description, disks and files, and what must not.
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
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "imagefmt/content.h"
#include "imagefmt/foreign/source.h"
#include "snapshot/describe.h"
#include "snapshot/import.h"
#include "snapshot/unpack.h"

#define DISK_BYTES (3 * MIB + 700)

/* A machine with all that a description can have. */
static struct guest rich_guest(void)
{
    struct guest guest = {.os = "Debian GNU/Linux 12",
                          .uuid = {1, 2, 3},
                          .cpus = 3,
                          .memory_bytes = 768 * MIB,
                          .cpu_model = "x86-64-v2",
                          .firmware = GUEST_FIRMWARE_EFI_SECURE,
                          .serial_console = true,
                          .append = "console=ttyS0",
                          .disk_count = 2,
                          .nic_count = 1};

    guest_set_name(&guest, "web");
    guest.disks[0] =
        (struct guest_disk){.serial = "S1", .size_bytes = DISK_BYTES, .bus = GUEST_BUS_SATA};
    guest.disks[1] =
        (struct guest_disk){.size_bytes = MIB, .readonly = true, .bus = GUEST_BUS_NVME};
    guest.nics[0] = (struct guest_nic){
        .mac = {0x52, 0x54, 0, 1, 2, 3}, .has_mac = true, .network = "lan", .model = "e1000"};
    return guest;
}

/* ---- A source of two disks ---- */

struct fake {
    struct guest guest;
    struct source *sources[2];
    struct disk *disks[2];
    uint8_t content[2][DISK_BYTES];
    unsigned next, order[3], count; /* of disks, as they come */
    bool fails_at_end;
    bool in_order;
};

static int next_disk(void *opaque, uint32_t *index, struct disk **disk, struct ferry_error *err)
{
    struct fake *f = opaque;

    (void)err;
    if (f->next == f->count)
        return 0;
    *index = f->order[f->next++];
    *disk = f->disks[*index & 1];
    return 1;
}

static int finish(void *opaque, struct ferry_error *err)
{
    const struct fake *f = opaque;

    return f->fails_at_end ? ferry_refuse(err, -EBADMSG, "fake", "a sum is wrong") : 0;
}

static void give_file(void *opaque, enum guest_file_kind kind, const uint8_t **data, size_t *size)
{
    (void)opaque;
    *data = kind == GUEST_NVRAM ? (const uint8_t *)"variables" : NULL;
    *size = kind == GUEST_NVRAM ? strlen("variables") : 0;
}

static struct fake *make_fake(void)
{
    struct fake *f = calloc(1, sizeof(*f));
    const struct disk_open_options options = {0};

    assert_non_null(f);
    f->guest = rich_guest();
    for (size_t i = 0; i < DISK_BYTES; i++)
        f->content[0][i] = i / 300000 % 2 ? (uint8_t)(i * 7 / 5) : 0;
    memset(f->content[1] + 5000, 'x', 20000);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(source_of_memory(f->content[i], f->guest.disks[i].size_bytes, "fake",
                                          &f->sources[i], NULL),
                         0);
        assert_int_equal(disk_format_raw.open(f->sources[i], &options, &f->disks[i], NULL), 0);
    }
    f->order[1] = 1;
    f->count = 2;
    return f;
}

static void free_fake(struct fake *f)
{
    for (unsigned i = 0; i < 2; i++) {
        disk_format_raw.close(f->disks[i]);
        source_close(f->sources[i]);
    }
    free(f);
}

/* Into a memfd. */
static int import(struct fake *f, int *fd, json_t *notes, struct ferry_error *err)
{
    const struct import_source source = {.guest = &f->guest,
                                         .next_disk = next_disk,
                                         .finish = finish,
                                         .file = give_file,
                                         .opaque = f,
                                         .about = "fake"};
    const struct snapshot_options options = {.workers = 2};
    struct snapshot_result result;

    *fd = memfd_create("image", MFD_CLOEXEC);
    assert_true(*fd >= 0);
    for (unsigned i = 0; i < 2; i++)
        f->disks[i]->in_order = f->in_order;
    return snapshot_import(*fd, &source, &options, NULL, &result, notes, err);
}

/* ---- Tests ---- */

static void expect_disk(struct image *image, const char *name, const uint8_t *content, size_t size)
{
    int64_t section = image_find(image, IMAGE_DISK, name);
    CLEANUP_FREE uint8_t *data = malloc(DISK_BYTES + 512);

    assert_true(section >= 0);
    uint64_t whole = image_section(image, (uint32_t)section)->size;
    assert_int_equal(whole, (size + 511) / 512 * 512);
    assert_int_equal(image_pread(image, (uint32_t)section, 0, data, whole, NULL), 0);
    assert_memory_equal(data, content, size);
    for (size_t i = size; i < whole; i++)
        assert_int_equal(data[i], 0);
}

static void round_trip(bool in_order, bool reversed)
{
    struct fake *f = make_fake();
    json_t *notes = json_array();
    CLEANUP_FREE struct manifest *manifest = calloc(1, sizeof(*manifest));
    CLEANUP(image_cleanup) struct image *image = NULL;
    CLEANUP_FD int fd = -1, nvram = -1;
    struct guest back;
    char text[10] = "";

    f->in_order = in_order;
    f->order[0] = reversed;
    f->order[1] = !reversed;
    assert_int_equal(import(f, &fd, notes, NULL), 0);
    assert_int_equal(image_open(fd, "memory", NULL, &image, NULL), 0);
    expect_disk(image, "vda", f->content[0], DISK_BYTES);
    expect_disk(image, "vdb", f->content[1], MIB);
    assert_int_equal(unpack_file(image, "nvram", &nvram, NULL), 0);
    assert_int_equal(pread(nvram, text, 9, 0), 9);
    assert_string_equal(text, "variables");

    /* Everything but what ferry changes, and said so, is as it was. */
    assert_int_equal(unpack_manifest(image, "memory", manifest, NULL), 0);
    assert_true(manifest->stopped);
    describe_guest(manifest, false, &back);
    struct guest expected = f->guest;
    expected.disks[0].size_bytes = (DISK_BYTES + 511) / 512 * 512;
    assert_memory_equal(&back, &expected, sizeof(back));
    assert_true(json_array_size(notes) >= 3);
    json_decref(notes);
    free_fake(f);
}

static void test_round_trip(void **unused)
{
    (void)unused;
    round_trip(false, false);
    round_trip(false, true);
    round_trip(true, false);
}

static void expect_refused(struct fake *f, const char *text)
{
    struct ferry_error err = {0};
    json_t *notes = json_array();
    CLEANUP_FD int fd = -1;

    assert_true(import(f, &fd, notes, &err) < 0);
    assert_int_equal(err.kind, FERRY_REFUSED);
    if (!strstr(err.message, text))
        fail_msg("'%s' is not in '%s'", text, err.message);
    /* And it is no image. */
    struct image *image = NULL;
    assert_true(image_open(fd, "memory", NULL, &image, NULL) < 0);
    json_decref(notes);
    free_fake(f);
}

static void test_refused(void **unused)
{
    struct fake *f = make_fake();

    (void)unused;
    f->count = 1;
    expect_refused(f, "disk vdb is missing");
    f = make_fake();
    f->order[1] = 0;
    expect_refused(f, "a disk that it does not describe");
    f = make_fake();
    f->order[1] = 7;
    expect_refused(f, "a disk that it does not describe");
    f = make_fake();
    f->guest.disks[1].size_bytes = 2 * MIB;
    expect_refused(f, "disk vdb has 1048576 bytes; the description says 2097152");
    f = make_fake();
    f->fails_at_end = true;
    expect_refused(f, "a sum is wrong");
}

/* Text that a manifest cannot have becomes text that it can, and the image is one that loads. */
static void test_control_characters(void **unused)
{
    struct fake *f = make_fake();
    json_t *notes = json_array();
    CLEANUP_FREE struct manifest *manifest = calloc(1, sizeof(*manifest));
    CLEANUP(image_cleanup) struct image *image = NULL;
    CLEANUP_FD int fd = -1;

    (void)unused;
    strcpy(f->guest.disks[0].serial, "a\tb");
    strcpy(f->guest.append, "quiet\nsingle");
    strcpy(f->guest.os, "x\x7fy");
    strcpy(f->guest.nics[0].network, "\x01");
    strcpy(f->guest.nics[0].model, "\xff\xfe");
    assert_int_equal(import(f, &fd, notes, NULL), 0);
    assert_int_equal(image_open(fd, "memory", NULL, &image, NULL), 0);
    assert_int_equal(unpack_manifest(image, "memory", manifest, NULL), 0);
    assert_string_equal(manifest->machine.disks[0].serial, "a b");
    assert_string_equal(manifest->machine.append, "quiet single");
    assert_string_equal(manifest->traits.os, "x y");
    assert_int_equal(manifest->traits.nic_count, 1);
    assert_string_equal(manifest->traits.nics[0].network, " ");
    assert_string_equal(manifest->traits.nics[0].model, "  ");
    json_decref(notes);
    free_fake(f);
}

/* Words in a manifest that nobody wrote. */
static void test_hostile_traits(void **unused)
{
    static const char *const bad[] = {
        "[]",
        "{\"nics\": 1}",
        "{\"nics\": [1]}",
        "{\"nics\": [{\"mac\": \"52:54\"}]}",
        "{\"nics\": [{\"mac\": \"52:54:00:00:00:0g\"}]}",
        "{\"nics\": [{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}]}",
        "{\"buses\": [\"floppy\"]}",
        "{\"buses\": {}}",
        "{\"uuid\": \"12\"}",
        "{\"os\": \"a\\u0001b\"}",
        "{\"os\": \"0123456789012345678901234567890123456789012345678901234567890123\"}",
    };
    struct machine_traits traits;
    struct ferry_error err;

    (void)unused;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        json_t *json = json_loads(bad[i], 0, NULL);
        assert_non_null(json);
        assert_int_equal(machine_traits_from_json(json, "x", &traits, &err), -EBADMSG);
        assert_int_equal(err.kind, FERRY_REFUSED);
        json_decref(json);
    }
    json_t *empty = json_object();
    assert_int_equal(machine_traits_from_json(empty, "x", &traits, NULL), 0);
    assert_true(traits.known);
    json_decref(empty);
    assert_int_equal(machine_traits_from_json(NULL, "x", &traits, NULL), 0);
    assert_false(traits.known);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_control_characters),
        cmocka_unit_test(test_hostile_traits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
