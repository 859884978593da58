/* OCI artifacts: there and back, and other tools as witnesses. */
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
#include "imagefmt/foreign/oci.h"
#include "imagefmt/foreign/source.h"
#include "tests/support/disk_sample.h"
#include "tests/support/machine_files.h"

/* ---- There and back ---- */

static void compare_guests(const struct guest *a, const struct guest *b)
{
    assert_string_equal(a->name, b->name);
    assert_string_equal(a->os, b->os);
    assert_memory_equal(a->uuid, b->uuid, sizeof(a->uuid));
    assert_int_equal(a->cpus, b->cpus);
    assert_int_equal(a->memory_bytes, b->memory_bytes);
    assert_string_equal(a->cpu_model, b->cpu_model);
    assert_int_equal(a->firmware, b->firmware);
    assert_int_equal(a->serial_console, b->serial_console);
    assert_string_equal(a->append, b->append);
    assert_int_equal(a->nic_count, b->nic_count);
    for (uint32_t i = 0; i < a->nic_count; i++) {
        assert_int_equal(a->nics[i].has_mac, b->nics[i].has_mac);
        assert_memory_equal(a->nics[i].mac, b->nics[i].mac, 6);
        assert_string_equal(a->nics[i].network, b->nics[i].network);
        assert_string_equal(a->nics[i].model, b->nics[i].model);
    }
    for (uint32_t i = 0; i < a->disk_count; i++) {
        assert_string_equal(a->disks[i].serial, b->disks[i].serial);
        assert_int_equal(a->disks[i].bus, b->disks[i].bus);
        assert_int_equal(a->disks[i].readonly, b->disks[i].readonly);
    }
}

static void check_file(const struct machine_files *s, int fd)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    struct ferry_error err = {0};
    struct bundle *bundle;

    if (machine_files_open_file(fd, &bundle_oci, &source, &bundle, &err))
        fail_msg("%s: %s", err.about, err.message);
    assert_int_equal(json_array_size(bundle->notes), 0);
    compare_guests(&s->guest, &bundle->guest);
    if (machine_files_compare(s, bundle, &err))
        fail_msg("%s: %s", err.about, err.message);
    bundle->format->close(bundle);
}

static void check_folder(const struct machine_files *s, int fd)
{
    struct ferry_error err = {0};
    struct bundle *bundle;

    if (machine_files_open_folder(fd, &bundle_oci_folder, &bundle, &err))
        fail_msg("%s: %s", err.about, err.message);
    compare_guests(&s->guest, &bundle->guest);
    if (machine_files_compare(s, bundle, &err))
        fail_msg("%s: %s", err.about, err.message);
    bundle->format->close(bundle);
}

static bool same_files(int one, int two)
{
    char command[100];

    snprintf(command, sizeof(command), "cmp -s /proc/%d/fd/%d /proc/%d/fd/%d", getpid(), one,
             getpid(), two);
    return system(command) == 0;
}

static void test_round_trips(void **state)
{
    const struct bundle_write_options options = {.workers = 2, .digest = true};
    const struct bundle_write_options whole = {.workers = 2, .whole = true};
    char path[64];

    (void)state;
    for (int kernel = 0; kernel < 2; kernel++) {
        struct machine_files s;
        machine_files_init(&s, kernel, false);
        CLEANUP_FD int file = machine_files_to_file(&s, &bundle_oci, &options, false);
        CLEANUP_FD int again = machine_files_to_file(&s, &bundle_oci, &options, false);
        CLEANUP_FD int pipe = machine_files_to_file(&s, &bundle_oci, &options, true);
        CLEANUP_FD int twice = machine_files_to_file(&s, &bundle_oci, &whole, true);
        CLEANUP_FD int folder = machine_files_to_folder(&s, &bundle_oci_folder, &options, path);
        check_file(&s, file);
        check_file(&s, pipe);
        check_file(&s, twice);
        check_folder(&s, folder);
        assert_true(same_files(file, again));
        machine_files_remove(path);
        machine_files_free(&s);
    }
}

static int noisy_disk(uint64_t noise, uint64_t size)
{
    int fd = memfd_create("noise", MFD_CLOEXEC);
    CLEANUP_FREE uint64_t *words = malloc(MIB);
    uint64_t state = 88172645463325252u;

    assert_non_null(words);
    for (uint64_t at = 0; at < noise; at += MIB) {
        for (size_t i = 0; i < MIB / 8; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            words[i] = state ^= state << 17;
        }
        assert_int_equal(pwrite_all(fd, words, MIB, at), 0);
    }
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    return fd;
}

static void test_pieces(void **state)
{
    const struct bundle_write_options options = {.workers = 2, .level = 1};
    CLEANUP(source_cleanup) struct source *source = NULL;
    struct container_index *index = NULL;
    struct machine_files s;

    (void)state;
    machine_files_init(&s, false, false);
    machine_files_add(&s, noisy_disk(100 * MIB, 100 * MIB + 1));
    machine_files_add(&s, noisy_disk(MIB, 1200 * GIB));
    CLEANUP_FD int fd = machine_files_to_file(&s, &bundle_oci, &options, true);
    check_file(&s, fd);
    /* layout, index, manifest, config, nvram; disks 0, 1 and 2, of which two are equal; 3 pieces
     * each of the others */
    assert_int_equal(source_of_fd(fd, "pieces", &source, NULL), 0);
    assert_int_equal(container_index_tar(source, LIMIT_OCI_MEMBERS, &index, NULL), 0);
    assert_int_equal(container_members(index), 5 + 2 + 3 + 3);
    for (uint64_t i = 0; i < container_members(index); i++)
        assert_true(container_member(index, i)->size_bytes <= 64 * MIB);
    container_index_close(index);
    machine_files_free(&s);
}

static void test_holes_cost_nothing(void **state)
{
    const struct bundle_write_options options = {.workers = 2};
    struct machine_files s;
    struct stat st;

    (void)state;
    machine_files_init(&s, false, false);
    machine_files_add(&s, noisy_disk(0, 100 * GIB));
    CLEANUP_FD int fd = machine_files_to_file(&s, &bundle_oci, &options, false);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_size < (off_t)(5 * MIB));
    check_file(&s, fd);
    machine_files_free(&s);
}

/* ---- Witnesses ---- */

static void test_skopeo(void **state)
{
    const struct bundle_write_options options = {.workers = 2, .digest = true};
    const struct bundle_write_options piped = {.workers = 2};
    struct machine_files s;
    char path[64], copy[64];

    (void)state;
    machine_files_init(&s, false, false);
    close(machine_files_to_folder(&s, &bundle_oci_folder, &options, path));
    CLEANUP_FD int copied = machine_files_folder(copy);
    CLEANUP_FD int tar = machine_files_to_file(&s, &bundle_oci, &options, false);
    CLEANUP_FD int pipe = machine_files_to_file(&s, &bundle_oci, &piped, true);

    machine_files_run("cd %s/blobs/sha256 && for f in *; do echo \"$f  $f\"; done | sha256sum "
                      "--quiet -c",
                      path);
    machine_files_run("skopeo inspect --raw oci:%s | grep -q '%s'", path, KUBEVIRT_TYPE_DISK);
    machine_files_run("skopeo inspect --raw --config oci:%s | grep -q '\"masquerade\"'", path);
    machine_files_run("skopeo --insecure-policy copy -q oci:%s oci:%s/again", path, copy);
    CLEANUP_FD int again = openat(copied, "again", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    check_folder(&s, again);
    for (int i = 0; i < 2; i++) {
        int fd = i ? pipe : tar;
        machine_files_run("tar tvf /proc/%d/fd/%d > %s/list && cp /proc/%d/fd/%d %s/x.oci.tar",
                          getpid(), fd, copy, getpid(), fd, copy);
        machine_files_run("skopeo --insecure-policy copy -q oci-archive:%s/x.oci.tar dir:%s/dir%d",
                          copy, copy, i);
        machine_files_run("skopeo --insecure-policy copy -q oci-archive:%s/x.oci.tar "
                          "oci-archive:%s/y%d.tar",
                          copy, copy, i);
        char name[100];
        snprintf(name, sizeof(name), "%s/y%d.tar", copy, i);
        CLEANUP_FD int theirs = open(name, O_RDONLY | O_CLOEXEC);
        check_file(&s, theirs);
    }
    machine_files_remove(copy);
    machine_files_remove(path);
    machine_files_free(&s);
}

/* What unpacks a layer gets the disk. */
static void test_zstd(void **state)
{
    const struct bundle_write_options options = {.workers = 2};
    struct machine_files s;
    char path[64];

    (void)state;
    machine_files_init(&s, true, false);
    close(machine_files_to_folder(&s, &bundle_oci_folder, &options, path));
    for (uint32_t i = 0; i < s.guest.disk_count; i++)
        machine_files_run("cd %s/blobs/sha256 && m=$(grep -l artifactType *) && "
                          "l=$(python3 -c 'import json,sys; print([l[\"digest\"][7:] for l in "
                          "json.load(open(sys.argv[1]))[\"layers\"] if l[\"annotations\"].get("
                          "\"io.kubevirt.disk.name\") == sys.argv[2]][0])' $m disk%u) && "
                          "zstd -qt < $l && zstd -qdc < $l | cmp - /proc/%d/fd/%d",
                          path, i, getpid(), s.raw[i]);
    machine_files_remove(path);
    machine_files_free(&s);
}

/* ---- Around it ---- */

static void test_options(void **state)
{
    const struct bundle_write_options bad[] = {
        {.disk_format = "qcow2"}, {.codec = "zlib"}, {.whole = true}};
    struct bundle_write_result result;
    struct machine_files s;

    (void)state;
    machine_files_init(&s, false, false);
    s.content.reread = false;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct sink sink = {.write = NULL, .about = "pipe"}; /* not a byte may be written */
        struct bundle_output output = {.sink = &sink, .folder_fd = -1, .about = "pipe"};
        struct ferry_error err = {0};
        assert_true(bundle_oci.write(&output, &s.content, &bad[i], &result, &err) < 0);
        assert_int_equal(err.kind, FERRY_USAGE);
    }
    machine_files_free(&s);
}

static void test_losses(void **state)
{
    struct machine_files s;
    json_t *notes = json_array();

    (void)state;
    machine_files_init(&s, true, false);
    s.guest.disks[2].bus = GUEST_BUS_NVME;
    snprintf(s.guest.cpu_model, sizeof(s.guest.cpu_model), "x86-64-v2");
    assert_int_equal(bundle_oci.losses(&s.content, notes, NULL), 0);
    /* the bus, the second network, the CPU model, direct boot, two layers */
    assert_int_equal(json_array_size(notes), 6);
    json_decref(notes);
    machine_files_free(&s);
}

static void test_probe(void **state)
{
    const struct bundle_write_options options = {.workers = 1};
    CLEANUP(source_cleanup) struct source *source = NULL;
    const struct bundle_format *format = NULL;
    struct machine_files s;
    char path[64];

    (void)state;
    machine_files_init(&s, true, false);
    CLEANUP_FD int folder = machine_files_to_folder(&s, &bundle_oci_folder, &options, path);
    CLEANUP_FD int file = machine_files_to_file(&s, &bundle_oci, &options, true);
    struct bundle_input input = {.folder_fd = folder, .about = path};
    assert_int_equal(bundle_format_probe(&input, &format, NULL), 0);
    assert_ptr_equal(format, &bundle_oci_folder);
    assert_int_equal(source_of_fd(file, "file", &source, NULL), 0);
    input = (struct bundle_input){.source = source, .folder_fd = -1, .about = "file"};
    assert_int_equal(bundle_format_probe(&input, &format, NULL), 0);
    assert_ptr_equal(format, &bundle_oci);
    assert_ptr_equal(bundle_format_by_extension("a/b.oci.tar"), &bundle_oci);
    machine_files_remove(path);
    machine_files_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_holes_cost_nothing),
        cmocka_unit_test(test_skopeo),
        cmocka_unit_test(test_zstd),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_losses),
        cmocka_unit_test(test_probe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
