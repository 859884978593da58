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
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/image.h"
#include "snapshot/inspect.h"
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

static int restore(struct payload *p, const char *path, struct restore_result *result,
                   struct ferry_error *err)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);

    return payload_restore(p, fd, NULL, result, err);
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
    struct payload restored;
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

    payload_init(&restored, "restored");
    succeeds(restore(&restored, path, &load_result, &err), &err);
    assert_int_equal(load_result.bytes, save_result.bytes);
    assert_memory_equal(load_result.root, save_result.root, SHA256_BYTES);
    assert_false(machine_is_running(restored.machine));
    assert_memory_not_equal(machine_config(restored.machine)->generation, generation, 16);
    succeeds(machine_resume(restored.machine, &err), &err);
    assert_true(payload_wait(&restored, "payload: done")); /* and there */
    for (unsigned tick = 6; tick <= 12; tick++) {
        CLEANUP_FREE char *want = payload_tick(&reference, tick);
        CLEANUP_FREE char *got = payload_tick(&restored, tick);
        assert_non_null(want);
        assert_non_null(got);
        assert_string_equal(want, got);
    }
    assert_null(strstr(restored.text, "DAMAGED"));
    assert_null(strstr(restored.text, "BACKWARDS"));
    payload_destroy(&restored);
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
    struct payload restored;
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

    payload_init(&restored, "disky");
    restored.disks[0] = in_folder(new_disk, "new.raw");
    succeeds(restore(&restored, path, &load_result, &err), &err);
    assert_true(restored.in_image[0]);
    assert_int_equal(file_read(new_disk, GIB, &copy, &copy_size, NULL), 0);
    assert_int_equal(copy_size, size);
    assert_memory_equal(copy, content, size);
    succeeds(machine_activate_disks(restored.machine, &err), &err);
    succeeds(machine_resume(restored.machine, &err), &err);
    assert_true(payload_wait(&restored, "tick "));
    payload_destroy(&restored);
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
    succeeds(snapshot_inspect(fd, path, NULL, &json, &err), &err);
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
    succeeds(image_read(fd, path, NULL, 0, NULL, NULL, NULL, &err), &err);
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
        struct payload restored;
        payload_init(&restored, "refused");
        data[places[i]] ^= 0x20;
        assert_int_equal(atomic_file_write(in_folder(bad, "bad.ferry"), data, size, NULL), 0);
        data[places[i]] ^= 0x20;
        assert_true(restore(&restored, bad, &load_result, &err) < 0);
        assert_int_equal(err.kind, FERRY_REFUSED);
        assert_null(restored.machine);
        payload_destroy(&restored);
    }
    assert_int_equal(truncate(bad, (off_t)size / 2), 0);
    struct payload restored;
    payload_init(&restored, "refused");
    assert_true(restore(&restored, bad, &load_result, &err) < 0);
    assert_non_null(strstr(err.message, "ends early"));
    payload_destroy(&restored);
    unlink(path);
    unlink(bad);
}

/* Out through a pipe and in through it, while both sides are at work. */
struct to_pipe {
    struct machine *machine;
    int fd;
    int error;
};

static void *save_to_pipe(void *opaque)
{
    struct to_pipe *job = opaque;
    struct snapshot_result result;

    job->error = snapshot_save_fd(job->machine, job->fd, NULL, NULL, &result, NULL);
    close(job->fd);
    return NULL;
}

static void test_pipe(void **state)
{
    struct payload saved, restored;
    struct restore_result result;
    struct ferry_error err = {0};
    pthread_t thread;
    int ends[2];

    (void)state;
    need_payload();
    payload_init(&saved, "piped");
    succeeds(payload_start(&saved, "ticks=0 fill=4 ws=1", &err), &err);
    assert_true(payload_wait(&saved, "tick 1 "));
    assert_int_equal(pipe(ends), 0);
    struct to_pipe job = {.machine = saved.machine, .fd = ends[1]};
    assert_int_equal(pthread_create(&thread, NULL, save_to_pipe, &job), 0);
    payload_init(&restored, "piped");
    int error = payload_restore(&restored, ends[0], NULL, &result, &err);
    pthread_join(thread, NULL);
    close(ends[0]);
    succeeds(job.error, &err);
    succeeds(error, &err);
    payload_destroy(&saved);
    succeeds(machine_resume(restored.machine, &err), &err);
    assert_true(payload_wait(&restored, "tick 6 "));
    assert_null(strstr(restored.text, "DAMAGED"));
    payload_destroy(&restored);
}

/* Nobody reads, nothing fits: the guest goes on all the same. */
static void test_full_disk(void **state)
{
    struct payload p;
    struct snapshot_result result;
    struct ferry_error err = {0};
    CLEANUP_FD int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

    (void)state;
    need_payload();
    payload_init(&p, "full");
    succeeds(payload_start(&p, "ticks=0 fill=1 ws=1", &err), &err);
    assert_true(payload_wait(&p, "tick 1 "));
    assert_int_equal(snapshot_save_fd(p.machine, full, NULL, NULL, &result, &err), -ENOSPC);
    assert_int_equal(err.kind, FERRY_FAILED);
    assert_true(machine_is_running(p.machine));
    assert_true(payload_wait(&p, "tick 9 "));
    payload_destroy(&p);
}

static void test_cancelled_load(void **state)
{
    struct payload saved, restored;
    struct snapshot_result result;
    struct restore_result load_result;
    struct progress progress = {.cancelled = true};
    struct ferry_error err = {0};
    CLEANUP_FD int fd = memfd_create("image", MFD_CLOEXEC);

    (void)state;
    need_payload();
    payload_init(&saved, "cancelled");
    succeeds(payload_start(&saved, "ticks=0 fill=1 ws=1", &err), &err);
    assert_true(payload_wait(&saved, "tick 1 "));
    succeeds(snapshot_save_fd(saved.machine, fd, NULL, NULL, &result, &err), &err);
    payload_destroy(&saved);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    payload_init(&restored, "cancelled");
    assert_int_equal(payload_restore(&restored, fd, &progress, &load_result, &err), -ECANCELED);
    assert_null(restored.machine);
    payload_destroy(&restored);
}

/* In a child: save to path again and again until killed. */
static void save_for_ever(const char *path)
{
    struct payload p;
    struct snapshot_result result;

    payload_init(&p, "killed");
    if (payload_start(&p, "ticks=0 fill=16 ws=1 rate=20", NULL) || !payload_wait(&p, "tick 1 "))
        _exit(1);
    while (!snapshot_save(p.machine, path, NULL, NULL, &result, NULL))
        continue;
    _exit(1);
}

/* kill -9 at any instant: what has the name is a whole image, the old one or the new. */
static void test_killed_saver(void **state)
{
    char path[PATH_MAX], command[PATH_MAX + 64];

    (void)state;
    need_payload();
    in_folder(path, "k.ferry");
    for (unsigned round = 0; round < 4; round++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child)
            save_for_ever(path);
        for (unsigned i = 0; i < 10000 && access(path, F_OK); i++)
            usleep(1000);
        usleep(round * 37000);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, NULL, 0), child);
        struct ferry_error err = {0};
        CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        succeeds(image_read(fd, path, NULL, 0, NULL, NULL, NULL, &err), &err);
        if (round == 1) /* once more with no old file */
            unlink(path);
    }
    unlink(path);
    snprintf(command, sizeof(command), "rm -f %s/.k.ferry.*.tmp", folder);
    assert_int_equal(system(command), 0);
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
        cmocka_unit_test(test_refused_load),    cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_full_disk),       cmocka_unit_test(test_cancelled_load),
        cmocka_unit_test(test_killed_saver),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
