/*
 * Snapshot and restore of a real KVM machine: the payload guest goes on where it was, files appear
 * whole or not at all, and a refused image leaves no machine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/image.h"
#include "snapshot/inspect.h"
#include "snapshot/manifest.h"
#include "snapshot/snapshot.h"
#include "tests/support/image_sample.h"
#include "tests/support/payload_machine.h"

#define OPTIONS "cpus=2 avx=1 ticks=12 fill=8 ws=4 rate=20 period=50 sum=1"

static char folder[] = "/tmp/ferry-snapshot-XXXXXX";

static const char *in_folder(char path[PATH_MAX], const char *name)
{
    snprintf(path, PATH_MAX, "%s/%s", folder, name);
    return path;
}

static void need_payload(void)
{
    const char *why = payload_impossible();

    if (!why)
        return;
    print_message("SKIPPED: %s\n", why);
    skip();
}

static void succeeds(int error, const struct ferry_error *err)
{
    char text[768];

    if (error)
        fail_msg("error %d: %s", error, ferry_error_text(err, text, sizeof(text)));
}

/* The restoring side: a payload without a machine yet, and where its disks go. */
struct restore {
    struct payload payload;
    bool in_image[LIMIT_DISKS];
    bool created;
    int fds[LIMIT_DISKS];
};

static int create(void *opaque, struct machine_config *config, const bool *disk_in_image,
                  struct machine **out, struct ferry_error *err)
{
    struct restore *r = opaque;
    struct machine_host host;

    memcpy(r->in_image, disk_in_image, sizeof(r->in_image));
    r->payload.config = *config;
    int error = payload_host(&r->payload, config, &host, err);
    if (!error)
        error = machine_create(config, &host, out, err);
    r->created = !error;
    return error;
}

static int disk(void *opaque, uint32_t index, int *fd, struct ferry_error *err)
{
    struct restore *r = opaque;

    r->fds[index] = open(r->payload.disks[index], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    *fd = r->fds[index];
    return *fd < 0 ? ferry_fail_sys(err, -errno, r->payload.disks[index], "cannot create") : 0;
}

static int restore(struct restore *r, const char *path, struct restore_result *result,
                   struct ferry_error *err)
{
    const struct snapshot_host host = {.opaque = r, .create = create, .disk = disk};
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);

    for (unsigned i = 0; i < LIMIT_DISKS; i++)
        r->fds[i] = -1;
    int error = snapshot_load(fd, path, &host, NULL, &r->payload.machine, result, err);
    for (unsigned i = 0; i < LIMIT_DISKS; i++)
        if (r->fds[i] >= 0)
            close(r->fds[i]);
    return error;
}

/* Files in the folder, temporary ones too. */
static unsigned files(void)
{
    DIR *entries = opendir(folder);
    unsigned count = 0;

    for (struct dirent *entry; (entry = readdir(entries));)
        count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    closedir(entries);
    return count;
}

static void test_payload_goes_on(void **state)
{
    struct payload reference, saved;
    struct restore restored = {0};
    struct snapshot_result save_result;
    struct restore_result load_result;
    struct ferry_error err = {0};
    char path[PATH_MAX];

    (void)state;
    need_payload();
    payload_init(&reference, "reference");
    reference.config.cpus = 2;
    succeeds(payload_start(&reference, OPTIONS, &err), &err);
    assert_true(payload_wait(&reference, "payload: done"));

    payload_init(&saved, "saved");
    saved.config.cpus = 2;
    succeeds(payload_start(&saved, OPTIONS, &err), &err);
    assert_true(payload_wait(&saved, "tick 3 "));
    succeeds(
        snapshot_save(saved.machine, in_folder(path, "a.ferry"), NULL, NULL, &save_result, &err),
        &err);
    assert_true(machine_is_running(saved.machine));
    assert_true(save_result.pause_ns > 0 && save_result.pause_ns <= save_result.total_ns);
    assert_true(save_result.content_bytes >= 12 * MIB);
    assert_true(save_result.bytes < save_result.content_bytes);
    assert_true(payload_wait(&saved, "payload: done")); /* it goes on here */
    uint8_t generation[16];
    memcpy(generation, machine_config(saved.machine)->generation, sizeof(generation));
    payload_destroy(&saved);

    payload_init(&restored.payload, "restored");
    succeeds(restore(&restored, path, &load_result, &err), &err);
    assert_int_equal(load_result.bytes, save_result.bytes);
    assert_memory_equal(load_result.root, save_result.root, SHA256_BYTES);
    assert_false(machine_is_running(restored.payload.machine));
    assert_memory_not_equal(machine_config(restored.payload.machine)->generation, generation, 16);
    succeeds(machine_resume(restored.payload.machine, &err), &err);
    assert_true(payload_wait(&restored.payload, "payload: done")); /* and there */
    for (unsigned tick = 6; tick <= 12; tick++) {
        CLEANUP_FREE char *want = payload_tick(&reference, tick);
        CLEANUP_FREE char *got = payload_tick(&restored.payload, tick);
        assert_non_null(want);
        assert_non_null(got);
        assert_string_equal(want, got);
    }
    assert_null(strstr(restored.payload.text, "DAMAGED"));
    assert_null(strstr(restored.payload.text, "BACKWARDS"));
    payload_destroy(&restored.payload);
    payload_destroy(&reference);
    unlink(path);
}

/* A machine that stands still: booted and paused, with one disk of known content. */
static void start_with_disk(struct payload *p, char disk_path[PATH_MAX], uint8_t **content,
                            size_t size)
{
    struct ferry_error err = {0};
    uint64_t seed = 4;

    payload_init(p, "disky");
    *content = calloc(1, size);
    for (size_t i = 0; i < size; i++)
        if ((i >> 18) % 3 == 0 || i > size - 1000)
            (*content)[i] = (uint8_t)sample_random(&seed);
    CLEANUP_FD int fd = open(in_folder(disk_path, "disk.raw"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite_all(fd, *content, size, 0), 0);
    p->disks[0] = disk_path;
    p->config.disk_count = 1;
    p->config.disks[0] = (struct disk_config){.device = "vda", .size_bytes = size};
    snprintf(p->config.disks[0].file_name, sizeof(p->config.disks[0].file_name), "disk.raw");
    succeeds(payload_start(p, "ticks=0 fill=1 ws=1", &err), &err);
    assert_true(payload_wait(p, "tick 1 "));
}

static void test_disk_content(void **state)
{
    const size_t size = 5 * MIB + 512;
    struct payload saved;
    struct restore restored = {0};
    struct snapshot_result save_result;
    struct restore_result load_result;
    struct ferry_error err = {0};
    char path[PATH_MAX], old_disk[PATH_MAX], new_disk[PATH_MAX];
    CLEANUP_FREE uint8_t *content = NULL;
    CLEANUP_FREE uint8_t *copy = NULL;
    size_t copy_size;

    (void)state;
    need_payload();
    start_with_disk(&saved, old_disk, &content, size);
    succeeds(machine_pause(saved.machine, &err), &err);
    succeeds(
        snapshot_save(saved.machine, in_folder(path, "d.ferry"), NULL, NULL, &save_result, &err),
        &err);
    assert_false(machine_is_running(saved.machine)); /* it was paused before */
    payload_destroy(&saved);

    payload_init(&restored.payload, "disky");
    restored.payload.disks[0] = in_folder(new_disk, "new.raw");
    succeeds(restore(&restored, path, &load_result, &err), &err);
    assert_true(restored.in_image[0]);
    assert_int_equal(file_read(new_disk, GIB, &copy, &copy_size, NULL), 0);
    assert_int_equal(copy_size, size);
    assert_memory_equal(copy, content, size);
    succeeds(machine_activate_disks(restored.payload.machine, &err), &err);
    succeeds(machine_resume(restored.payload.machine, &err), &err);
    assert_true(payload_wait(&restored.payload, "tick "));
    payload_destroy(&restored.payload);
    unlink(path);
    unlink(old_disk);
    unlink(new_disk);
}

static void test_inspect(void **state)
{
    struct payload saved;
    struct snapshot_result result;
    struct ferry_error err = {0};
    char path[PATH_MAX];
    json_t *json = NULL;

    (void)state;
    need_payload();
    payload_init(&saved, "inspected");
    succeeds(payload_start(&saved, "ticks=0 fill=1 ws=1", &err), &err);
    assert_true(payload_wait(&saved, "tick 1 "));
    succeeds(snapshot_save(saved.machine, in_folder(path, "i.ferry"), NULL, NULL, &result, &err),
             &err);
    payload_destroy(&saved);
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    succeeds(snapshot_inspect(fd, path, &json, &err), &err);
    const json_t *machine = json_object_get(json_object_get(json, "manifest"), "machine");
    assert_string_equal(json_string_value(json_object_get(machine, "name")), "inspected");
    assert_int_equal(json_integer_value(json_object_get(json, "bytes")), result.bytes);
    const json_t *sections = json_object_get(json, "sections"), *section;
    size_t index;
    bool ram = false;
    json_array_foreach(sections, index, section)
    {
        const char *kind = json_string_value(json_object_get(section, "kind"));
        if (!strcmp(kind, "state"))
            assert_true(json_is_object(json_object_get(section, "state")));
        ram |= !strcmp(kind, "ram");
    }
    assert_true(ram);
    json_decref(json);
    unlink(path);
}

/* Set when the first report of progress comes. */
static void cancel(void *opaque, const struct progress_report *report)
{
    struct progress *progress = opaque;

    (void)report;
    atomic_store(&progress->cancelled, true);
}

static void test_old_file_survives(void **state)
{
    struct payload p;
    struct snapshot_result result;
    struct ferry_error err = {0};
    char path[PATH_MAX];
    CLEANUP_FREE uint8_t *data = NULL;
    size_t size;
    struct rlimit old, limit;

    (void)state;
    need_payload();
    payload_init(&p, "survivor");
    succeeds(payload_start(&p, "ticks=0 fill=8 ws=1", &err), &err);
    assert_true(payload_wait(&p, "tick 1 "));
    assert_int_equal(atomic_file_write(in_folder(path, "s.ferry"), "old", 3, NULL), 0);
    unsigned before = files();

    struct progress progress = {.report = cancel, .opaque = &progress};
    assert_int_equal(snapshot_save(p.machine, path, NULL, &progress, &result, &err), -ECANCELED);
    assert_true(machine_is_running(p.machine));
    assert_int_equal(files(), before);

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = (struct rlimit){100000, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int error = snapshot_save(p.machine, path, NULL, NULL, &result, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(error, -EFBIG);
    assert_int_equal(err.kind, FERRY_FAILED);
    assert_true(machine_is_running(p.machine));
    assert_int_equal(files(), before);
    assert_int_equal(file_read(path, MIB, &data, &size, NULL), 0);
    assert_int_equal(size, 3);

    succeeds(snapshot_save(p.machine, path, NULL, NULL, &result, &err), &err);
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    succeeds(image_read(fd, path, 0, NULL, NULL, NULL, &err), &err);
    assert_int_equal(files(), before);
    payload_destroy(&p);
    unlink(path);
}

static void test_refused_load(void **state)
{
    struct payload saved;
    struct snapshot_result result;
    struct restore_result load_result;
    struct ferry_error err = {0};
    char path[PATH_MAX], bad[PATH_MAX];
    CLEANUP_FREE uint8_t *data = NULL;
    size_t size;

    (void)state;
    need_payload();
    payload_init(&saved, "refused");
    succeeds(payload_start(&saved, "ticks=0 fill=2 ws=1", &err), &err);
    assert_true(payload_wait(&saved, "tick 1 "));
    succeeds(snapshot_save(saved.machine, in_folder(path, "r.ferry"), NULL, NULL, &result, &err),
             &err);
    payload_destroy(&saved);
    assert_int_equal(file_read(path, GIB, &data, &size, NULL), 0);
    const size_t places[] = {40, size / 100, size / 3, size / 2, size - 2000, size - 10};
    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
        struct restore restored = {0};
        payload_init(&restored.payload, "refused");
        data[places[i]] ^= 0x20;
        assert_int_equal(atomic_file_write(in_folder(bad, "bad.ferry"), data, size, NULL), 0);
        data[places[i]] ^= 0x20;
        assert_true(restore(&restored, bad, &load_result, &err) < 0);
        assert_int_equal(err.kind, FERRY_REFUSED);
        assert_null(restored.payload.machine);
        payload_destroy(&restored.payload);
    }
    assert_int_equal(truncate(bad, (off_t)size / 2), 0);
    struct restore restored = {0};
    payload_init(&restored.payload, "refused");
    assert_true(restore(&restored, bad, &load_result, &err) < 0);
    assert_non_null(strstr(err.message, "ends early"));
    payload_destroy(&restored.payload);
    unlink(path);
    unlink(bad);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_payload_goes_on), cmocka_unit_test(test_disk_content),
        cmocka_unit_test(test_inspect),         cmocka_unit_test(test_old_file_survives),
        cmocka_unit_test(test_refused_load),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
